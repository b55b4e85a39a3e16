"""A frozen trunk encodes once: heads learn the same from what was kept, and the checkpoint is the whole model."""

import types

import numpy as np
import pytest
import soundfile
import tiny
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from annot_hf.data.export import read_export
from annot_hf.models import modeling_opinion
from annot_hf.models.heads import masked_mean
from annot_hf.training import datasets as frozen, features, inference
from annot_hf.training.checkpoints import load_model
from annot_hf.training.collator import VoteCollator, make_collator
from annot_hf.training.datasets import encode_once, trunk_digest
from annot_hf.training.inference import predict
from annot_hf.training.inputs import make_processor, read_inputs
from annot_hf.training.train import train

PROCESSOR = Wav2Vec2FeatureExtractor(do_normalize=True)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(frozen, "ENCODED_ITEMS", 3)


@pytest.fixture
def clips(tmp_path):
    """Seven clips of 0.05 to 0.2 s."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.wav" for number in range(7)]
    for path in paths:
        soundfile.write(path, 0.1 * rng.standard_normal(rng.integers(800, 3200)), 16_000)
    return paths


@pytest.fixture
def encode(clips, tmp_path):
    """Encodes the clips into `cache`."""

    def make(model, kind="frames", key="key", **options):
        inputs = read_inputs(clips, model.config.trunk_config, PROCESSOR)
        folder = tmp_path / "cache"
        return encode_once(
            model, inputs, VoteCollator("input_values"), folder=folder, key=[key], kind=kind, batch_size=2, **options
        )

    return make


def frozen_model(seed=0, **options):
    return tiny.distribution("wavlm", seed=seed, freeze_trunk=True, **options)


def written(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("layer", [None, 0, 1])
def test_what_is_kept_is_what_the_trunk_gives_in_half_precision(encode, clips, layer, workers):
    model = frozen_model(trunk_layer=layer)
    kept, pooled = encode(model, workers=workers), encode(model, kind="pooled")
    inputs = read_inputs(clips, model.config.trunk_config, PROCESSOR)
    assert kept.lengths.tolist() == inputs.lengths.tolist()  # so that batches are those of training without a cache
    for row, clip in enumerate(clips):
        batch = VoteCollator("input_values").pad([inputs.read(clip)])
        with torch.inference_mode():
            frames, mask = model.frames(**batch)
        found, mean = kept.read(kept.entries[row]), pooled.read(pooled.entries[row])
        assert found.dtype == mean.dtype == np.float16 and mean.shape == (1, 16)
        assert found.shape == (int(mask.sum()), 16)
        np.testing.assert_allclose(found, frames[0][mask[0]].numpy(), rtol=2e-3, atol=2e-4)
        np.testing.assert_allclose(mean[0], masked_mean(frames, mask)[0].numpy(), rtol=2e-3, atol=2e-4)


@torch.inference_mode()
@pytest.mark.parametrize("build", [tiny.distribution, tiny.annotator])
@pytest.mark.parametrize("pooling", ["mean", "attention", "tcgru"])
def test_a_model_answers_the_same_from_frames(build, pooling):
    model = build("wavlm", freeze_trunk=True, pooling=pooling)
    batch = tiny.inputs("wavlm", [700, 1000, 431])
    frames, mask = model.frames(**batch)
    assert torch.equal(frames, frames.half().float())
    expected = model(**batch).probs
    torch.testing.assert_close(model(trunk_frames=frames.half(), trunk_mask=mask).probs, expected, rtol=0, atol=1e-6)
    if pooling == "mean":
        mean = masked_mean(frames, mask)[:, None].half()
        torch.testing.assert_close(model(trunk_frames=mean).probs, expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"trunk_frames has shape \(3, 5\); give frames of this model's trunk"):
        model(trunk_frames=torch.zeros(3, 5))


def test_a_trunk_that_learns_is_not_rounded():
    model = tiny.distribution("wavlm")
    frames, _ = model.frames(**tiny.inputs("wavlm", [700]))
    assert not torch.equal(frames, frames.half().float())


def test_other_weights_layers_kinds_or_clips_are_kept_apart(encode, clips, tmp_path):
    for number, (model, options) in enumerate(
        [
            (frozen_model(), {}),
            (frozen_model(seed=1), {}),
            (frozen_model(trunk_layer=2), {}),
            (frozen_model(trunk_layer=1), {}),
            (frozen_model(), {"kind": "pooled"}),
            (frozen_model(), {"key": "other"}),
            (frozen_model(), {"dtype": torch.bfloat16}),
        ],
        1,
    ):
        encode(model, **options)
        assert len(list((tmp_path / "cache").iterdir())) == number
    before = written(tmp_path / "cache")
    clips[3].write_bytes(clips[4].read_bytes())
    changed = encode(frozen_model())
    new = written(tmp_path / "cache").keys() - before.keys()
    assert len(new) >= 1 and before.items() <= written(tmp_path / "cache").items()
    np.testing.assert_allclose(changed.read(3), changed.read(4), rtol=2e-3, atol=2e-4)


def test_the_digest_is_of_the_weights_not_of_their_place(tmp_path):
    model = frozen_model()
    model.save_pretrained(tmp_path)
    assert trunk_digest(type(model).from_pretrained(tmp_path)) == trunk_digest(model)
    with torch.no_grad():
        model.trunk.masked_spec_embed += 1  # only training a trunk uses it, and a new one is drawn where it is missing
        model.head.weight += 1
    assert trunk_digest(type(model).from_pretrained(tmp_path)) == trunk_digest(model)
    with torch.no_grad():
        model.trunk.encoder.layers[0].feed_forward.output_dense.bias[0] += 1e-3
    assert trunk_digest(type(model).from_pretrained(tmp_path)) != trunk_digest(model)


def test_a_killed_run_goes_on_where_it_stopped(encode, tmp_path, monkeypatch):
    model, stock, calls = frozen_model(), frozen._encode, []

    def killed(*arguments):
        calls.append(None)
        if len(calls) == 4:  # a shard has two batches
            raise KeyboardInterrupt
        return stock(*arguments)

    monkeypatch.setattr(frozen, "_encode", killed)
    with pytest.raises(KeyboardInterrupt):
        encode(model)
    first = written(tmp_path / "cache")
    assert len(first) == 1 and not list((tmp_path / "cache").rglob("*.part"))
    calls.clear()
    calls.extend([None] * 9)
    kept = encode(model)
    assert len(calls) == 9 + 3 and len(kept.entries) == 7
    assert first.items() <= written(tmp_path / "cache").items()
    encode(model)
    assert len(calls) == 9 + 3


def test_processes_take_different_shards_and_wait(encode, tmp_path, monkeypatch):
    model, waited = frozen_model(), []

    def process(index, then=None):
        def wait():
            waited.append(index)
            if then is not None:
                then()

        return types.SimpleNamespace(
            process_index=index, num_processes=2, is_main_process=not index, wait_for_everyone=wait
        )

    counts = []

    def second():
        counts.append(len(written(tmp_path / "cache")))
        monkeypatch.setattr(frozen, "PartialState", lambda: process(1))
        encode(model)

    monkeypatch.setattr(frozen, "PartialState", lambda: process(0, second))
    kept = encode(model)
    assert waited == [0, 1] and counts == [2] and len(written(tmp_path / "cache")) == 3
    monkeypatch.setattr(frozen, "PartialState", lambda: process(0))
    assert all(np.array_equal(kept.read(row), encode(model).read(row)) for row in range(7))


def test_frames_beyond_half_precision_are_said(encode, tmp_path):
    model = frozen_model(trunk_layer=1)
    with torch.no_grad():
        model.trunk.encoder.layers[0].final_layer_norm.weight.fill_(1e6)
    with pytest.raises(ValueError, match="frames exceed 65504, the largest number of half precision; set inputs.cache"):
        encode(model)
    assert not written(tmp_path / "cache")


@pytest.mark.parametrize(("kind", "pooling", "layer"), [("frames", "tcgru", 1), ("pooled", "mean", [0, 2])])
def test_heads_learn_the_same_from_the_cache(over_trunk, wavlm_folder, corpus, tmp_path, kind, pooling, layer):
    """Both read frames rounded to half precision; only how clips are batched for encoding differs, in the last bits."""
    options = {"freeze_trunk": True, "pooling": pooling, "trunk_layer": layer}
    options["num_train_epochs"] = 2 if kind == "frames" else 1
    options["pooling_attention"] = (
        False  # the bias of its score has no gradient but rounding, which Adam makes steps of
    )
    results, predictions = [], []
    for cache in ("none", kind):
        out = tmp_path / cache
        run = over_trunk(
            wavlm_folder, **{"inputs.cache": cache}, output_dir=str(out), features=str(out / "kept"), **options
        )
        result = train(run)
        results.append(load_file(result.model / "model.safetensors"))
        predictions.append(predict(result.model, corpus)[0].probs)
    plain, cached = results
    assert plain.keys() == cached.keys()
    for name, value in plain.items():
        if name.startswith("trunk."):
            assert torch.equal(value, cached[name])
        else:
            torch.testing.assert_close(value, cached[name], rtol=0, atol=2e-4)
    np.testing.assert_allclose(*predictions, atol=1e-4)
    start = load_file(wavlm_folder / "model.safetensors")
    kept = {name.removeprefix("trunk."): value for name, value in cached.items() if name.startswith("trunk.")}
    assert kept and all(torch.equal(value, start[name]) for name, value in kept.items())
    assert load_model(result.model)[0].config.trunk_layer == layer
    assert len(written(tmp_path / kind / "kept")) == 4  # 5 clips a split, 3 a shard


def test_predictions_over_one_frozen_trunk_encode_the_clips_once(
    over_trunk, whisper_folder, corpus, tmp_path, monkeypatch
):
    runs = [{"seed": seed, "output_dir": str(tmp_path / str(seed))} for seed in (1, 2)]
    frozen_trunk = {"freeze_trunk": True, "inputs.cache": "frames", "features": str(tmp_path / "kept")}
    models = [train(over_trunk(whisper_folder, **frozen_trunk, **run)).model for run in runs]
    calls, stock = [], frozen._encode
    monkeypatch.setattr(frozen, "_encode", lambda *arguments: calls.append(None) or stock(*arguments))
    options = {"features": tmp_path / "kept", "split": "test"}
    found, before = predict(models[0], corpus, **options)[0].probs, len(calls)
    predict(models[1], corpus, **options)
    assert len(calls) == before > 0
    monkeypatch.setattr(inference, "frames_collator", lambda collator: collator)
    monkeypatch.setattr(inference, "encode_once", lambda model, inputs, *rest, **more: inputs)
    np.testing.assert_allclose(predict(models[0], corpus, **options)[0].probs, found, atol=1e-4)


def test_a_tokenizer_is_the_same_from_another_folder(bert_folder, corpus, tmp_path):
    """Else predictions over a frozen encoder would encode every text again, for each model."""
    exported, first = read_export(corpus), AutoTokenizer.from_pretrained(bert_folder)
    first.save_pretrained(tmp_path)
    other = AutoTokenizer.from_pretrained(tmp_path)
    assert str(first) != str(other)
    key = frozen.frames_key(exported, ["a", "b"], first)
    assert key == frozen.frames_key(exported, ["a", "b"], other) and first.mask_token in key[-1]
    other.model_max_length = 7
    assert key != frozen.frames_key(exported, ["a", "b"], other) != frozen.frames_key(exported, ["b", "a"], other)


def test_the_trunk_is_not_called_again(over_trunk, wavlm_folder, monkeypatch):
    calls, stock = [], frozen._encode
    monkeypatch.setattr(frozen, "_encode", lambda *arguments: calls.append(None) or stock(*arguments))
    model_calls = []
    call = modeling_opinion.call_trunk
    monkeypatch.setattr(modeling_opinion, "call_trunk", lambda *a, **k: model_calls.append(None) or call(*a, **k))
    train(over_trunk(wavlm_folder, **{"inputs.cache": "frames"}, freeze_trunk=True, num_train_epochs=2))
    assert len(calls) == len(model_calls) > 0


def test_annotators_and_texts_learn_from_a_cache_too(over_trunk, wavlm_folder, bert_folder, tmp_path):
    run = over_trunk(wavlm_folder, **{"inputs.cache": "frames"}, freeze_trunk=True, model="annotator")
    assert set(train(run).metrics) == {"loss", "cross_entropy", "kl", "jsd", "tvd", "macro_f1"}
    model = tiny.distribution("bert", freeze_trunk=True)
    tokenizer = make_processor(model.config.trunk_config, bert_folder)
    inputs = read_inputs(["so good", "very very bad !", "good"], model.config.trunk_config, tokenizer)
    collator = VoteCollator("input_ids", tokenizer)
    kept = encode_once(model, inputs, collator, folder=tmp_path, key=["k"])
    batch = VoteCollator("trunk_frames").pad([kept.read(row) for row in range(3)])
    assert batch["trunk_mask"].sum(1).tolist() == [4, 6, 3]
    with torch.inference_mode():
        expected = model(**collator.pad([inputs.read(text) for text in inputs.entries])).probs
        torch.testing.assert_close(model(**batch).probs, expected, rtol=0, atol=1e-3)
    others = read_inputs(["so so bad", *inputs.entries[1:]], model.config.trunk_config, tokenizer)
    other = encode_once(model, others, collator, folder=tmp_path, key=["k"])
    assert len(other.read(0)) == len(kept.read(0)) + 1


def test_kept_frames_follow_a_clip_that_is_written_again(clips, tmp_path):
    """The trunk of mel features sees numbers of kept features, not files."""
    model, extractor = tiny.distribution("whisper", freeze_trunk=True), WhisperFeatureExtractor(feature_size=8)

    def frames():
        mel = read_inputs(clips, model.config.trunk_config, extractor, features=tmp_path / "cache", key="k")
        kept = encode_once(model, mel, make_collator(model, extractor), folder=tmp_path / "cache", key=["k"])
        return [kept[row].copy() for row in range(len(clips))]

    before = frames()
    wave, rate = soundfile.read(clips[4])
    soundfile.write(clips[4], wave[::-1], rate)
    same = [np.array_equal(*pair) for pair in zip(before, frames(), strict=True)]
    assert same == [row != 4 for row in range(len(clips))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze_trunk": False}, "inputs.cache is frames and freeze_trunk is False; set freeze_trunk to true"),
        ({"trunk_layer": "weighted"}, "trunk_layer is weighted, which takes all layers; set trunk_layer to a number"),
        (
            {"inputs.cache": "pooled"},
            "inputs.cache is pooled and pooling is tcgru, which takes frames; set pooling to",
        ),
        ({"inputs.cache": "all"}, "inputs.cache is 'all'; use one of none, frames, pooled"),
    ],
)
def test_a_cache_that_cannot_be_is_said(over_trunk, wavlm_folder, options, message):
    with pytest.raises(ValueError, match=message):
        over_trunk(wavlm_folder, **{"inputs.cache": "frames", "freeze_trunk": True} | options)


def test_a_log_mel_trunk_starts_untrained(small_run, tmp_path):
    with pytest.raises(ValueError, match="trunk is log-mel, which starts untrained; set trunk to a pre-trained one"):
        small_run("distribution", tmp_path, **{"inputs.cache": "frames"}, freeze_trunk=True)


def test_a_stamp_changes_with_what_is_embedded():
    one, two = features._stamp({"bytes": b"abc", "path": None}), features._stamp({"bytes": b"abx", "path": None})
    assert one != two and features._stamp(b"abc") == one
