"""The transform of a `datasets.Dataset`: what is appended, what stays, and what is refused."""

import io

import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset, DatasetDict, Features, List, Value, load_dataset

from annot_hf.data.audio import MixedClip, load_audio
from annot_hf.data.dime import clip_features, plan_mixtures, text_features
from annot_hf.data.export import export_corpus
from annot_hf.data.mix_dataset import ORIGIN_COLUMNS, mix_dataset
from annot_hf.data.simulate import SimulatedCorpus, simulate_corpus
from annot_hf.models.waves import AudioError

RATE = 16_000
SUPPORT = ["often", "rare"]


@pytest.fixture(scope="module")
def waves():
    rng = np.random.default_rng(0)
    return [(rng.standard_normal(9000 + 100 * n) * 0.1).astype(np.float32) for n in range(14)]


@pytest.fixture
def rows(tmp_path, waves):
    """14 rows: 10 of one class and 4 of the other."""
    for n, wave in enumerate(waves):
        soundfile.write(tmp_path / f"{n}.wav", wave, RATE, subtype="FLOAT")
    return [
        {
            "item": f"i{n:02d}",
            "audio": str(tmp_path / f"{n}.wav"),
            "text": f"Said {'so ' * n}!",
            "speaker": f"s{n % 3}",
            "distribution": [0.75, 0.25] if n < 10 else [0.1 * (n - 10), 1 - 0.1 * (n - 10)],
            "room": n,
        }
        for n in range(14)
    ]


@pytest.fixture
def data(rows):
    return Dataset.from_list(rows).cast_column("audio", Audio(RATE, decode=False))


def test_mixed_rows_are_appended_and_the_others_stay(data, waves):
    mixed, report = mix_dataset(data, support=SUPPORT, share=0.9, seed=5)
    assert len(mixed) == 19 and [entry.made for entry in report.classes] == [0, 5]
    old = mixed.select(range(14))
    assert old.select_columns(data.column_names).to_list() == data.to_list()
    assert all(value is None for name in ORIGIN_COLUMNS for value in old["mixed_" + name])
    features = np.stack(
        [np.concatenate([clip_features(w), text_features(t)]) for w, t in zip(waves, data["text"], strict=True)]
    )
    plan = plan_mixtures(
        data["item"][:],
        np.array(data["distribution"][:]),
        features,
        support=SUPPORT,
        speakers=data["speaker"][:],
        share=0.9,
        seed=5,
    )
    for row, origin, probs in zip(
        mixed.select(range(14, 19)), plan.to_frame().to_dict("records"), plan.probs, strict=True
    ):
        assert row["item"] == origin["item"] and row["room"] is None and row["speaker"] is None
        assert {name: row["mixed_" + name] for name in ORIGIN_COLUMNS} == {
            name: origin[name] for name in ORIGIN_COLUMNS
        }
        assert row["distribution"] == pytest.approx(probs)
        first, second = (int(origin[name][1:]) for name in ("first", "second"))
        wave, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
        length, share = min(len(waves[first]), len(waves[second])), origin["share"]
        assert rate == RATE and len(wave) == length
        assert wave == pytest.approx((1 - share) * waves[first][:length] + share * waves[second][:length], abs=1e-7)
        assert row["text"] == data["text"][first if share < 0.5 else second]


def test_a_mixed_row_is_what_training_hears(data, rows):
    mixed, _ = mix_dataset(data, support=SUPPORT, share=0.9, sampling_rate=8000)
    row = mixed[16]
    files = {entry["item"]: entry["audio"] for entry in rows}
    lazy = MixedClip(files[row["mixed_first"]], files[row["mixed_second"]], row["mixed_share"])
    assert (load_audio(row["audio"], sampling_rate=8000) == load_audio(lazy, sampling_rate=8000)).all()


def test_it_is_the_same_again_and_in_several_processes_and_from_parquet(data, tmp_path):
    expected, _ = mix_dataset(data, support=SUPPORT, share=0.9)
    again, _ = mix_dataset(data, support=SUPPORT, share=0.9, processes=2)
    assert again.to_list() == expected.to_list() and again.features == expected.features
    expected.to_parquet(tmp_path / "mixed.parquet")
    back = load_dataset("parquet", data_files=str(tmp_path / "mixed.parquet"), cache_dir=str(tmp_path), split="train")
    assert back.cast_column("audio", Audio(RATE, decode=False)).to_list() == expected.to_list()


