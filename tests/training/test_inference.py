import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny
import torch
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    AutoTokenizer,
    BertTokenizerFast,
    Wav2Vec2FeatureExtractor,
)
from typer.testing import CliRunner

from annot_hf.cli import app as cli, steps as cli_steps
from annot_hf.data.export import export_corpus, read_export
from annot_hf.data.predictions import Predictions
from annot_hf.data.simulate import SimulatedCorpus
from annot_hf.data.targets import Ratings, item_seeds
from annot_hf.data.votes import VoteTable
from annot_hf.models.measures import jsd
from annot_hf.models.trunks import build_trunk
from annot_hf.models.waves import AudioError
from annot_hf.training import features as features_module, inference
from annot_hf.training.checkpoints import load_model
from annot_hf.training.inference import predict, predict_inputs
from annot_hf.training.inputs import read_inputs
from annot_hf.training.train import train


def changed(folder, **fields):
    """A checkpoint whose configuration says something else."""
    config = json.loads((folder / "config.json").read_text()) | fields
    if "id2label" in fields:
        config["label2id"] = {label: code for code, label in fields["id2label"].items()}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("kind", ["annotator", "distribution"])
def test_predictions_come_in_item_order_whatever_the_batches(checkpoints, corpus, features, kind):
    found, targets = predict(checkpoints[kind], corpus, features=features)
    assert found.items.tolist() == targets.items.tolist() and found.support == targets.support
    np.testing.assert_allclose(found.probs.sum(1), 1)
    for batch_size in (1, 2):
        other, _ = predict(checkpoints[kind], corpus, features=features, batch_size=batch_size)
        np.testing.assert_allclose(other.probs, found.probs, atol=1e-5)
        assert other.items.tolist() == found.items.tolist()
        assert other.rater_names.tolist() == found.rater_names.tolist()
        np.testing.assert_allclose(other.rater_values, found.rater_values, atol=1e-5)
    np.testing.assert_allclose(found.meta["marginal"], load_model(checkpoints[kind])[2]["marginal"])


def test_raters_who_voted_are_asked_and_named(checkpoints, corpus, features, tmp_path):
    found, targets = predict(checkpoints["annotator"], corpus, features=features)
    names = [targets.annotators[code] for code in targets.ratings.annotator]
    assert found.rater_names.tolist() == names
    assert found.rater_items.tolist() == targets.ratings.item.tolist()
    assert not found.rater_fallback.any()
    found.save(tmp_path)
    np.testing.assert_array_equal(Predictions.load(tmp_path).rater_values, found.rater_values)


def test_unseen_raters_are_marked_named_and_answered_by_the_consensus(copied, corpus, features):
    names = json.loads((copied["annotator"] / "config.json").read_text())["annotators"]
    stranger = names[0]
    found, _ = predict(
        changed(copied["annotator"], annotators=["somebody else", *names[1:]]), corpus, features=features
    )
    unseen = found.rater_names == stranger
    assert unseen.any() and (found.rater_fallback == unseen).all()
    np.testing.assert_allclose(found.rater_values[unseen], found.consensus[found.rater_items[unseen]], atol=1e-6)


def test_renamed_raters_leave_the_distribution_to_the_panel(copied, corpus, features):
    names = json.loads((copied["annotator"] / "config.json").read_text())["annotators"]
    folder = changed(copied["annotator"], annotators=[f"{name} elsewhere" for name in names])
    model, processor, _ = load_model(folder)
    for heads in model.raters:  # two epochs have hardly told the raters apart
        torch.nn.init.normal_(heads.table)
    model.save_pretrained(folder)
    found, targets = predict(folder, corpus, features=features)
    assert found.rater_fallback.all()
    clips = read_export(corpus).items.set_index("item")["audio"][targets.items]
    frames = [torch.from_numpy(read_inputs([clip], model.config.trunk_config, processor).read(clip)) for clip in clips]
    for row, seed in enumerate(item_seeds(targets.items)):
        with torch.inference_mode():
            alone = model(input_features=frames[row][None], item_seed=torch.tensor([int(seed)]))
        np.testing.assert_allclose(found.probs[row], alone.probs[0], atol=2e-3)  # kept features are halves


