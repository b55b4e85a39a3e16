"""Exports: what plain load_dataset sees, what is reported, and what is refused."""

import json
import shutil
import unicodedata

import numpy as np
import pandas as pd
import pytest
import soundfile
from datasets import Audio, ClassLabel, load_dataset
from small_corpus import EMOTION, ITEMS, VALENCE, Small, findings, load, vote_rows

from annot_hf.data.audio import load_audio
from annot_hf.data.export import export_corpus, item_audio, read_export
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable


def test_load_dataset_reads_votes_items_and_histograms(corpus, tmp_path):
    report = export_corpus(corpus, tmp_path / "out")
    assert (report.items, report.votes, report.annotators) == (4, 8, 2)
    votes = load(tmp_path / "out", "votes", tmp_path)
    assert {split: len(rows) for split, rows in votes.items()} == {"train": 6, "validation": 1, "test": 1}
    train = votes["train"]
    assert isinstance(train.features["label"], ClassLabel) and train.features["label"].names == ["anger", "calm"]
    assert train[2]["annotator"] is None and train[2]["label"] == 1 and train[2]["rating"] is None
    assert train[5]["rating"] == 2.5 and train[5]["label"] is None and train[5]["weight"] == 1
    items = load(tmp_path / "out", "items", tmp_path)["train"]
    assert items.features["audio"] == Audio(16_000, decode=False)
    assert items[0]["audio"] == {"bytes": None, "path": "../root/a.wav"}
    assert (items[0]["file"], items[0]["speaker"], items[0]["age"]) == ("a.wav", "s1", 30)
    row = load(tmp_path / "out", "histograms", tmp_path)["train"][0]
    assert (row["counts"], row["votes"], row["labels"]) == ([2, 1], 3, [0, 1])
    assert row["distribution"] == pytest.approx([2 / 3, 1 / 3])
    assert row["entropy"] == pytest.approx(0.9182958340544896)  # of (2/3, 1/3), in bits
    assert load_audio(item_audio(tmp_path / "out", row)).shape == (1600,)


def test_the_default_configuration_is_votes_and_streaming_works(corpus, tmp_path):
    export_corpus(corpus, tmp_path / "out")
    assert len(load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))) == 6
    assert len(list(load(tmp_path / "out", "votes", tmp_path, split="train", streaming=True))) == 6


def test_a_second_export_is_not_masked_by_the_datasets_cache(corpus, tmp_path):
    export_corpus(corpus, tmp_path / "out")
    assert len(load(tmp_path / "out", "votes", tmp_path, split="train")) == 6
    rows = vote_rows()
    rows["value"][0] = "calm"  # as many rows, one other label
    corpus.votes = VoteTable.from_columns([EMOTION, VALENCE], **rows)
    export_corpus(corpus, tmp_path / "out")
    assert load(tmp_path / "out", "votes", tmp_path, split="train")[0]["label"] == 1
    assert load(tmp_path / "out", "histograms", tmp_path, split="train")[0]["counts"] == [1, 2]
    for values in rows.values():
        values.pop(0)
    corpus.votes = VoteTable.from_columns([EMOTION, VALENCE], **rows)
    export_corpus(corpus, tmp_path / "out")
    assert len(load(tmp_path / "out", "votes", tmp_path, split="train")) == 5


def test_read_export_returns_what_went_in(corpus, tmp_path):
    report = export_corpus(corpus, tmp_path / "out")
    back = read_export(tmp_path / "out")
    assert back.questions == (EMOTION, VALENCE) and back.default_questions == ("emotion",) and back.name == "small"
    rows = [
        votes.to_pandas().astype(str).sort_values(["item", "question", "annotator"]).to_numpy().tolist()
        for votes in (corpus.votes, back.votes)
    ]
    assert rows[0] == rows[1]
    assert back.report == json.loads(json.dumps(report.to_dict()))
    assert back.items["audio"].tolist() == [str(tmp_path / "root" / f"{item}.wav") for item in ITEMS]
    assert back.items["seconds"].tolist() == [0.1] * 4