def test_only_the_training_split_is_mixed_and_speakers_do_not_cross(data, caplog):
    others = data.map(lambda row: {"item": "v" + row["item"], "speaker": "v" + row["speaker"]})
    mixed, report = mix_dataset(DatasetDict(train=data, validation=others), support=SUPPORT, share=0.9)
    assert {name: len(split) for name, split in mixed.items()} == {"train": 19, "validation": 14}
    assert mixed["validation"].features == mixed["train"].features
    assert mixed["validation"].select_columns(data.column_names).to_list() == others.to_list()
    made = mixed["train"].select(range(14, 19))
    assert set(made["mixed_first"]) | set(made["mixed_second"]) <= set(data["item"])
    with pytest.raises(ValueError, match="3 speakers of the training split, for instance 's0'"):
        mix_dataset(DatasetDict(train=data, test=data), support=SUPPORT)
    with pytest.raises(ValueError, match="no split 'train'; the data have dev"):
        mix_dataset(DatasetDict(dev=data), support=SUPPORT)
    assert not caplog.messages
    swapped = DatasetDict(dev=data, train=others)
    assert len(mix_dataset(swapped, support=SUPPORT, split="dev", share=0.9)[0]["dev"]) == 19


def test_speakers_that_cannot_be_held_apart_are_told(data, caplog):
    test = data.select(range(6)).map(lambda row, at: {"speaker": f"v{at}" if at < 4 else None}, with_indices=True)
    for splits, options, said in [
        ({"train": data, "test": data.remove_columns("speaker")}, {}, "0 of 14 rows of split train and 14 of 14 rows"),
        ({"train": data, "test": data}, {"speaker": None}, "14 of 14 rows of split train and 14 of 14 rows"),
        ({"train": data.remove_columns("speaker"), "test": test}, {}, "14 of 14 rows of split train and 2 of 6 rows"),
        (
            {"train": data, "test": test},
            {},
            "0 of 14 rows of split train and 2 of 6 rows of the others have no speaker",
        ),
    ]:
        caplog.clear()
        mix_dataset(DatasetDict(splits), support=SUPPORT, share=0.9, **options)
        assert said in caplog.text and f"speaker={options.get('speaker', 'speaker')!r}" in caplog.text
    caplog.clear()
    mix_dataset(DatasetDict(train=data.remove_columns("speaker")), support=SUPPORT, share=0.9)
    assert not caplog.messages  # there is nobody to keep apart from


def test_clips_lie_on_disk_and_follow_their_files(data, rows, tmp_path):
    data.to_parquet(tmp_path / "plain.parquet")
    stored = load_dataset("parquet", data_files=str(tmp_path / "plain.parquet"), cache_dir=str(tmp_path), split="train")
    stored = stored.cast_column("audio", Audio(RATE, decode=False))
    before, _ = mix_dataset(stored, support=SUPPORT, share=0.9)
    assert before.to_list() == mix_dataset(data, support=SUPPORT, share=0.9)[0].to_list()
    same = {"support": SUPPORT, "share": 0.9, "features": np.arange(14.0)[:, None]}  # and so the same plan
    rendered = mix_dataset(stored, **same)[0].to_list()
    assert len(before.cache_files) > len(stored.cache_files)
    for row in rows[10:]:  # another take under the same name
        wave, _ = soundfile.read(row["audio"], dtype="float32")
        soundfile.write(row["audio"], wave[::-1].copy() + 0.01, RATE, subtype="FLOAT")
    after, _ = mix_dataset(stored, support=SUPPORT, share=0.9)
    assert after.to_list() == mix_dataset(data, support=SUPPORT, share=0.9)[0].to_list() != before.to_list()
    assert mix_dataset(stored, **same)[0].to_list() == mix_dataset(data, **same)[0].to_list() != rendered


def test_an_exported_corpus_is_mixed(tmp_path):
    root = simulate_corpus(tmp_path / "simulated", speakers=4, clips_per_speaker=8, annotators=5, ratings=(3, 4))
    export_corpus(SimulatedCorpus(root), tmp_path / "export", embed_audio=True)
    data = load_dataset(str(tmp_path / "export"), "histograms", cache_dir=str(tmp_path))
    mixed, report = mix_dataset(data, support=SimulatedCorpus.questions[2].labels, share=1.0)
    assert len(mixed["train"]) == len(data["train"]) + sum(entry.made for entry in report.classes) > len(data["train"])
    assert mixed["test"].select_columns(data["test"].column_names).to_list() == data["test"].to_list()
    for row in mixed["train"].select(range(len(data["train"]), len(mixed["train"]))):
        assert sum(row["distribution"]) == pytest.approx(1) and row["votes"] is None
        assert np.isfinite(load_audio(row["audio"])).all()


@pytest.mark.parametrize("of", ["column", "array"])
def test_encoder_features_are_taken_as_they_are(of, data):
    features = np.random.default_rng(0).standard_normal((14, 6))
    given = features
    if of == "column":
        data, given = data.add_column("vector", features.tolist()), "vector"
    mixed, _ = mix_dataset(data, support=SUPPORT, share=0.9, features=given, neighbours=1)
    rare = features[10:]
    rare = (rare - rare.mean(0)) / rare.std(0)
    distances = ((rare[:, None] - rare) ** 2).sum(-1) + np.diag([np.inf] * 4)
    for row in mixed.select(range(14, 19)):
        assert int(row["mixed_second"][1:]) - 10 == distances[int(row["mixed_first"][1:]) - 10].argmin()


