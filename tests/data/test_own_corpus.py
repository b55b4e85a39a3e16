"""Votes of a file as a corpus: clips are found, splits keep groups together and are stratified, leaks are refused."""

import re

import numpy as np
import pandas as pd
import pytest
import soundfile
from huggingface_hub import RepoCard
from hypothesis import given, strategies as st
from test_own_votes import TITLES

from annot_hf.data.corpus import check_items
from annot_hf.data.export import export_corpus, read_export
from annot_hf.data.folds import draw_splits
from annot_hf.data.own_corpus import OwnCorpus
from annot_hf.data.own_votes import Reading, read_own_votes


def clip(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(800, np.float32), 16_000)


def table(path, rows):
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def rows(items=30, speakers=6, **columns):
    """Two raters an item, of whom the second differs on every other item."""
    return [
        {
            "item": f"i{n:02d}",
            "speaker": f"s{n % speakers}",
            "rater": rater,
            "label": "joy" if n % 3 and (place == 0 or n % 2) else "sad",
        }
        | {"text": f"words {n}"}
        | {name: value(n) for name, value in columns.items()}
        for n in range(items)
        for place, rater in enumerate(("ann", "ben"))
    ]


def corpus_of(path, audio=None, seed=0, allow_leak=False, **options):
    reading = Reading(**options)
    return OwnCorpus(read_own_votes(path, reading), audio, reading=reading, seed=seed, allow_leak=allow_leak)


def items_of(corpus):
    return check_items(corpus, corpus.read_items())


def splits_of(corpus):
    return items_of(corpus).set_index("item")["split"].to_dict()


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=3, max_size=25),
    st.sampled_from([(0.7, 0.15, 0.15), (0.5, 0.5), (0.85, 0.15)]),
    st.integers(0, 3),
)
def test_no_group_is_cut_and_no_split_is_empty(groups, shares, seed):
    names = np.repeat([f"g{place}" for place in range(len(groups))], [size for size, _ in groups])
    strata = np.repeat([kind for _, kind in groups], [size for size, _ in groups])
    part = draw_splits(names, strata, shares, seed=seed)
    assert set(part) == set(range(len(shares)))
    assert (pd.Series(part).groupby(names).nunique() == 1).all()
    assert (part == draw_splits(names, strata, shares, seed=seed)).all()


def test_every_split_has_its_share_of_every_stratum():
    strata = np.repeat(["common", "rare", "rarest"], [280, 80, 40])
    part = draw_splits(np.arange(400).astype(str), strata, (0.7, 0.15, 0.15), seed=1)
    for name, count in zip(*np.unique(strata, return_counts=True), strict=True):
        found = np.bincount(part[strata == name], minlength=3)
        assert abs(found - count * np.array([0.7, 0.15, 0.15])).max() <= 1
    other = draw_splits(np.arange(400).astype(str), strata, (0.7, 0.15, 0.15), seed=2)
    assert (part != other).any()


def test_too_few_groups_are_refused(tmp_path):
    path = table(tmp_path / "votes.csv", rows(speakers=2))
    with pytest.raises(
        ValueError, match=r"2 groups cannot be divided into 3 splits; .* Or pass --group item to split items freely\."
    ):
        splits_of(corpus_of(path))
    assert set(splits_of(corpus_of(path, group="item")).values()) == {"train", "validation", "test"}


def test_drawn_splits_keep_speakers_apart_and_are_reported(tmp_path):
    corpus = corpus_of(table(tmp_path / "votes.csv", rows()))
    items = items_of(corpus)
    assert (items.groupby("speaker")["split"].nunique() == 1).all() and items["split"].nunique() == 3
    (said,) = (found for reason, found in corpus.findings.items() if reason == "splits drawn by speaker, seed 0")
    assert [text.split(":")[0] for text in said.examples] == ["train", "validation", "test"]
    assert re.fullmatch(
        r"train: \d speakers, mean disagreement 0\.\d\d, shares of labels within 0\.\d\d", said.examples[0]
    )
    assert splits_of(corpus_of(tmp_path / "votes.csv")) == splits_of(corpus)


def test_equal_texts_are_in_one_split(tmp_path):
    path = table(tmp_path / "votes.csv", [{**row, "text": f"words {int(row['item'][1:]) % 5}"} for row in rows()])
    items = items_of(corpus_of(path, group="item"))
    assert (items.groupby("text")["split"].nunique() == 1).all()


def test_the_users_splits_are_kept_under_other_names(tmp_path):
    given = {0: "Train", 1: "training", 2: "DEV", 3: "test", 4: "train", 5: "eval"}
    path = table(tmp_path / "votes.csv", rows(split=lambda n: given[n % 6]))
    found = splits_of(corpus_of(path))
    wanted = {0: "train", 1: "train", 2: "validation", 3: "test", 4: "train", 5: "test"}
    assert found == {f"i{n:02d}": wanted[n % 6] for n in range(30)}