def test_the_digest_follows_labels_and_not_places(corpus, tmp_path):
    export_corpus(corpus, tmp_path / "one")
    moved = Small(shutil.copytree(tmp_path / "root", tmp_path / "elsewhere"))
    moved.items, moved.votes = corpus.read_items(), corpus.votes
    export_corpus(moved, tmp_path / "two", embed_audio=True)
    assert read_export(tmp_path / "one").digest == read_export(tmp_path / "two").digest
    rows = vote_rows()
    rows["value"][3] = "anger"
    corpus.votes = VoteTable.from_columns([EMOTION, VALENCE], **rows)
    export_corpus(corpus, tmp_path / "one")
    assert read_export(tmp_path / "one").digest != read_export(tmp_path / "two").digest


def test_shares_are_stated_only_where_a_question_has_them(corpus, tmp_path):
    export_corpus(corpus, tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "corpus.json").read_text())
    # the digest is made of these, and votes that were exported before there were shares keep theirs
    assert not any("shares" in question for question in facts["questions"])
    mood = Question.category("emotion", EMOTION.labels, shares=True)
    corpus.votes = VoteTable.concat(
        [VoteTable.from_shares(mood, ITEMS, [[0.25, 0.75]] * 4), corpus.votes.select(questions=["valence"])]
    )
    report = export_corpus(corpus, tmp_path / "out")
    assert (report.votes, report.questions["emotion"]["votes"]) == (len(corpus.votes) - 8, 0)
    row = load(tmp_path / "out", "histograms", tmp_path)["train"][0]
    assert (row["counts"], row["votes"]) == ([0.25, 0.75], 0)
    assert len(read_export(tmp_path / "out").votes) == len(corpus.votes)


def test_audio_is_embedded_only_on_request(corpus, tmp_path):
    export_corpus(corpus, tmp_path / "out", embed_audio=True)
    shutil.rmtree(tmp_path / "root")
    for config in ("items", "histograms"):
        audio = load(tmp_path / "out", config, tmp_path)["train"][0]["audio"]
        assert audio["path"] == "a.wav" and load_audio(audio).shape == (1600,)
        assert item_audio("elsewhere", {"audio": audio}) == audio
    assert load_audio(read_export(tmp_path / "out").items["audio"][0]).shape == (1600,)


def test_embedded_audio_is_stored_once_per_item(corpus, tmp_path):
    again = Question.category("again", EMOTION.labels)
    rng = np.random.default_rng(0)
    for item in ITEMS:
        soundfile.write(tmp_path / "root" / f"{item}.wav", rng.uniform(-1, 1, 160_000), 16_000)
    tables = [VoteTable.from_counts(question, ITEMS, np.ones((4, 2), int)) for question in (EMOTION, again)]
    corpus.votes = VoteTable.concat(tables)
    export_corpus(corpus, tmp_path / "out", embed_audio=True)
    once, twice = (sum(p.stat().st_size for p in (tmp_path / "out" / c).iterdir()) for c in ("items", "histograms"))
    assert twice < 1.1 * once


def test_scales_have_no_histogram(corpus, tmp_path):
    corpus.votes = corpus.votes.select(questions=["valence"])
    corpus.__class__ = type("Scaled", (Small,), {"default_questions": ("valence",)})
    export_corpus(corpus, tmp_path / "out")
    assert not (tmp_path / "out" / "histograms").exists()
    row = load(tmp_path / "out", "votes", tmp_path, split="train")[0]
    assert (row["label"], row["rating"]) == (None, 2.5)
    assert read_export(tmp_path / "out").votes.ratings.tolist() == [2.5]
    assert list(load(tmp_path / "out", "votes", tmp_path)) == ["train"]  # no vote in the other splits


def test_label_sets_of_several_questions_and_multiple_choice(corpus, tmp_path):
    several = Question.category("several", ("calm", "tired", "sad"), multiple=True)
    rows = {"item": ["a", "a", "b"], "annotator": ["r1", "r1", "r2"], "value": ["tired", "sad", None]}
    corpus.votes = VoteTable.concat([corpus.votes, VoteTable.from_columns(several, **rows)])
    export_corpus(corpus, tmp_path / "out")
    histograms = load(tmp_path / "out", "histograms", tmp_path, split="train")
    assert histograms.features["labels"].feature.names == ["anger", "calm", "tired", "sad"]
    row = next(row for row in histograms if row["question"] == "several")
    assert (row["labels"], row["counts"]) == ([1, 2, 3], [0, 1, 1])
    back = read_export(tmp_path / "out").votes
    np.testing.assert_array_equal(back.counts("several", items=ITEMS), corpus.votes.counts("several", items=ITEMS))
    assert len(back) == len(corpus.votes)