def test_texts_alone_are_mixed_too(data):
    texts = data.remove_columns(["audio", "speaker"])
    for rule in ("dominant", "first"):
        mixed, report = mix_dataset(texts, support=SUPPORT, share=0.9, text_rule=rule)
        said = dict(zip(texts["item"], texts["text"], strict=True))
        for row in mixed.select(range(14, 19)):
            whose = "mixed_first" if rule == "first" or row["mixed_share"] < 0.5 else "mixed_second"
            assert row["mixed_text_from"] == row[whose] and row["text"] == said[row[whose]]
    assert report.without_speaker == 14


def test_rows_without_text_are_counted(rows, caplog):
    rows[11]["text"], rows[12]["text"], rows[0]["text"] = None, " ", None
    data = Dataset.from_list(rows).cast_column("audio", Audio(RATE, decode=False))
    mixed, _ = mix_dataset(data, support=SUPPORT, share=0.9, seed=2)
    said = dict(zip(data["item"], data["text"], strict=True))
    assert mixed["text"][14:] == [said[name] for name in mixed["mixed_text_from"][14:]]
    assert "2 of 4 items to mix have no text" in caplog.text


def test_nothing_to_mix_leaves_the_rows_and_says_so(data):
    mixed, report = mix_dataset(data.select(range(10)), support=SUPPORT)
    assert len(mixed) == 10 and set(mixed["mixed_first"]) == {None}
    assert [entry.skipped for entry in report.classes] == ["", "it is no item's most probable label"]


def without(name):
    return lambda data: data.remove_columns(name)


BAD = {
    "no item": (without("item"), {}, "no column 'item'; name the column of the item"),
    "no distribution": (without("distribution"), {}, "no column 'distribution'; name the column of the probs"),
    "no source": (without(["audio", "text"]), {}, "neither audio nor text"),
    "paths": (
        lambda data: data.cast_column("audio", {"bytes": Value("binary"), "path": Value("string")}),
        {},
        "cannot hold mixed clips",
    ),
    "decoding": (
        lambda data: data.cast_column("audio", Audio(RATE)),
        {},
        r"cast_column\('audio', Audio\(decode=False\)\)",
    ),
    "labels": (lambda data: data, {"support": ["a", "b", "c"]}, "item 'i00' is not a list of 3 numbers"),
    "no features": (lambda data: data, {"features": "vectors"}, "no column 'vectors' of features"),
    "words as features": (lambda data: data, {"features": "text"}, "'text' must have a list of numbers"),
    "few features": (lambda data: data, {"features": np.zeros((2, 2))}, r"shape \(2, 2\) for 14 items"),
    "mixed twice": (
        lambda data: data.rename_column("room", "mixed_room"),
        {},
        "already have a column 'mixed_room'; mix them",
    ),
    "names twice": (lambda data: data.map(lambda row: {"item": "same"}), {}, "Item 'same' is given twice"),
    "streamed": (lambda data: data.to_iterable_dataset(), {}, "of type IterableDataset; load them as a Dataset"),
    "share": (lambda data: data, {"share": 0}, "share is 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_data_that_cannot_be_mixed_are_refused(name, data):
    change, options, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        mix_dataset(change(data), **{"support": SUPPORT, "share": 0.9} | options)


def test_rows_without_a_distribution_or_with_ragged_features_are_refused(rows):
    rows[3]["distribution"] = None
    kinds = {"item": Value("string"), "text": Value("string"), "distribution": List(Value("float64"))}
    data = Dataset.from_list([{name: row[name] for name in kinds} for row in rows], features=Features(kinds))
    with pytest.raises(ValueError, match="item 'i03' is not a list of 2 numbers"):
        mix_dataset(data, support=SUPPORT)
    rows[3]["distribution"] = [1.0, 0.0]
    data = Dataset.from_list([{name: row[name] for name in kinds} for row in rows], features=Features(kinds))
    ragged = data.add_column("vector", [[1.0]] * 12 + [[1.0, 2.0]] * 2)
    with pytest.raises(ValueError, match="all of one length"):
        mix_dataset(ragged, support=SUPPORT, share=0.9, features="vector")


def test_a_clip_that_cannot_be_read_is_named(data, rows):
    with open(rows[12]["audio"], "wb") as file:
        file.write(b"nothing")
    with pytest.raises(AudioError, match="Item 'i12': "):
        mix_dataset(data, support=SUPPORT, share=0.9)
    mixed, _ = mix_dataset(data.select([*range(12), 13]), support=SUPPORT, share=0.9)
    assert len(mixed) == 13 + 6
