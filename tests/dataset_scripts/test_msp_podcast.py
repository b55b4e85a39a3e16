"""MSP-Podcast: one content in every published form, its defects, and hostile files; all rows are invented."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from annot_hf.data.corpus import load_corpus_script
from annot_hf.data.export import export_corpus, read_export
from annot_hf.data.targets import make_targets, scale_means

SCRIPT = Path(__file__).parents[2] / "dataset_scripts" / "msp_podcast"
MspPodcast = load_corpus_script(SCRIPT)

ONE, TWO, THREE, FOUR = (f"MSP-PODCAST_000{n}_0008.wav" for n in range(1, 5))
FIVE = "MSP-PODCAST_0005_0008_01.wav"
ALICE, BOB, CAROL = "WORKER00000325", "WORKER00000328", "WORKER00000007"
FREE = "Other-tired, (bored?) \"so\" - 'what' | 1/2"
LINES = [  # turn, rater, primary, secondary, activation, valence, dominance
    (ONE, ALICE, "Neutral", "Neutral", "2.000000", "4.000000", "3.000000"),
    (ONE, BOB, "Neutral", "Neutral,Concerned", "2.000000", "4.000000", "2.000000"),
    (TWO, ALICE, "Angry", "Angry,Frustrated,Annoyed", "6.000000", "1.000000", "7.000000"),
    (TWO, CAROL, "Happy", "", "5.000000", "NaN", ""),
    (THREE, BOB, FREE, f"{FREE},Amused,Other", "4.500000", "4.000000", "4.000000"),
    (THREE, ALICE, "Other-sigh; then; a laugh", "Sad,Other-sigh; then; a laugh", "1.000000", "2.000000", "3.000000"),
    (FOUR, CAROL, "Sad", "Sad,Sad,Depressed", "1.000000", "1.000000", "1.000000"),
    (FIVE, CAROL, "Contempt", "Contempt,Disgust,Surprise,Fear,Excited", "7.000000", "6.000000", "5.000000"),
]
CONSENSUS = [
    (ONE, "N", "2.0", "4.0", "2.5", "30", "Male", "Train"),
    (TWO, "X", "5.5", "1.0", "7.0", "30", "Male", "Train"),
    (THREE, "O", "2.75", "3.0", "3.5", "Unknown", "Unknown", "Development"),
    (FOUR, "S", "1.0", "1.0", "1.0", "41", "Female", "Test1"),
    (FIVE, "C", "7.0", "6.0", "5.0", "52", "Female", "Test2"),
]
ANSWERS = ("EmoClass_Major", "EmoClass_Second", "EmoAct", "EmoVal", "EmoDom")
COLUMNS = ("EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")
EXPECTED = {
    "emotion": [(ONE, ALICE, "neutral"), (ONE, BOB, "neutral"), (TWO, ALICE, "angry"), (TWO, CAROL, "happy")]
    + [(THREE, BOB, "other"), (THREE, ALICE, "other"), (FOUR, CAROL, "sad"), (FIVE, CAROL, "contempt")],
    "emotion_secondary": [(ONE, ALICE, "neutral"), (ONE, BOB, "neutral"), (ONE, BOB, "sad"), (TWO, ALICE, "angry")]
    + [(TWO, CAROL, None), (THREE, BOB, "other"), (THREE, BOB, "happy"), (THREE, ALICE, "sad"), (THREE, ALICE, "other")]
    + [(FOUR, CAROL, "sad")]
    + [(FIVE, CAROL, label) for label in ("contempt", "disgust", "surprise", "fear", "happy")],
    "activation": [2, 2, 6, 5, 4.5, 1, 1, 7],
    "valence": [4, 4, 1, 4, 2, 1, 6],
    "dominance": [3, 2, 7, 4, 3, 1, 5],
}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def rater_line(worker, major, second, act, val, dom):
    return f"{worker}; {major}; {second}; A:{act}; V:{val}; D:{dom};"


def detailed_1_6(root, lines=LINES):
    write_csv(root / "label" / "labels_detailed.csv", [("FileName", "Workers", *ANSWERS), *lines])


def detailed_1_12(root, lines=LINES):
    rows = [(turn, rater_line(*line)) for turn, *line in lines]
    write_csv(root / "Labels" / "labels_detailed.csv", [("FileName", "EmoDetail"), *rows])


def detailed_2_0(root, lines=LINES):
    write_csv(root / "Labels" / "labels_detailed.csv", [("FileName", "WorkerID", *ANSWERS), *lines])


def detailed_json(root, lines=LINES):
    entries = {}
    for turn, worker, *answers in lines:
        entry = dict(zip(ANSWERS, answers, strict=True))  # activation, dominance, valence in some releases
        entries.setdefault(turn, {})[worker] = {name: entry[name] for name in (*ANSWERS[:3], "EmoDom", "EmoVal")}
    write(root / "labels" / "labels_detailed.json", json.dumps(entries, indent=2))


def labels_txt(root, lines=LINES):
    blocks = {}
    for turn, *line in lines:
        blocks.setdefault(turn, [f"{turn}; N; A:2.200000; V:4.000000; D:2.600000;"]).append(rater_line(*line))
    write(root / "Labels" / "labels.txt", "\n\n".join("\n".join(block) for block in blocks.values()))


def consensus_csv(root, rows=CONSENSUS, name="Labels/labels_consensus.csv"):
    write_csv(root / name, [("FileName", *COLUMNS), *rows])


def consensus_json(root, rows=CONSENSUS, name="label/labels_concensus.json"):
    write(root / name, json.dumps({turn: dict(zip(COLUMNS, row, strict=True)) for turn, *row in rows}))


def partition(root, rows=CONSENSUS, name="Partitions.txt"):
    write(root / name, "".join(f"{row[-1]}; {row[0]}\n" for row in rows))


def speaker_ids(root):
    genders = "".join(f"Speaker_{n}; {gender}\n" for n, gender in ((30, "Male"), (41, "Female"), (52, "Female")))
    write(root / "Speaker_ids.txt", genders + "".join(f"{row[0]};{row[5]}\n" for row in CONSENSUS))


def write_audio(root, names=(ONE, TWO, THREE, FOUR, FIVE), folder="Audios"):
    for name in names:
        (root / folder).mkdir(parents=True, exist_ok=True)
        soundfile.write(root / folder / name, np.zeros(1600), 16_000)


def miniature(root):
    """A complete miniature of release 2.0; returns votes per question."""
    detailed_2_0(root)
    consensus_csv(root)
    partition(root)
    speaker_ids(root)
    write_audio(root)
    write(root / "Transcripts" / ONE.replace("wav", "txt"), "Well, that is that.\n")
    return {name: len(votes) for name, votes in EXPECTED.items()}


@pytest.fixture
def root(tmp_path):
    miniature(tmp_path / "MSP-PODCAST-Publish-2.0")
    return tmp_path / "MSP-PODCAST-Publish-2.0"


def read_votes(root):
    corpus = MspPodcast(root)
    votes = corpus.read_votes()
    return votes, {reason: (finding.count, finding.votes) for reason, finding in corpus.findings.items()}, corpus


def said(votes):
    frame = votes.to_pandas().astype(object)
    frame = frame.where(frame.notna(), None)
    return {
        question.name: list(rows["rating"])
        if question.is_scale
        else list(zip(rows["item"], rows["annotator"], rows["label"], strict=True))
        for question in votes.questions
        for rows in [frame[frame["question"] == question.name]]
    }


FORMS = {
    "1.6": detailed_1_6,
    "1.12": detailed_1_12,
    "2.0": detailed_2_0,
    "json": detailed_json,
    "txt": labels_txt,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_votes(form, tmp_path):
    FORMS[form](tmp_path / "corpus")
    votes, notes, _ = read_votes(tmp_path / "corpus")
    assert said(votes) == EXPECTED
    assert list(votes.items) == [ONE, TWO, THREE, FOUR, FIVE] and list(votes.annotators) == [ALICE, BOB, CAROL]
    assert notes == {
        "primary labels Other with free text": (2, 0),
        "secondary labels Other with free text": (2, 0),
        "secondary words for a label that the rater gave before, one vote": (5, 0),
        "blank or NaN ratings of valence": (1, 0),
        "blank or NaN ratings of dominance": (1, 0),
    }
    detailed_2_0(tmp_path / "other")
    other = read_votes(tmp_path / "other")[0]
    for name in ("item_codes", "annotator_codes", "question_codes", "label_codes", "ratings"):
        np.testing.assert_array_equal(getattr(votes, name), getattr(other, name))
    assert votes.questions == other.questions == MspPodcast.questions


def test_merged_and_point_targets(tmp_path):
    detailed_2_0(tmp_path)
    votes, *_ = read_votes(tmp_path)
    targets = make_targets(votes, "emotion", "merged", items=[ONE, TWO, THREE, FOUR, FIVE])
    labels = [dict(zip(targets.support, row, strict=True)) for row in targets.probs.round(6)]
    assert [{label: mass for label, mass in row.items() if mass} for row in labels] == [
        {"neutral": 0.975, "sad": 0.025},  # concerned is like sad
        {"angry": 0.55, "happy": 0.45},  # one rater heard nothing besides, the other's further labels are like angry
        {"other": 0.95, "sad": 0.025, "happy": 0.025},
        {"sad": 1},
        {"contempt": 0.92, "happy": 0.02, "surprise": 0.02, "fear": 0.02, "disgust": 0.02},
    ]
    assert not targets.excluded
    hard = make_targets(votes, "emotion", "majority", items=[TWO], ties="other")
    assert hard.support[hard.probs[0].argmax()] == "other"  # no agreement, as in the consensus
    means = scale_means(votes, ("valence", "activation", "dominance"), [ONE, TWO])
    np.testing.assert_allclose(means, [[0, -2 / 3, -0.5], [-1, 0.5, 1]])


@pytest.mark.parametrize("form", FORMS)
def test_secondary_words_count_as_the_label_that_they_are_like(form, tmp_path):
    like = {"angry": ["Annoyed", "Frustrated", "hostile"], "sad": ["Depressed", "Disappointed", "Concerned"]}
    like |= {"happy": ["Excited", "Amused", "Other-amused", "Other - excited!"], "fear": ["Fear", "Other: fear"]}
    like |= {"other": ["Other", "Other-sigh", "Other-confused"], "neutral": ["Confused"]}  # confused is like none
    pairs = [(label, word) for label, words in like.items() for word in words]
    turns = [f"MSP-PODCAST_0001_{number:04d}.wav" for number in range(len(pairs))]
    lines = [(turn, ALICE, "Neutral", word, "1", "1", "1") for turn, (_, word) in zip(turns, pairs, strict=True)]
    FORMS[form](tmp_path, lines)
    votes, notes, _ = read_votes(tmp_path)
    targets = make_targets(votes, "emotion", "merged", items=turns, primary_weight=0.8)
    found = [{label for label, mass in zip(targets.support, row, strict=True) if mass} for row in targets.probs]
    assert found == [{"neutral", label} for label, _ in pairs]
    assert not targets.excluded and len(votes.select(questions=["emotion_secondary"])) == len(pairs) - 1
    assert notes["secondary labels Other with free text"] == (2, 0)
    assert notes["secondary words like none of the nine labels, left out"] == (1, 1)


def test_merged_votes_of_five_raters_as_published(tmp_path):
    second = ("Neutral", "Neutral, Concerned", "Sad / Depressed", "confused", "Neutral and Annoyed")
    major = ("Neutral", "Neutral", "Neutral", "Happy", "Neutral")
    lines = [
        (ONE, f"W{number}", *answers, "4", "4", "4") for number, answers in enumerate(zip(major, second, strict=True))
    ]
    detailed_2_0(tmp_path, lines)
    targets = make_targets(read_votes(tmp_path)[0], "emotion", "merged", primary_weight=0.8)
    masses = dict(zip(targets.support, targets.probs[0], strict=True))
    # secondary: neutral 1 + 1/2 + 1/2, sad 1/2 + 1, angry 1/2, of four raters
    expected = {"neutral": 0.64 + 0.1, "happy": 0.16, "sad": 0.075, "angry": 0.025}
    assert {label: mass for label, mass in masses.items() if mass} == pytest.approx(expected)


def test_primary_labels_have_the_same_codes_among_the_secondary_ones():
    emotion, secondary = MspPodcast.questions[:2]
    assert secondary.labels == emotion.labels and len(emotion.labels) == 9
    assert secondary.multiple and secondary.secondary_to == "emotion"


@pytest.mark.parametrize("name", ["Labels/labels_consensus", "labels/labels_concensus", "Label/LABELS_CONSENSUS"])
@pytest.mark.parametrize(("write_form", "suffix"), [(consensus_csv, ".csv"), (consensus_json, ".json")])
def test_items_of_every_consensus_form(write_form, suffix, name, tmp_path):
    write_form(tmp_path, name=name + suffix)
    write_audio(tmp_path, folder="audio")
    corpus = MspPodcast(tmp_path)
    items = corpus.read_items().set_index("item")
    unknown = corpus.findings["items without a speaker"]
    assert unknown.examples == (THREE,) and unknown.expected
    assert items.loc[ONE, ["speaker", "gender", "split", "consensus"]].tolist() == ["30", "male", "train", "neutral"]
    assert items.loc[TWO, "consensus"] == "no agreement"
    assert items.loc[THREE, ["speaker", "gender"]].isna().all()
    assert items["split"].tolist() == ["train", "train", "validation", "test1", "test2"]
    assert items.loc[ONE, ["consensus_activation", "consensus_valence", "consensus_dominance"]].tolist() == [2, 4, 2.5]
    assert items.loc[FIVE, "audio"] == f"audio/{FIVE}"


@pytest.mark.parametrize("name", ["Partitions.txt", "Partition.txt", "partitions.TXT"])
def test_partition_and_speaker_files_stand_in_for_the_consensus(name, tmp_path):
    labels_txt(tmp_path)
    partition(tmp_path, [*CONSENSUS[:2], ("MSP-PODCAST_0003_0008.wav", "Validation"), *CONSENSUS[3:]], name)
    speaker_ids(tmp_path)
    write_audio(tmp_path)
    report = export_corpus(MspPodcast(tmp_path), tmp_path.parent / f"{tmp_path.name}-export")
    items = read_export(report.folder).items.set_index("item")
    assert items["split"].to_dict() == dict(
        zip([row[0] for row in CONSENSUS], ["train", "train", "validation", "test1", "test2"], strict=True)
    )
    assert items.loc[FOUR, ["speaker", "gender"]].tolist() == ["41", "female"]
    assert items.loc[THREE, ["speaker", "gender"]].isna().all() and items["consensus"].isna().all()


def test_export_with_unlabelled_test_turns_and_missing_audio(root):
    withheld, listed, stray = "MSP-PODCAST_test3_0001.wav", "MSP-PODCAST_0009_0001.wav", "MSP-PODCAST_0009_0002.wav"
    partition(root, [*CONSENSUS, (listed, "Test3")])
    write_audio(root, [withheld, listed, stray])
    (root / "Audios" / TWO).unlink()
    (root / "Audios" / "._MSP-PODCAST_0001_0008.wav").write_bytes(b"mac")
    with pytest.raises(ValueError, match=f"1 of 7 items have no readable audio .{TWO}: missing"):
        export_corpus(MspPodcast(root), root.parent / "out")
    report = export_corpus(MspPodcast(root), root.parent / "out", missing_audio="drop")
    assert report.splits == {"train": 1, "validation": 1, "test1": 1, "test2": 1, "test3": 2}
    findings = {finding.reason: finding for finding in report.findings}
    assert findings["audio without labels"].count == 3
    assert findings["turns in no split, left out"].examples == (stray,)
    assert findings["items without votes"].count == 2
    lost = sum(row[0] == TWO for name in ("emotion", "emotion_secondary") for row in EXPECTED[name]) + 4
    assert (findings["items without audio"].examples, findings["items without audio"].votes) == ((TWO,), lost)
    assert report.votes + report.votes_left_out == sum(map(len, EXPECTED.values()))
    back = read_export(root.parent / "out")
    assert back.items.set_index("item").loc[ONE, "text"] == "Well, that is that."
    assert back.targets("train").support == MspPodcast.questions[0].labels
    with pytest.raises(ValueError, match="None of 2 items has a vote"):
        back.targets("test3")


@pytest.mark.parametrize("form", ["1.6", "1.12", "2.0", "txt"])
def test_the_first_line_of_a_file_and_rater_counts(form, tmp_path):
    plain, other = list(LINES[1]), list(LINES[1])
    other[2], other[4] = "Sad", "7.000000"
    FORMS[form](tmp_path / "corpus", [*LINES[:2], plain, other, *LINES[2:]])
    votes, notes, _ = read_votes(tmp_path / "corpus")
    assert said(votes) == EXPECTED
    assert notes["rater lines that repeat a file and rater, used where the first has no answer"] == (2, 12)
    assert notes["of these, lines that say something else"] == (1, 0)


@pytest.mark.parametrize("form", ["1.6", "1.12", "2.0", "txt"])
def test_a_line_repeats_only_the_answers_that_an_earlier_one_has(form, tmp_path):
    lines = [(ONE, ALICE, "Bored", "Bored", "nan", "2", "3"), (ONE, ALICE, "Sad", "Sad,Fear", "1", "5", "")]
    FORMS[form](tmp_path, [*lines, (ONE, ALICE, "Happy", "Happy", "7", "7", "7")])
    votes, notes, _ = read_votes(tmp_path)
    assert said(votes) == {
        "emotion": [(ONE, ALICE, "sad")],
        "emotion_secondary": [(ONE, ALICE, "sad"), (ONE, ALICE, "fear")],
        "activation": [1],
        "valence": [2],
        "dominance": [3],
    }
    # of 14 answers 2 are no label, 2 blank and 6 votes
    assert notes["rater lines that repeat a file and rater, used where the first has no answer"] == (2, 6)


def test_labels_outside_the_sets_are_left_out_and_named(tmp_path):
    lines = [
        (ONE, ALICE, "Bored", "Bored,Sad", "1", "1", "1"),
        (ONE, BOB, "Frustrated", "Bored", "1", "1", "1"),  # a secondary word is no primary label
        (ONE, CAROL, "happy ", " sad , HAPPY", "1", "nan", " 7 "),
    ]
    detailed_1_12(tmp_path, lines)
    votes, notes, corpus = read_votes(tmp_path)
    assert said(votes)["emotion"] == [(ONE, CAROL, "happy")]
    assert said(votes)["emotion_secondary"] == [(ONE, ALICE, "sad"), (ONE, CAROL, "sad"), (ONE, CAROL, "happy")]
    assert notes["primary labels outside the nine, left out"] == (2, 2)
    reason = "secondary words like none of the nine labels, left out"
    assert notes[reason] == (1, 2) and corpus.findings[reason].examples == ("Bored",)


def test_ratings_are_read_by_name(tmp_path):
    write_csv(
        tmp_path / "Labels" / "labels_detailed.csv", [("EmoDetail", "FileName"), ("W1; Sad; Sad; D:3; A:1; V:2", ONE)]
    )
    assert [said(read_votes(tmp_path)[0])[name] for name in ("activation", "valence", "dominance")] == [[1], [2], [3]]
    header = ("EmoDom", "FileName", "EmoVal", "more", "EmoAct", "WorkerID", "EmoClass_Second", "EmoClass_Major")
    write_csv(tmp_path / "Labels" / "labels_detailed.csv", [header, ("3", ONE, "2", "x", "1", "W1", "Sad", "Sad")])
    assert [said(read_votes(tmp_path)[0])[name] for name in ("activation", "valence", "dominance")] == [[1], [2], [3]]


def test_split_set_goes_before_the_partition_file(root):
    partition(root, [(ONE, "Test1"), *CONSENSUS[1:], CONSENSUS[4]])
    corpus = MspPodcast(root)
    items = corpus.read_items().set_index("item")
    assert items.loc[ONE, "split"] == "train"
    assert corpus.findings["turns in another split of the partition file, Split_Set used"].examples == (ONE,)
    assert corpus.findings["Partitions.txt: turns listed again, the first row used"].examples == (FIVE,)
    consensus_csv(root, [*CONSENSUS[:4], (*CONSENSUS[4][:1], "Z", *CONSENSUS[4][2:-1], "")])
    corpus = MspPodcast(root)
    assert corpus.read_items().set_index("item").loc[FIVE, "split"] == "test2"
    assert corpus.findings["turns whose consensus class is no known letter"].examples == (FIVE,)


@pytest.mark.parametrize(("write_form", "suffix", "row"), [(consensus_csv, "csv", 3), (consensus_json, "json", 2)])
def test_a_consensus_that_is_no_rating_is_counted(write_form, suffix, row, tmp_path):
    rows = [list(one) for one in CONSENSUS]
    rows[1][2], rows[2][2], rows[3][3], rows[4][4] = "abc", "nan", "inf", "9"
    rows[3][2] = None
    detailed_2_0(tmp_path)
    write_form(tmp_path, rows)
    corpus = MspPodcast(tmp_path)
    items = corpus.read_items().set_index("item")
    assert items["consensus_activation"].isna().tolist() == [False, True, True, True, False]
    assert items.loc[[FOUR], "consensus_valence"].isna().all() and items.loc[[FIVE], "consensus_dominance"].isna().all()
    found = {reason: one for reason, one in corpus.findings.items() if "no number from 1 to 7" in reason}
    told = f"labels_con[cs]ensus.{suffix}, row {row}: abc"
    first = found["consensus EmoAct that is no number from 1 to 7, left out"]
    assert [one.count for one in found.values()] == [1, 1, 1] and re.fullmatch(told, first.examples[0])
    with pytest.raises(ValueError, match=f"consensus EmoAct that is no number .*: 1, such as {told}, with 0 votes"):
        export_corpus(MspPodcast(tmp_path), tmp_path / "out", missing_audio="keep", strict=True)


def test_numbers_in_json_may_be_numbers(tmp_path):
    entry = {"EmoClass_Major": "Sad", "EmoClass_Second": None, "EmoAct": 1, "EmoVal": 2.5, "EmoDom": float("nan")}
    write(tmp_path / "Labels" / "labels_detailed.json", json.dumps({ONE: {"W1": entry}}))
    votes = said(read_votes(tmp_path)[0])
    assert [votes[name] for name in ("activation", "valence", "dominance")] == [[1], [2.5], []]
    assert votes["emotion_secondary"] == [(ONE, "W1", None)]


@pytest.mark.parametrize("form", ["1.12", "2.0", "json", "txt"])
def test_a_long_file_in_many_blocks_against_a_plain_loop(form, tmp_path, monkeypatch):
    monkeypatch.setattr("annot_hf.data.encoding.BLOCK", 3000)
    generator = np.random.default_rng(0)
    words = [label.title() for label in MspPodcast.questions[1].labels] + ["Other-so, (so); so"]
    lines, expected = [], {question.name: [] for question in MspPodcast.questions}
    for number in range(6000):
        major = [*words[:9], words[-1]][generator.integers(10)]
        second = [words[code] for code in generator.integers(0, len(words), generator.integers(4))]
        ratings = [f"{value}.000000" for value in generator.integers(1, 8, 3)]
        turn, worker = f"MSP-PODCAST_{number // 50:04d}_{number // 5:04d}.wav", f"WORKER{number % 7}"
        lines.append((turn, worker, major, ",".join(second), *ratings))
        expected["emotion"].append((turn, worker, major.split("-")[0].lower()))
        chosen = list(Counter(word.split("-")[0].lower() for word in second)) or [None]
        expected["emotion_secondary"] += [(turn, worker, label) for label in chosen]
        for name, rating in zip(("activation", "valence", "dominance"), ratings, strict=True):
            expected[name].append(float(rating))
    FORMS[form](tmp_path, lines)
    assert said(read_votes(tmp_path)[0]) == expected