def test_validation_is_taken_from_train_where_the_user_has_none(tmp_path):
    path = table(tmp_path / "votes.csv", rows(speakers=10, part=lambda n: "test" if n % 10 > 7 else "train"))
    items = items_of(corpus_of(path, split="part"))
    assert (items.groupby("speaker")["split"].nunique() == 1).all()
    assert set(items["split"][items["speaker"].isin(["s8", "s9"])]) == {"test"}
    assert set(items["split"][~items["speaker"].isin(["s8", "s9"])]) == {"train", "validation"}


def test_a_leak_is_refused_unless_it_is_asked_for(tmp_path):
    path = table(tmp_path / "votes.csv", rows(split=lambda n: ["train", "validation", "test"][n % 3], speakers=5))
    with pytest.raises(ValueError, match=r"5 speakers are in several splits, such as 's0'; move each .* --allow-leak"):
        splits_of(corpus_of(path))
    corpus = corpus_of(path, allow_leak=True)
    assert splits_of(corpus)["i01"] == "validation"
    report = export_corpus(corpus, tmp_path / "out")
    assert {finding.reason: finding.count for finding in report.findings}["speakers in several splits"] == 5


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (lambda n: "train" if n else "", r"item 'i00' is in split None; name train, validation or test"),
        (lambda n: "fold 1" if n else "test", r"item 'i01' is in split 'fold 1'"),
        (lambda n: "train", r"the splits are train; at least train and test are needed"),
        (lambda n: ["train", "test"][n % 2], None),
    ],
)
def test_splits_that_cannot_be_used_are_refused(split, message, tmp_path):
    path = table(tmp_path / "votes.csv", rows(split=split))
    if message is None:
        assert set(splits_of(corpus_of(path, allow_leak=True)).values()) == {"train", "validation", "test"}
        return
    with pytest.raises(ValueError, match=message):
        splits_of(corpus_of(path, allow_leak=True))


def test_a_column_of_that_name_that_holds_no_splits_is_not_taken_for_one(tmp_path):
    path = table(tmp_path / "votes.csv", rows(set=lambda n: "ABC"[n % 3]))
    corpus = corpus_of(path)
    assert set(splits_of(corpus).values()) == {"train", "validation", "test"}
    assert corpus.findings["split names that are none, so that splits are drawn"].examples == ("A", "B", "C")
    with pytest.raises(ValueError, match="item 'i00' is in split 'A'"):
        splits_of(corpus_of(path, split="set"))


@pytest.mark.parametrize(
    ("reference", "file"),
    [
        ("a.wav", "a.wav"),
        ("a", "a.wav"),
        ("a.mp3", "a.wav"),
        ("s1/a.wav", "s1/a.wav"),
        ("/home/me/clips/s1/a.wav", "s1/a.wav"),
        ("C:\\clips\\s1\\a.wav", "s1/a.wav"),
        ("https://lab.org/files/s1/a.wav?x=1", "s1/a.wav"),
        ("s3://bucket/s1/a.wav", "s1/a.wav"),
        ("/data/upload/12/1234abcd-a.wav", "a.wav"),
        ("/data/local-files/?d=s1/a.wav", "s1/a.wav"),
        ("naïve clip.wav", "naïve clip.wav"),
    ],
)
def test_clips_are_found_however_they_are_named(reference, file, tmp_path):
    clip(tmp_path / "clips" / file)
    for name in ("x.wav", "y.wav"):
        clip(tmp_path / "clips" / name)
    names = (reference, "x", "y")
    votes = [{"audio": one, "rater": rater, "label": label} for one in names for rater, label in ("as", "bt")]
    corpus = corpus_of(table(tmp_path / "votes.csv", votes), tmp_path / "clips")
    assert list(corpus.read_items()["audio"]) == [file, "x.wav", "y.wav"]


def test_a_clip_that_may_be_two_files_is_refused(tmp_path):
    for name in ("s1/a.wav", "s2/a.wav"):
        clip(tmp_path / "clips" / name)
    path = table(
        tmp_path / "votes.csv", [{"clip": "a", "rater": rater, "label": label} for rater, label in ("as", "bt")]
    )
    corpus = corpus_of(path, tmp_path / "clips")
    with pytest.raises(
        ValueError, match=r"the clip 'a' of item 'a' may be s1/a\.wav or s2/a\.wav; write its path below"
    ):
        corpus.read_items()


@pytest.mark.parametrize("dots", ["\u2024\u2024", "\u2025", "\uff0e\uff0e", ".\u2024"])
def test_dots_that_only_look_like_a_parent_folder_are_refused(dots, tmp_path):
    clip(tmp_path / "clips" / "a.wav")
    votes = [{"audio": f"{dots}/a.wav", "rater": rater, "label": label} for rater, label in ("as", "bt")]
    corpus = corpus_of(table(tmp_path / "votes.csv", votes), tmp_path / "clips")
    with pytest.raises(ValueError, match=r"votes.csv: the clip .* writes '\.\.' in look-alikes \(.*\\u.*/a\.wav\)"):
        corpus.read_items()