def test_items_of_anonymous_raters_are_put_to_the_panel(copied, corpus, features, monkeypatch):
    folder = changed(copied["annotator"], max_panel=2)

    def anonymous(path):
        exported = read_export(path)
        stock = exported.targets

        def targets(*arguments, **options):
            found = stock(*arguments, **options)
            none = Ratings(found.ratings.item[:0], found.ratings.annotator[:0], found.ratings.value[:0])
            return replace(found, ratings=none, annotators=())

        object.__setattr__(exported, "targets", targets)
        return exported

    monkeypatch.setattr(inference, "read_export", anonymous)
    found, _ = predict(folder, corpus, features=features)
    panel = load_model(folder)[0].config.annotators[:2]
    assert found.rater_names.tolist() == panel * len(found) and not found.rater_fallback.any()


class Again(SimulatedCorpus):
    """Every rater votes twice on the emotion of a clip."""

    def read_votes(self):
        votes = super().read_votes()
        return VoteTable.concat([votes, votes.select(questions=["emotion"])])


def test_a_rater_who_votes_again_answers_once_and_each_vote_counts(corpus, small_run, features, tmp_path):
    export_corpus(Again(corpus.parent / "simulated"), tmp_path / "export")
    again = {"corpus": str(tmp_path / "export"), "question": "emotion", "num_train_epochs": 1}
    model = train(small_run("annotator", tmp_path / "run", **again)).model
    found, targets = predict(model, tmp_path / "export", features=features)
    assert (
        len(targets.ratings)
        == 2 * len(found.rater_items)
        == 2 * len(set(zip(found.rater_items, found.rater_names, strict=True)))
    )
    cli_steps.write_report([found.save(tmp_path / "predictions")], tmp_path / "export", tmp_path / "report")
    scores = json.loads((tmp_path / "report" / "report.json").read_text())["evaluation"]
    assert scores["counts"]["rater_votes"] == 2 * scores["counts"]["rater_votes_repeated"] == len(targets.ratings)
    assert (
        f"{len(found.rater_items)} of the votes are repeated votes" in (tmp_path / "report" / "report.md").read_text()
    )


@pytest.mark.parametrize("kind", ["annotator", "distribution"])
def test_clips_that_no_corpus_knows(checkpoints, corpus, features, kind):
    exported = read_export(corpus)
    clips = exported.items.set_index("item")["audio"]
    model, processor, _ = load_model(checkpoints[kind])
    expected, targets = predict(checkpoints[kind], corpus, features=features)
    found = predict_inputs(model, processor, list(clips[targets.items]), batch_size=2)
    assert found.items.tolist() == [str(number) for number in range(len(targets))]
    if kind == "distribution":
        np.testing.assert_allclose(found.probs, expected.probs, atol=2e-3)  # features of an exported corpus are halves
    else:
        assert found.rater_names.tolist() == model.config.annotators * len(targets)
        np.testing.assert_allclose(found.consensus, expected.consensus, atol=2e-3)


def test_texts_that_no_corpus_knows(bert_folder):
    model, tokenizer = tiny.distribution("bert"), AutoTokenizer.from_pretrained(bert_folder)
    texts = ["so good !", "bad", "very very bad !"]
    found = predict_inputs(model, tokenizer, texts, batch_size=2)
    with torch.inference_mode():
        one = model(**tokenizer(["bad"], return_tensors="pt")).probs[0].numpy()
    np.testing.assert_allclose(found.probs[1], one, atol=1e-5)
    assert found.items.tolist() == ["0", "1", "2"] and found.support == ("angry", "happy", "sad")