def test_weights_travel(corpus, tmp_path):
    rows = {key: values[:7] for key, values in vote_rows().items()}
    corpus.votes = VoteTable.from_columns(EMOTION, **rows, weight=[0.5, 1, 1, 1, 1, 1, 2])
    export_corpus(corpus, tmp_path / "out")
    assert load(tmp_path / "out", "histograms", tmp_path, split="train")[0]["counts"] == [1.5, 1]
    assert read_export(tmp_path / "out").votes.weights.tolist() == [0.5, 1, 1, 1, 1, 1, 2]


def test_text_without_audio(corpus, tmp_path):
    corpus.items = corpus.items.drop(columns=["audio", "speaker"]).assign(text=["=1+1", "ä|ö", "NA", "\n x"])
    report = export_corpus(corpus, tmp_path / "out")
    assert report.findings == ()  # a text needs no speaker
    items = load(tmp_path / "out", "items", tmp_path, split="train")
    assert items["text"][:] == ["=1+1", "ä|ö"] and "audio" not in items.column_names
    assert load(tmp_path / "out", "histograms", tmp_path, split="train")[0]["text"] == "=1+1"
    assert read_export(tmp_path / "out").items["text"].tolist()[2:] == ["NA", "\n x"]


@pytest.mark.parametrize("nothing", ["", " \n\t", None, np.nan])
def test_items_without_text_are_an_error_or_left_out_with_their_votes_or_kept(nothing, corpus, tmp_path):
    corpus.items = corpus.items.drop(columns="audio").assign(text=[nothing, "b", "c", "d"])
    with pytest.raises(ValueError, match=r"small: 1 of 4 items have no text \(a: missing\); .*missing_text=.drop."):
        export_corpus(corpus, tmp_path / "out")
    report = export_corpus(corpus, tmp_path / "out", missing_text="drop")
    found = findings(report)["items without text"]
    assert (found.count, found.votes, found.examples) == (1, 4, ("a",))
    assert report.items == 3 and report.votes + report.votes_left_out == len(corpus.votes)
    report = export_corpus(corpus, tmp_path / "out", missing_text="keep")
    assert (report.items, report.votes, findings(report)["items without text"].votes) == (4, 8, 0)
    assert read_export(tmp_path / "out").items["text"].isna().tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match="small: missing_text is 'skip'; use 'error' or 'drop' or 'keep'"):
        export_corpus(corpus, tmp_path / "out", missing_text="skip")


def test_no_text_at_all(corpus, tmp_path):
    corpus.items = corpus.items.drop(columns="audio").assign(text="")
    with pytest.raises(ValueError, match="no item has text .no text in 4 items.*missing_text='keep'"):
        export_corpus(corpus, tmp_path / "out", missing_text="drop")


def test_blank_transcripts_of_clips_are_reported(corpus, tmp_path):
    corpus.items["text"] = ["hello", " ", None, ""]
    report = export_corpus(corpus, tmp_path / "out")
    assert findings(report)["items with a blank text, which counts as none"].examples == ("b", "d")
    assert report.items == 4 and read_export(tmp_path / "out").items["text"].isna().sum() == 3


@pytest.mark.parametrize("audio", [True, False])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (7, "small: the text of item 'b' is 7, of type int; give a string, or None where there is no text."),
        (["x"], "small: the text of item 'b' is ['x'], of type list; give a string, or None where there is no text."),
        (b"x", "small: the text of item 'b' is b'x', of type bytes; give a string, or None where there is no text."),
        (
            "x\ud800",
            "small: the text of item 'b' is not valid Unicode (surrogates not allowed at character 1); restore the upstream "
            "file.",
        ),
    ],
)
def test_texts_that_are_no_text_are_refused(audio, text, message, corpus, tmp_path):
    corpus.items["text"] = pd.Series(["a", text, "c", "d"], dtype=object)
    corpus.items = corpus.items if audio else corpus.items.drop(columns="audio")
    with pytest.raises(ValueError) as error:
        export_corpus(corpus, tmp_path / "out")
    assert str(error.value) == message


