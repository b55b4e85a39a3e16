"""CREMA-D: a miniature of the upstream layout, its known oddities, and the real votes where they stand."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
import soundfile

from annot_hf.data.corpus import load_corpus_script
from annot_hf.data.export import export_corpus, read_export

SCRIPT = Path(__file__).parents[2] / "dataset_scripts" / "cremad"
REAL = Path(__file__).parents[3] / "shared" / "data" / "cremad"
CremaD = load_corpus_script(SCRIPT)

CLIPS = [
    "1001_IEO_NEU_XX",
    "1001_IEO_HAP_LO",
    "1043_DFA_ANG_XX",
    "1049_ITH_SAD_XX",
    "1050_ITH_FEA_HI",
    "1091_TIE_DIS_MD",
]
HEADER = ["", "A", "D", "F", "H", "N", "S", "fileName", "numResponses", "agreement", "emoVote"]
COUNTS = [0, 1, 2, 0, 4, 1]


def table_row(key, clip, counts=COUNTS):
    return [key, *counts, clip, sum(counts), 0.5, "N"]


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_audio(path, seconds=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(int(16_000 * seconds)), 16_000)


def table_rows():
    return [table_row(f"{m}0000{n}", clip) for m in (1, 2, 3) for n, clip in enumerate(CLIPS)]


def miniature(root):
    """A complete miniature; returns votes per question."""
    write_csv(root / "processedResults" / "tabulatedVotes.csv", [HEADER, *table_rows()])
    actors = sorted({clip[:4] for clip in CLIPS})
    rows = [[actor, 20 + i, ["Male", "Female"][i % 2], "Caucasian", "Not Hispanic"] for i, actor in enumerate(actors)]
    write_csv(root / "VideoDemographics.csv", [["ActorID", "Age", "Sex", "Race", "Ethnicity"], *rows])
    header = ["", "localid", "queryType", "clipName", "respEmo", "respLevel"]
    responses = [[n, f"SSI_{n % 4}", 1 + n % 3, CLIPS[n % 6], "ADFHNS"[n % 6], 10 * n] for n in range(9)]
    write_csv(root / "finishedResponses.csv", [header, *responses])
    for clip in CLIPS:
        write_audio(root / "AudioWAV" / f"{clip}.wav")
    counts = {name: 8 * len(CLIPS) for name in ("voice", "face", "audiovisual")}
    return counts | {f"{name}_{kind}": 3 for name in counts for kind in ("responses", "level")}


@pytest.fixture
def root(tmp_path):
    miniature(tmp_path / "CREMA-D")
    return tmp_path / "CREMA-D"


def export(root, **options):
    report = export_corpus(CremaD(root), root.parent / "out", **options)
    return report, read_export(root.parent / "out"), {finding.reason: finding for finding in report.findings}


def rewrite(root, rows):
    write_csv(root / "processedResults" / "tabulatedVotes.csv", [HEADER, *rows])


def test_items_votes_and_splits(root):
    report, back, findings = export(root)
    assert not findings and report.votes_left_out == 0
    items = back.items.set_index("item")
    first = items.loc["1001_IEO_HAP_LO"]
    assert (first.speaker, first.sex, first.age) == ("1001", "male", 20)
    assert (first.sentence, first.acted, first.level) == ("IEO", "happy", "low")
    assert items["split"].to_dict() == dict(
        zip(CLIPS, ["train"] * 2 + ["validation", "test", "test", "train"], strict=True)
    )
    np.testing.assert_array_equal(back.votes.counts("face", items=CLIPS), [COUNTS] * 6)
    assert set(back.votes.annotators) == {"SSI_0", "SSI_1", "SSI_2", "SSI_3"}


def test_named_responses_are_not_added_to_the_counts(root):
    _, back, _ = export(root)
    assert back.votes.counts("voice").sum() == 8 * 6
    assert (back.votes.annotator_codes[back.votes.rows_of("voice")] == -1).all()
    assert (back.votes.annotator_codes[back.votes.rows_of("voice_responses")] >= 0).all()
    levels = back.votes.ratings[back.votes.rows_of("voice_level")]
    assert sorted(levels) == [0, 30, 60]


@pytest.mark.parametrize("folders", [("AudioWAV", "AudioMP3"), ("AudioMP3", "AudioOpus"), ("AudioOpus",)])
def test_audio_folders_in_order_of_preference(root, folders):
    (root / "AudioWAV").rename(root / "gone")
    suffixes = {"AudioWAV": ".wav", "AudioMP3": ".mp3", "AudioOpus": ".opus"}
    for folder in folders:
        for clip in CLIPS:
            path = root / folder / f"{clip}{suffixes[folder]}"
            path.parent.mkdir(exist_ok=True)
            kind = {"AudioWAV": ("WAV", None), "AudioMP3": ("MP3", None), "AudioOpus": ("OGG", "OPUS")}[folder]
            soundfile.write(path, np.zeros(1600), 16_000, format=kind[0], subtype=kind[1])
    _, back, _ = export(root)
    assert all(file.startswith(folders[0] + "/") for file in back.items["file"])


def test_without_responses_and_demographics(root):
    (root / "finishedResponses.csv").unlink()
    (root / "VideoDemographics.csv").unlink()
    _, back, findings = export(root)
    assert [question.name for question in back.questions] == ["voice", "face", "audiovisual"]
    assert findings["actors without demographics"].count == 5
    assert back.items["age"].isna().all()


def test_the_subset_file_name_is_accepted(root):
    (root / "finishedResponses.csv").rename(root / "finishedResponses_subset.csv")
    assert "voice_level" in [question.name for question in export(root)[1].questions]


def test_misspelt_audio_is_matched(root):
    (root / "AudioWAV" / "1049_ITH_SAD_XX.wav").rename(root / "AudioWAV" / "1049_ITH_SAD_X.wav")
    _, back, findings = export(root)
    assert back.items.set_index("item").loc["1049_ITH_SAD_XX", "file"] == "AudioWAV/1049_ITH_SAD_X.wav"
    examples = findings["audio files with a misspelt name, matched"].examples
    assert examples == ("1049_ITH_SAD_X.wav for 1049_ITH_SAD_XX",)


def test_misspelt_table_names_are_matched(root):
    rows = table_rows()
    rows[3][7] = "1049_ITH_SAD_X"
    rows[4][7] = " 1050_ith_fea_hi.wav"
    rewrite(root, rows)
    report, back, findings = export(root)
    assert findings["tabulatedVotes: misspelt clip names, matched"].count == 2
    assert report.votes_left_out == 0 and back.votes.counts("voice", items=CLIPS).sum() == 48


def test_names_that_are_no_clips_are_left_out_with_their_votes(root):
    rewrite(root, [*table_rows(), table_row("100009", "../../etc/passwd"), table_row("100010", "1001_IEO_JOY_XX")])
    write_audio(root / "AudioWAV" / "readme_first.wav")
    report, back, findings = export(root)
    assert findings["tabulatedVotes: rows whose name is no clip name"].votes == 16
    assert findings["audio files whose name is no clip name, left out"].examples == ("readme_first.wav",)
    assert back.votes.counts("voice").sum() + 16 == 8 * 8


def test_repeated_rows_count_once_and_the_regular_spelling_wins(root):
    other = [8, 0, 0, 0, 0, 0]
    rewrite(root, [table_row("100007", "1049_ITH_SAD_X", other), *table_rows(), table_row("100008", CLIPS[0], other)])
    report, back, findings = export(root)
    assert (findings["repeated table rows"].count, report.votes_left_out) == (2, 16)
    np.testing.assert_array_equal(back.votes.counts("voice", items=CLIPS), [COUNTS] * 6)


def test_two_audio_files_of_one_clip(root):
    write_audio(root / "AudioWAV" / "1049_ITH_SAD_X.wav", seconds=0.2)
    _, back, findings = export(root)
    assert findings["audio files that repeat a clip, left out"].examples == ("1049_ITH_SAD_X.wav",)
    assert back.items.set_index("item").loc["1049_ITH_SAD_XX", "seconds"] == pytest.approx(0.1)


def test_clips_without_audio_and_audio_without_votes(root):
    (root / "AudioWAV" / f"{CLIPS[0]}.wav").unlink()
    (root / "AudioWAV" / f"{CLIPS[1]}.wav").write_text("version https://git-lfs.github.com/spec/v1\noid")
    write_audio(root / "AudioWAV" / "1002_TSI_SAD_XX.wav")
    with pytest.raises(ValueError, match="cremad: 2 of 7 items have no readable audio"):
        export(root)
    report, back, findings = export(root, missing_audio="drop")
    assert findings["items without audio"].examples == (CLIPS[0],)
    assert "git lfs pull" in findings["items with unreadable audio"].examples[0]
    assert findings["items without votes"].examples == ("1002_TSI_SAD_XX",)
    assert report.votes + report.votes_left_out == 3 * 6 * 8 + 2 * 9
    assert len(export(root, missing_audio="keep")[1].votes) == 3 * 6 * 8 + 2 * 9


def test_bad_responses_are_counted(root):
    header = ["", "localid", "queryType", "clipName", "respEmo", "respLevel"]
    rows = [
        [0, "r1", 1, CLIPS[0], "A", 50],
        [1, "r1", 1, CLIPS[0], "S", 60],  # the rater again
        [2, "r2", 1, CLIPS[0], "Q", 50],  # no such emotion
        [3, "r3", 1, CLIPS[0], "A", 101],  # off the scale
        [4, "r4", 1, "practice", "A", 10],
    ]
    write_csv(root / "finishedResponses.csv", [header, *rows])
    report, back, findings = export(root)
    assert findings["repeated votes of one annotator"].votes == 2
    assert findings["values outside the question"].votes == 2
    assert findings["finishedResponses: rows whose name is no clip name"].votes == 2
    assert report.votes - 144 + report.votes_left_out == 10


def test_a_sum_that_disagrees_is_reported(root):
    rows = table_rows()
    rows[0][8] = 99
    rewrite(root, rows)
    assert export(root)[2]["table rows whose numResponses is not the sum of the counts"].examples == ("100000",)


BROKEN = {
    "no table": (None, "processedResults/tabulatedVotes.csv is not in"),
    "empty file": ("", "it must have the columns A,D,F,H,N,S,fileName,numResponses"),
    "no rows": (",".join(HEADER) + "\n", "has no rows"),
    "column missing": (
        "key,A,D,F,H,N,fileName,numResponses\n100001,1,0,0,0,0,x,1\n",
        "must have the columns A,D,F,H,N,S",
    ),
    "unknown modality": ([table_row("400001", CLIPS[0])], "row key '400001'"),
    "key is no number": ([table_row("1x", CLIPS[0])], "row key '1x'"),
    "negative": ([table_row("100001", CLIPS[0], [-1, 0, 0, 0, 0, 1])], "row 100001 has '-1' votes for anger"),
    "fraction": ([table_row("100001", CLIPS[0], [0, 0.5, 0, 0, 0, 1])], "'0.5' votes for disgust"),
    "word": (
        [[*table_row("100001", CLIPS[0])[:5], "many", *table_row("100001", CLIPS[0])[6:]]],
        "'many' votes for neutral",
    ),
}


@pytest.mark.parametrize("content, message", BROKEN.values(), ids=BROKEN)
def test_broken_tables(root, content, message):
    path = root / "processedResults" / "tabulatedVotes.csv"
    if content is None:
        path.unlink()
    elif isinstance(content, str):
        path.write_text(content)
    else:
        rewrite(root, content)
    with pytest.raises(ValueError, match=message):
        export(root)
    assert not (root.parent / "out").exists()


@pytest.mark.parametrize(
    "name", ["finishedResponses.csv", "processedResults/tabulatedVotes.csv", "VideoDemographics.csv"]
)
@pytest.mark.parametrize("spoil", [lambda row: [*row, "x"], lambda row: row[:-1]], ids=["longer", "shorter"])
@pytest.mark.parametrize("rows", [slice(1, None), slice(2, 3)], ids=["every", "one"])
def test_rows_of_another_length_than_the_header_are_refused(root, name, spoil, rows):
    with open(root / name, newline="") as file:
        table = list(csv.reader(file))
    table[rows] = [spoil(row) for row in table[rows]]
    write_csv(root / name, table)
    with pytest.raises(ValueError, match=rf"{name}: not a readable file .*Expected {len(table[0])} columns, got"):
        export(root)


def test_unknown_query_type(root):
    header = ["", "localid", "queryType", "clipName", "respEmo", "respLevel"]
    write_csv(root / "finishedResponses.csv", [header, [0, "r1", 4, CLIPS[0], "A", 5]])
    with pytest.raises(ValueError, match="queryType '4'; it is 1, 2 or 3"):
        export(root)


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/cremad is not here")
def test_real_votes_are_exact(tmp_path):
    report = export_corpus(CremaD(REAL), tmp_path / "out")
    assert report.items == 4901 and report.findings == () and report.annotators == 291
    votes = {name: row["votes"] for name, row in report.questions.items()}
    assert (votes["voice"], votes["face"], votes["audiovisual"]) == (45_177, 47_259, 47_331)
    assert sum(votes[f"{name}_responses"] for name in ("voice", "face", "audiovisual")) == 301
    spread = [tuple(report.questions[name].values())[2:] for name in ("voice", "face", "audiovisual")]
    assert spread == [(4, 9, 12), (6, 10, 12), (5, 10, 12)]
    back = read_export(tmp_path / "out")
    with gzip.open(REAL / "votes.csv.gz", "rt") as file:  # derived by others from the same table
        rows = list(csv.DictReader(file))
    labels = ("anger", "disgust", "fear", "happy", "neutral", "sad")
    for modality in ("voice", "face", "audiovisual"):
        mine = [row for row in rows if row["modality"] == modality]
        counts = back.votes.counts(modality, items=[row["clip"] for row in mine])
        np.testing.assert_array_equal(counts, [[int(row[label]) for label in labels] for row in mine])
