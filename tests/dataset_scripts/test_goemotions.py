"""GoEmotions: a miniature of the raw release and its defects; all rows are invented."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from annot_hf.data.corpus import load_corpus_script
from annot_hf.data.export import export_corpus, read_export

SCRIPT = Path(__file__).parents[2] / "dataset_scripts" / "goemotions"
GoEmotions = load_corpus_script(SCRIPT)

EMOTIONS = (
    "admiration amusement anger annoyance approval caring confusion curiosity desire disappointment disapproval disgust "
    "embarrassment excitement fear gratitude grief joy love nervousness optimism pride realization relief remorse "
    "sadness surprise neutral".split()
)
HEADER = ["text", "id", "author", "subreddit", "link_id", "parent_id", "created_utc", "rater_id"]
HEADER += ["example_very_unclear", *EMOTIONS]
COMMENTS = {  # id: text, thread
    "ed00q6i": ('That game hurt, "really".', "t3_aj1jla"),
    "eezlygj": (">sexuality shouldn't be\na grouping category", "t3_al7vtn"),
    "eew5j0j": ("[NAME] is back", "t3_al7vtn"),
}
RESPONSES = [  # id, rater, labels; None: very unclear
    ("ed00q6i", "61", ("sadness",)),
    ("ed00q6i", "37", ("sadness", "disappointment")),
    ("eezlygj", "37", None),
    ("eezlygj", "18", ("neutral",)),
    ("eew5j0j", "61", ("joy", "admiration", "surprise")),
]


def table_row(comment, rater, labels, unclear=None):
    text, thread = COMMENTS[comment]
    unclear = str(labels is None) if unclear is None else unclear
    about = [text, comment, "SomeAuthor", "nfl", thread, "t1_ed0", "1548381039.0", rater, unclear]
    return [*about, *(int(emotion in (labels or ())) for emotion in EMOTIONS)]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *rows])


def write_all(root, rows):
    for number in (1, 2, 3):
        write(root / f"goemotions_{number}.csv", rows[number - 1 :: 3])


def miniature(root):
    """A complete miniature; returns votes per question."""
    write_all(root, [table_row(*response) for response in RESPONSES])
    return {"emotion": 7, "clarity": 5}


@pytest.fixture
def root(tmp_path):
    miniature(tmp_path / "goemotions")
    return tmp_path / "goemotions"


def export(root):
    report = export_corpus(GoEmotions(root), root.parent / "out")
    return report, read_export(root.parent / "out"), {finding.reason: finding for finding in report.findings}


def test_comments_labels_and_threads(root):
    report, back, _ = export(root)
    items = back.items.set_index("item")
    assert items["text"].to_dict() == {name: text for name, (text, _) in COMMENTS.items()}
    assert items["thread"].to_dict() == {name: thread for name, (_, thread) in COMMENTS.items()}
    assert items.loc["ed00q6i", "created_utc"] == 1548381039 and "SomeAuthor" not in items.astype(str).to_numpy()
    assert items.groupby("thread")["split"].nunique().max() == 1
    counts = dict(zip(EMOTIONS, back.votes.counts("emotion", items=["ed00q6i"])[0], strict=True))
    assert {label: count for label, count in counts.items() if count} == {"sadness": 2, "disappointment": 1}
    assert set(back.votes.annotators) == {"61", "37", "18"}
    assert set(back.votes.sources) == {"goemotions_1.csv", "goemotions_2.csv", "goemotions_3.csv"}


def test_unclear_responses_are_votes_on_clarity_and_reported(root):
    report, back, findings = export(root)
    np.testing.assert_array_equal(back.votes.counts("clarity", items=["eezlygj", "ed00q6i"]), [[1, 1], [2, 0]])
    assert report.questions["clarity"]["votes"] == len(RESPONSES)
    reason = "responses marked very unclear, with no label: votes on clarity only"
    assert {reason: 1} == {name: finding.count for name, finding in findings.items()}
    heard = back.votes.select(questions=["emotion"], items=["eezlygj"]).to_pandas()
    assert heard["annotator"].tolist() == ["18"]


def test_contradictions_are_kept_and_reported(root):
    rows = [table_row(*response) for response in RESPONSES]
    rows[0] = table_row("ed00q6i", "61", ("joy",), unclear="True")
    rows[3] = table_row("eezlygj", "18", (), unclear="False")
    write_all(root, rows)
    report, back, findings = export(root)
    assert findings["responses marked very unclear, with labels, kept"].count == 1
    assert findings["clear responses without a label, a vote for none"].count == 1
    assert back.votes.select(questions=["emotion"], items=["eezlygj"]).label_codes.tolist() == [-1]
    assert (report.questions["emotion"]["votes"], report.votes_left_out) == (7, 0)


def test_repeated_responses_and_texts_are_counted(root):
    rows = [table_row(*response) for response in [*RESPONSES, ("ed00q6i", "37", ("sadness", "anger"))]]
    rows[-1][0] = "Another text"
    write_all(root, rows)
    report, back, findings = export(root)
    assert findings["repeated votes of one annotator"].votes == 2  # sadness again, and clear again
    assert report.votes + report.votes_left_out == 7 + 5 + 3
    assert findings["comments that come with several texts, the first used"].examples == ("ed00q6i",)
    assert back.items.set_index("item").loc["ed00q6i", "text"] == COMMENTS["ed00q6i"][0]


def test_a_file_that_is_not_there_is_reported(root):
    (root / "goemotions_2.csv").unlink()
    assert export(root)[2]["label files that are not there"].examples == ("goemotions_2.csv",)


def test_the_folder_of_the_repository_and_gzip(root):
    (root / "data" / "full_dataset").mkdir(parents=True)
    digest = export(root)[1].digest
    for number in (1, 2, 3):
        path = root / f"goemotions_{number}.csv"
        (root / "data" / "full_dataset" / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert export(root)[1].digest == digest


def test_a_comment_without_a_thread_is_one_of_its_own(root):
    rows = [table_row(*response) for response in RESPONSES]
    rows[4][4] = ""
    write_all(root, rows)
    _, back, findings = export(root)
    assert findings["comments without a thread, each a thread of its own"].examples == ("eew5j0j",)
    assert back.items.set_index("item").loc["eew5j0j", "thread"] == "eew5j0j"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (1, "", "goemotions_1.csv: row 2 has id ''; it must be a name"),
        (7, "", "row 2 has rater_id ''; it must be a name"),
        (8, "maybe", "row 2 has example_very_unclear 'maybe'; it must be True or False"),
        (9, "2", "row 2 has admiration '2'; it must be 0 or 1"),
        (0, " ", r"goemotions: 1 of 3 items have no text \(ed00q6i: missing\)"),
    ],
)
def test_broken_rows_are_named(root, place, value, message):
    rows = [table_row(*response) for response in RESPONSES]
    for row in rows[:2]:
        row[place] = value
    write_all(root, rows)
    with pytest.raises(ValueError, match=message):
        export(root)


def test_a_missing_column_is_named(root):
    path = root / "goemotions_3.csv"
    path.write_text(path.read_text().replace("grief", "sorrow"))
    with pytest.raises(ValueError, match=r"goemotions_3.csv: the header is .*it must have the columns text,id"):
        export(root)