OWN_SPLITS = {
    "list": lambda items: ["train", "train", "validation", "test"],
    "array": lambda items: np.array(["train", "train", "validation", "test"]),
    "series": lambda items: items["item"].map({"a": "train", "b": "train", "c": "validation", "d": "test"}),
    "series in another order": lambda items: items.sort_values("item", ascending=False)["split"],
}


@pytest.mark.parametrize("split_of", OWN_SPLITS.values(), ids=OWN_SPLITS)
def test_split_of_returns_a_list_or_a_series(split_of, corpus, tmp_path):
    corpus.split_of = split_of
    export_corpus(corpus, tmp_path / "out")
    items = read_export(tmp_path / "out").items
    assert dict(zip(items["item"], items["split"], strict=True)) == dict(
        zip(ITEMS, OWN_SPLITS["list"](None), strict=True)
    )


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (["train"], "list of 1 splits for 4 items; return one per item"),
        (pd.Series(["train"] * 4, ITEMS), "Series of 4 splits for 4 items; return one per item"),
        ({"a": "train"}, "dict of 1 splits"),
        (None, "NoneType of no splits"),
    ],
)
def test_split_of_that_does_not_fit_the_items_is_refused(split, message, corpus, tmp_path):
    corpus.split_of = lambda items: split
    with pytest.raises(ValueError, match=message):
        export_corpus(corpus, tmp_path / "out")


def test_splits_of_other_names(corpus, tmp_path):
    corpus.items["split"] = ["test2", "train", "test1", "train"]
    assert list(export_corpus(corpus, tmp_path / "out").splits) == ["train", "test1", "test2"]
    assert len(load(tmp_path / "out", "items", tmp_path, split="test2")) == 1


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_another_unicode_normal_form_are_not_met_and_said_to_be(corpus, forms, tmp_path):
    listed, voted = (unicodedata.normalize(form, "fr\u00f6hlich") for form in forms)
    corpus.items = corpus.items.replace({"item": {"d": listed}})
    corpus.votes = VoteTable.from_columns(EMOTION, item=["a", voted], value=["calm", "anger"])
    with pytest.raises(
        ValueError, match="1 votes are on 1 items .* is known in another Unicode normal form, NFC or NFD"
    ):
        export_corpus(corpus, tmp_path / "out")
    corpus.votes = VoteTable.from_columns(EMOTION, item=["a", listed], value=["calm", "anger"])
    (corpus.root / "d.wav").rename(corpus.root / f"{voted}.wav")
    corpus.items["audio"] = ["a.wav", "b.wav", "c.wav", f"{listed}.wav"]
    with pytest.raises(ValueError, match="1 of 4 items have no readable audio .*in another Unicode normal form"):
        export_corpus(corpus, tmp_path / "out")
    report = export_corpus(corpus, tmp_path / "out", missing_audio="drop")
    found = findings(report)["items with unreadable audio"]
    assert (found.count, found.votes) == (1, 1) and "NFC or NFD" in found.examples[0]


def test_names_that_look_alike_are_noted(corpus, tmp_path):
    corpus.items = corpus.items.assign(speaker=["s1", "S1 ", "s2", "s3"]).replace({"item": {"d": "A"}})
    rows = {"item": ["a", "a", "A"], "annotator": ["ann", "ANN", "ann "], "value": ["calm", "anger", "calm"]}
    with pytest.warns(UserWarning, match="3 rater names"):
        corpus.votes = VoteTable.from_columns(EMOTION, **rows)
    report = export_corpus(corpus, tmp_path / "out")
    alike = "whose names differ only in case, spaces or Unicode form"
    noted = {what: findings(report)[f"{what} {alike}"].examples for what in ("raters", "speakers", "items")}
    assert noted == {"raters": ("ann", "ANN", "ann "), "speakers": ("s1", "S1 "), "items": ("a", "A")}
    assert report.annotators == 3 and report.votes == 3


def test_votes_on_unlisted_items_are_an_error_unless_allowed(corpus, tmp_path):
    corpus.items = corpus.items.iloc[1:]
    with pytest.raises(ValueError, match=r"4 votes are on 1 items that the corpus does not list \(a\)"):
        export_corpus(corpus, tmp_path / "out")
    report = export_corpus(corpus, tmp_path / "out", allow_unmatched=True)
    assert findings(report)["items with votes that the corpus does not list"].votes == 4
    assert report.votes + report.votes_left_out == len(corpus.votes)