def test_padded_batches_of_clips_need_no_package(over_trunk, wavlm_folder, tmp_path):
    """The library's extractors give no mask unless told, and some pad on the left; the trunk was trained with neither."""
    source = shutil.copytree(wavlm_folder, tmp_path / "trunk")
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False, padding_side="left").save_pretrained(
        source
    )
    folder = train(over_trunk(source, max_steps=1)).model
    generator = np.random.default_rng(0)
    waves = [generator.uniform(-1, 1, size).astype(np.float32) for size in (4000, 9000, 16000)]
    clips = [tmp_path / f"{len(wave)}.wav" for wave in waves]
    for clip, wave in zip(clips, waves, strict=True):
        soundfile.write(clip, wave, 16000, subtype="FLOAT")
    extractor, model = AutoFeatureExtractor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    batch = extractor(waves, sampling_rate=16000, padding=True, return_tensors="pt")
    found = predict_inputs(*load_model(folder)[:2], clips)
    with torch.inference_mode():
        np.testing.assert_allclose(model(**batch).probs, found.probs, atol=1e-5)
        for row, wave in enumerate(waves):
            alone = model(**extractor(wave, sampling_rate=16000, return_tensors="pt")).probs[0]
            np.testing.assert_allclose(alone, found.probs[row], atol=1e-5)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_padded_batches_of_texts_need_no_package(recipe, bert_folder, tmp_path, pooling):
    source = shutil.copytree(bert_folder, tmp_path / "trunk")
    BertTokenizerFast(
        vocab_file=str(source / "words.txt"),
        padding_side="left",
        model_input_names=["input_ids", "token_type_ids"],
        model_max_length=int(1e30),
    ).save_pretrained(source)
    folder = train(recipe("text-ldl", trunk=str(source), pooling=pooling)).model
    texts = ["bad", "so good !", "good " * 600]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    assert batch["input_ids"].shape == (3, 512)  # as many as the trunk has positions
    found = predict_inputs(*load_model(folder)[:2], texts)
    with torch.inference_mode():
        np.testing.assert_allclose(model(**batch).probs, found.probs, atol=1e-5)


def question(copied, **fields):
    return [json.loads((copied / "config.json").read_text())["questions"][0] | fields]


def test_a_corpus_that_asks_something_else_is_one_sentence(copied, corpus, features):
    folder = copied["distribution"]
    others = (
        (
            question(folder, labels=["anger", "happy", "neutral", "calm"]),
            "'emotion' has labels anger, happy, neutral, calm and",
        ),
        (question(folder, name="mood"), "mood"),
    )
    for questions, message in others:
        numbered = dict(enumerate(questions[0]["labels"]))
        with pytest.raises(ValueError, match=message):
            predict(changed(folder, questions=questions, id2label=numbered), corpus, features=features)
    with pytest.raises(ValueError, match="id2label is .* and the questions' answers are anger, happy, neutral, calm"):
        predict(changed(folder, questions=others[0][0], id2label={0: "anger", 1: "happy"}), corpus, features=features)
    folder = copied["annotator"]
    scales = json.loads((folder / "config.json").read_text())["questions"]
    with pytest.raises(ValueError, match="has scale 1 to 7 and the corpus's has scale 1 to 5; name a corpus with"):
        predict(changed(folder, questions=[scales[0] | {"high": 7}, scales[1]]), corpus, features=features)


def test_labels_in_another_order_go_by_name(copied, corpus, features, tmp_path):
    folder = copied["distribution"]
    stock, targets = predict(folder, corpus, features=features)
    turned = stock.support[::-1]
    assert turned != targets.support == stock.support
    other = changed(folder, questions=question(folder, labels=turned), id2label=dict(enumerate(turned)))
    found, targets = predict(other, corpus, features=features)
    assert found.support == turned and targets.support == stock.support
    np.testing.assert_allclose(found.probs, stock.probs)  # the same columns, called otherwise
    cli_steps.write_report([found.save(tmp_path / "predictions")], corpus, tmp_path / "report")
    told = json.loads((tmp_path / "report" / "report.json").read_text())["evaluation"]["measures"]["items"]["jsd"][
        "systems"
    ]
    assert told["model"]["value"] == pytest.approx(jsd(found.probs[:, ::-1], targets.probs).mean())
    marginal = np.array(stock.meta["marginal"])[::-1]
    assert told["marginal"]["value"] == pytest.approx(jsd(marginal[None], targets.probs).mean())


def test_what_is_missing_is_one_sentence(checkpoints, copied, corpus, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is not a checkpoint folder: it has no config\.json"):
        predict(tmp_path / "nowhere", corpus)
    with pytest.raises(ValueError, match="has no split 'dev'; it has test, train, validation"):
        predict(checkpoints["distribution"], corpus, split="dev")
    with pytest.raises(ValueError, match="is not an exported corpus"):
        predict(checkpoints["distribution"], tmp_path)
    folder = copied["distribution"]
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no readable safetensors"):
        load_model(folder)
    build_trunk(tiny.trunk_config("bert")).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="holds a BertModel; give a checkpoint trained with annot-hf"):
        load_model(tmp_path / "bert")