def test_a_folder_with_the_name_of_a_clip_is_told_as_such(tmp_path):
    for name in ("a.wav", "s1/b.wav"):
        (tmp_path / "clips" / name).mkdir(parents=True)
    for name in "bc":
        clip(tmp_path / "clips" / f"{name}.wav")
    votes = [{"audio": name, "rater": rater, "label": label} for name in "abc" for rater, label in ("as", "bt")]
    corpus = corpus_of(table(tmp_path / "votes.csv", votes), tmp_path / "clips")
    with pytest.raises(ValueError, match=r"1 of 3 items .* \(a: 'a.wav' cannot be opened \(Is a directory\)"):
        export_corpus(corpus, tmp_path / "out")


def test_an_export_counts_repeated_votes_missing_clips_and_clips_without_votes(tmp_path):
    for number in range(9):
        clip(tmp_path / "clips" / f"i{number:02d}.wav")
    clip(tmp_path / "clips" / "unused.wav")
    path = table(tmp_path / "votes.csv", [*rows(10), *rows(1)])
    report = export_corpus(corpus_of(path, tmp_path / "clips"), tmp_path / "out", missing_audio="drop")
    found = {finding.reason: (finding.count, finding.votes) for finding in report.findings}
    assert found["repeated votes of one annotator"] == (2, 2)
    assert found["items without audio"] == (1, 2)
    assert found["clips without an item"] == (1, 0)
    assert report.votes + report.votes_left_out == 22
    exported = read_export(tmp_path / "out")
    assert exported.name == "votes" and len(exported.votes) == 18 and exported.items["text"].notna().all()


def test_without_clips_and_texts_it_is_said_what_to_give(tmp_path):
    path = table(
        tmp_path / "votes.csv", [{"clip": "a", "rater": rater, "label": label} for rater, label in ("as", "bt")]
    )
    with pytest.raises(ValueError, match=r"there is no column of texts; pass the clips' folder as --audio, or name"):
        corpus_of(path)


@pytest.mark.parametrize("write", TITLES, ids=lambda write: write.__name__)
def test_every_format_becomes_a_corpus(write, tmp_path):
    names = [f"c{number}.wav" for number in range(6)]
    for name in names:
        clip(tmp_path / "clips" / name)
    votes = {(name, rater): ("joy" if n % 2 else "sad") for n, name in enumerate(names) for rater in ("ann", "ben")}
    votes[names[0], "ben"] = "joy"
    form = "counts" if write.__name__ == "counts" else ""
    report = export_corpus(
        corpus_of(write(tmp_path, votes, set()), tmp_path / "clips", format=form), tmp_path / "corpus"
    )
    assert (report.items, report.votes, report.votes_left_out) == (6, 12, 0)
    assert set(report.splits) == {"train", "validation", "test"} and report.seconds == pytest.approx(0.3)
    assert report.annotators == (0 if form else 2)


def test_an_export_may_move_together_with_its_clips(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for number in range(3):
        clip(here / "clips" / f"i{number:02d}.wav")
    export_corpus(corpus_of(table(tmp_path / "votes.csv", rows(3, 3)), here / "clips"), here / "data" / "mine")
    here.rename(there)
    audio = read_export(there / "data" / "mine").items["audio"]
    assert sorted(audio) == [str(there / "clips" / f"i{number:02d}.wav") for number in range(3)]


@pytest.mark.parametrize(
    ("asked", "default"),
    [
        ([], ("label",)),
        (["valence", "label"], ("valence", "power")),
        (["label", "valence=1..7"], ("label",)),
        (["valence=1..7"], ("valence",)),
    ],
)
def test_the_first_question_that_is_asked_for_is_trained(asked, default, tmp_path):
    path = table(tmp_path / "votes.csv", rows(valence=lambda n: n % 5, power=lambda n: n % 4))
    asked = [*asked, "power"] if default == ("valence", "power") else asked
    corpus = corpus_of(path, value=["valence", "power", "label"], question=asked)
    assert corpus.default_questions == default


def test_the_card_of_own_votes_names_no_release_and_no_version(tmp_path):
    path = table(tmp_path / "mine.csv", rows())
    export_corpus(corpus_of(path, text="text"), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "\n# Votes of mine\n" in card and "1.0.0" not in card and "release" not in card
    assert "made from the owner's own file by" in card and "Raters have the ids of the owner's own file;" in card
    assert read_export(tmp_path / "out").origin["version"] == ""


def test_a_language_is_on_the_card_and_in_the_export(tmp_path):
    path = table(tmp_path / "mine.csv", rows())
    export_corpus(corpus_of(path, language=["en", "pt-BR"]), tmp_path / "out")
    assert RepoCard.load(tmp_path / "out" / "README.md").data.language == ["en", "pt-BR"]
    assert read_export(tmp_path / "out").origin["language"] == ["en", "pt-BR"]
    export_corpus(corpus_of(path), tmp_path / "unsaid")
    assert "language" not in RepoCard.load(tmp_path / "unsaid" / "README.md").data.to_dict()
    with pytest.raises(ValueError, match="mine: language is 'english'; give a code of BCP 47"):
        corpus_of(path, language=["english"])