def test_items_without_votes_stay_and_are_reported(corpus, tmp_path):
    corpus.votes = corpus.votes.select(items=["a", "b", "d"])
    report = export_corpus(corpus, tmp_path / "out")
    assert findings(report)["items without votes"].examples == ("c",)
    assert len(load(tmp_path / "out", "items", tmp_path, split="validation")) == 1
    assert list(load(tmp_path / "out", "histograms", tmp_path)) == ["train", "test"]


def test_missing_and_unreadable_audio_is_an_error_or_left_out_with_its_votes_or_kept(corpus, tmp_path):
    (corpus.root / "a.wav").unlink()
    (corpus.root / "b.wav").write_bytes(b"")
    corpus.items.loc[2, "audio"] = None
    with pytest.raises(ValueError) as error:
        export_corpus(corpus, tmp_path / "out")
    assert str(error.value) == (
        "small: 3 of 4 items have no readable audio (a: missing; b: b.wav is empty (0 bytes). Copy the file again; "
        'c: missing); restore the files, or export with missing_audio="drop" to leave such items out with their votes, or '
        '"keep" to keep them without audio.'
    )
    report = export_corpus(corpus, tmp_path / "out", missing_audio="drop")
    found = findings(report)
    assert (found["items without audio"].count, found["items without audio"].votes) == (2, 5)
    assert found["items with unreadable audio"].examples == ("b.wav is empty (0 bytes). Copy the file again.",)
    assert report.items == 1 and report.votes + report.votes_left_out == len(corpus.votes)
    report = export_corpus(corpus, tmp_path / "out", missing_audio="keep")
    assert report.items == 4 and report.votes == 8 and report.votes_left_out == 0
    assert findings(report)["items without audio"].count == 2
    assert read_export(tmp_path / "out").items["audio"].isna().sum() == 3


def test_no_audio_at_all(corpus, tmp_path):
    for item in ITEMS:
        (corpus.root / f"{item}.wav").unlink()
    with pytest.raises(ValueError, match="no item has readable audio .no audio file under"):
        export_corpus(corpus, tmp_path / "out", missing_audio="drop")
    assert export_corpus(corpus, tmp_path / "out", missing_audio="keep").votes == 8
    with pytest.raises(ValueError, match="small: missing_audio is 'skip'; use 'error' or 'drop' or 'keep'"):
        export_corpus(corpus, tmp_path / "out", missing_audio="skip")


def test_long_clips_and_missing_speakers_are_reported(corpus, tmp_path):
    soundfile.write(corpus.root / "b.wav", np.full(30 * 1000 + 1, 0.1), 1000)
    soundfile.write(corpus.root / "c.wav", np.full(30 * 1000, 0.1), 1000)
    corpus.items.loc[3, "speaker"] = None
    found = findings(export_corpus(corpus, tmp_path / "out"))
    assert found["clips longer than 30 s, which need max_seconds in training"].examples == ("b",)
    assert (found["items without a speaker"].count, found["items without a speaker"].examples) == (1, ("d",))


def test_pseudo_votes_follow_the_training_votes_only(corpus, tmp_path):
    export_corpus(corpus, tmp_path / "out")
    back = read_export(tmp_path / "out")
    train = np.array([2, 3]) / 5  # votes on a and b
    np.testing.assert_allclose(back.targets("test", method="smoothed").probs, [(np.array([0, 1]) + train) / 2])
    np.testing.assert_allclose(
        back.targets("train", method="smoothed", smoothing=2.0).probs,
        [(np.array([2, 1]) + 2 * train) / 5, (np.array([0, 2]) + 2 * train) / 4],
    )
    corpus.items["split"] = ["one", "one", "two", "two"]
    export_corpus(corpus, tmp_path / "out")
    two = read_export(tmp_path / "out").targets("two", method="smoothed").probs
    np.testing.assert_allclose(two, [[1.5 / 2, 0.5 / 2], [0.5 / 2, 1.5 / 2]])


def test_shared_audio_and_speakers_in_two_splits_are_reported(corpus, tmp_path):
    corpus.items.loc[1, "audio"] = "a.wav"
    corpus.items.loc[1, "split"] = "test"
    found = findings(export_corpus(corpus, tmp_path / "out"))
    assert found["items that share an audio file"].examples == ("b",)
    assert found["speakers in several splits"].examples == ("s1",)