def test_features_are_kept_per_split(checkpoints, corpus, tmp_path):
    """The splits have equally many clips, which must not make them share features."""
    for split in ("test", "validation", "test"):
        predict(checkpoints["distribution"], corpus, split=split, features=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_corpus_whose_folder_cannot_be_written_is_predicted(checkpoints, corpus, tmp_path):
    locked = shutil.copytree(corpus, tmp_path / "locked" / "export")
    (tmp_path / "locked" / "features").touch()  # root writes into read-only folders, but makes no folder of a file
    with pytest.raises(ValueError, match="Features cannot be kept in .*locked/features .*--features or features="):
        predict(checkpoints["distribution"], locked)
    words = ["predict", checkpoints["distribution"], "--corpus", locked, "--out", tmp_path / "run" / "predictions"]
    assert CliRunner().invoke(cli.app, [str(word) for word in words]).exit_code == 0
    assert list((tmp_path / "run" / "features").rglob("*.safetensors"))


def test_a_corrupt_clip_is_named_and_the_rest_is_kept(checkpoints, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(features_module, "SHARD_ITEMS", 2)
    copy = shutil.copytree(corpus, tmp_path / "export")
    exported = read_export(copy)
    items = exported.items.loc[exported.items["split"] == "test"]
    last = Path(items["audio"].iloc[-1])
    whole = last.read_bytes()
    try:
        last.write_bytes(whole[:100])
        with pytest.raises(AudioError, match=last.name):
            predict(checkpoints["distribution"], copy, features=tmp_path / "features")
    finally:
        last.write_bytes(whole)
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*.safetensors")}
    assert first
    predict(checkpoints["distribution"], copy, features=tmp_path / "features")
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*.safetensors")}
    assert len(now) == 3 and now.items() >= first.items()


def test_a_damaged_checkpoint_is_one_sentence_that_names_what(copied, tmp_path):
    folder = copied["distribution"]
    weights, config, facts = (folder / name for name in ("model.safetensors", "config.json", "training.json"))
    whole = {path: path.read_bytes() for path in (weights, config, facts)}
    for path, damaged, message in (
        (weights, whole[weights][:200], "no readable safetensors"),
        (config, b"{", r"config\.json cannot be read"),
        (config, whole[config].replace(b'"embedding_size": 6', b'"embedding_size": 7'), "weights differ"),
        (config, b"null", r"config\.json cannot be read \(it holds None and no object\)"),
        (config, b'"DistributionModel"', r"config\.json cannot be read \(it holds 'DistributionModel' and no object\)"),
        (config, whole[config].replace(b'"annot-distribution"', b'["a"]'), r"config\.json cannot be read"),
        (config, whole[config].replace(b'"annot-distribution"', b'"unheard-of"'), r"config\.json cannot be read"),
        (config, whole[config].replace(b'"questions": [', b'"questions": [null, '), r"config\.json cannot be read"),
        (
            config,
            whole[config].replace(b'"trunk_config": {', b'"trunk_config": 5, "was": {'),
            "trunk_config is 5; give a",
        ),
        (
            config,
            whole[config].replace(b'"questions": [', b'"pooling_attention": null, "questions": ['),
            r"config\.json makes no model",
        ),
        (facts, b"{", r"training\.json cannot be read"),
        (facts, b"[1, 2]", r"training\.json cannot be read \(it holds \[1, 2\] and no object\)"),
    ):
        assert damaged != whole[path]
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=message) as error:
            load_model(folder)
        assert "\n" not in str(error.value)
        path.write_bytes(whole[path])
    load_model(folder)


def test_sources_must_be_a_list(checkpoints):
    model, processor, _ = load_model(checkpoints["distribution"])
    for sources in ("one.wav", []):
        with pytest.raises(ValueError, match="give a list with at least one"):
            predict_inputs(model, processor, sources)


@pytest.mark.parametrize("text", ["[1]", "null", '"a"', '{"recipe": []}', "[" * 100_000])
def test_facts_that_are_no_object_are_said(text, copied):
    (copied["distribution"] / "training.json").write_text(text)
    with pytest.raises(ValueError, match=r"training\.json (cannot be read|does not say how a model was trained)"):
        load_model(copied["distribution"])


def test_an_answer_beyond_the_end_of_a_scale_is_its_end(checkpoints, corpus, features):
    model, processor, _ = load_model(checkpoints["annotator"])
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if name.startswith(("consensus", "raters")):
                weights.mul_(100.0)
    clips = list(read_export(corpus).items["audio"])
    found = predict_inputs(model, processor, clips)
    for values in (found.consensus, found.rater_values):
        assert abs(values).max() == 1