def test_excluded_votes_are_in_the_report(corpus, tmp_path):
    rows = vote_rows()
    rows["value"][0] = "joy"
    corpus.votes = VoteTable.from_columns([EMOTION, VALENCE], **rows, unknown="drop")
    report = export_corpus(corpus, tmp_path / "out")
    assert findings(report)["values outside the question"].votes == 1
    assert report.votes + report.votes_left_out == 8
    assert any("1 votes left out" in row[2] for row in report.rows())


def break_items(**columns):
    def change(corpus):
        corpus.items = corpus.items.assign(**columns)

    return change


BAD_ITEMS = {
    "twice": (break_items(item=["a", "b", "b", "d"]), "item 'b' is listed twice"),
    "no name": (break_items(item=["a", None, "c", "d"]), "item row 1 has no name"),
    "blank name": (break_items(item=["a", "b", " ", "d"]), "item row 2 has no name"),
    "no split": (break_items(split=["train", None, "test", "test"]), "item 'b' is in split nan; name a split"),
    "odd split": (break_items(split=["train", "../x", "test", "test"]), "in split '../x'"),
    "escape": (break_items(audio=["../secret.wav", None, None, None]), "leads to a parent folder"),
    "absolute": (break_items(audio=["/etc/passwd", None, None, None]), "leads to a parent folder"),
    "url": (break_items(audio=["http://x/a.wav", None, None, None]), "URL scheme"),
    "backslash": (break_items(audio=["..\\a.wav", None, None, None]), "backslash"),
    "mixed column": (break_items(extra=[1, "x", 2.5, None]), "column 'extra' mixes types"),
    "nested column": (break_items(extra=[[1], [2], [3], [4]]), "column 'extra' holds list"),
    "none": (lambda corpus: setattr(corpus, "items", corpus.items.iloc[:0]), "there are no items"),
    "no modality": (lambda corpus: corpus.items.pop("audio"), "audio or text"),
    "no split column": (lambda corpus: corpus.items.pop("split"), "no column 'split'"),
    "a column file": (break_items(file="x"), "a column that the export writes itself, 'file'; give it another name"),
    "a column file of texts": (
        lambda corpus: setattr(corpus, "items", corpus.items.rename(columns={"audio": "text"}).assign(file="x")),
        "a column that the export writes itself, 'file'",
    ),
    "a column seconds": (break_items(seconds=3.0), "a column that the export writes itself, 'seconds'; give it"),
    "columns of one name": (
        lambda corpus: corpus.items.insert(0, 1, 2) or corpus.items.insert(0, "1", 3),
        "two columns of one name, .1.",
    ),
    "no vote left": (
        lambda corpus: setattr(corpus, "votes", corpus.votes.select(items=[])),
        "no vote is on a listed item",
    ),
    "default question": (
        lambda corpus: setattr(corpus, "votes", corpus.votes.select(questions=["valence"])),
        "no question 'emotion'",
    ),
}


@pytest.mark.parametrize("change, message", BAD_ITEMS.values(), ids=BAD_ITEMS)
def test_bad_corpora_are_refused_and_leave_nothing_behind(corpus, tmp_path, change, message):
    change(corpus)
    with pytest.raises(ValueError, match=message):
        export_corpus(corpus, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_reading_leaves_the_corpus_frame_alone(corpus, tmp_path):
    before = corpus.items.copy()
    export_corpus(corpus, tmp_path / "out")
    pd.testing.assert_frame_equal(corpus.items, before)


def test_absolute_paths_inside_the_corpus_are_accepted(corpus, tmp_path):
    corpus.items["audio"] = [str(corpus.root / name) for name in corpus.items["audio"]]
    export_corpus(corpus, tmp_path / "out")
    assert read_export(tmp_path / "out").items["file"].tolist() == ["a.wav", "b.wav", "c.wav", "d.wav"]


def test_the_card_states_licence_report_and_escapes_names(corpus, tmp_path):
    corpus.items.loc[3, "item"] = "<script>|`x`\n!"
    corpus.votes = corpus.votes.select(items=["a", "b", "c"])
    export_corpus(corpus, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: cc-by-4.0" in card and "items without votes" in card
    assert "&lt;script&gt;\\|'x' ! |" in card and "<script>" not in card
    assert read_export(tmp_path / "out").digest in card
