"""MOSI-Subjectivity: the layout that its README defines; all forms are invented."""

import csv
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset

from annot_hf.data.corpus import load_corpus_script
from annot_hf.data.export import export_corpus, read_export
from annot_hf.data.targets import make_targets
from annot_hf.evaluation.agreement import agreement

SCRIPT = Path(__file__).parents[2] / "dataset_scripts" / "mosi_subjectivity"
MosiSubjectivity = load_corpus_script(SCRIPT)

CLIPS = [
    ("2iD-tVS8NPw_1", "2iD-tVS8NPw", "I was, like, 😀 so happy to see it"),
    ("2iD-tVS8NPw_2", "2iD-tVS8NPw", "It is a film"),
    ("03bSnISJMiM_1", "03bSnISJMiM", "The plot, awful"),
]
FORMS = [
    ("2iD-tVS8NPw_1", "ann", "happiness", "happiness;surprise", "yes"),
    ("2iD-tVS8NPw_1", "ben", "happiness", "happiness", "yes"),
    ("2iD-tVS8NPw_2", "ann", "", "", "no"),
    ("2iD-tVS8NPw_2", "ben", "surprise", "surprise", "yes"),
    ("03bSnISJMiM_1", "ann", "disgust", "disgust; anger", "yes"),
]
SPANS = [
    ("2iD-tVS8NPw_1", "ann", 15, 23, "so happy"),
    ("2iD-tVS8NPw_1", "ben", 13, 23, "😀 so happy"),
    ("03bSnISJMiM_1", "ann", 10, 15, "awful"),
]
FILES = {
    "clips": [("clip", "video", "text"), *CLIPS],
    "answers": [("clip", "rater", "most_present", "all_present", "any_emotion"), *FORMS],
    "highlights": [("clip", "rater", "start", "end", "words"), *SPANS],
}


def write(root, **files):
    root.mkdir(parents=True, exist_ok=True)
    for name, rows in (FILES | files).items():
        with open(root / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


def miniature(root):
    """A complete miniature; returns votes per question."""
    write(root)
    return {"most_present": 4, "all_present": 7, "any_emotion": 5}


@pytest.fixture
def root(tmp_path):
    miniature(tmp_path / "form")
    return tmp_path / "form"


def export(root, **options):
    report = export_corpus(MosiSubjectivity(root), root.parent / "out", **options)
    return report, read_export(root.parent / "out"), {finding.reason: finding for finding in report.findings}


def changed(name, row, column, value):
    rows = [list(one) for one in FILES[name]]
    rows[row][column] = value
    return {name: rows}


def test_the_three_questions(root):
    report, back, findings = export(root)
    first = [CLIPS[0][0]]
    np.testing.assert_array_equal(back.votes.counts("most_present", items=first), [[0, 0, 0, 2, 0, 0]])
    np.testing.assert_array_equal(back.votes.counts("all_present", items=first), [[0, 0, 0, 2, 0, 1]])
    np.testing.assert_array_equal(back.votes.counts("any_emotion", items=[CLIPS[1][0]]), [[1, 1]])
    assert report.votes_left_out == 0 and set(findings) == {"forms with no most present emotion, no vote on it"}
    assert back.items.groupby("video")["split"].nunique().max() == 1
    merged = make_targets(back.votes, "most_present", "merged", items=first)
    np.testing.assert_allclose(merged.probs, [[0, 0, 0, 0.9 + 0.1 * 0.75, 0, 0.1 * 0.25]])
    found = agreement(back.votes, "any_emotion")
    assert (found.cohen_kappa.value, found.rater_pairs) == (pytest.approx(0), 1)


def test_highlights_are_a_table_of_spans(root, tmp_path):
    report, back, _ = export(root)
    assert report.spans == 3 and ("spans", "3", "highlighted in the text") in report.rows()
    texts = back.items.set_index("item")["text"]
    found = {tuple(row) for row in back.spans.itertuples(index=False)}
    assert found == set(SPANS)
    for item, _, start, end, words in found:
        assert texts[item][start:end] == words
    splits = load_dataset(str(root.parent / "out"), "spans", cache_dir=str(tmp_path / "cache"))
    rows = [row for part in splits.values() for row in part]
    assert {tuple(row.values()) for row in rows} == set(SPANS)
    assert "`spans`: item, annotator, start, end and words" in (root.parent / "out" / "README.md").read_text()


def test_the_digest_follows_the_spans(root):
    digest = export(root)[1].digest
    write(root, highlights=FILES["highlights"][:-1])
    assert export(root)[1].digest != digest


def test_highlights_are_optional_and_need_no_words(root):
    write(root, highlights=[row[:4] for row in FILES["highlights"]])
    assert set(export(root)[1].spans["words"]) == {row[4] for row in SPANS}
    (root / "highlights.csv").unlink()
    report, back, _ = export(root)
    assert back.spans is None and report.spans == 0 and not (root.parent / "out" / "spans").exists()


def test_further_columns_and_given_splits(root):
    splits = ("train", "test", "validation")
    rows = [(*row, split, "s1") for row, split in zip(CLIPS, splits, strict=True)]
    write(root, clips=[("clip", "video", "text", "split", "style"), *rows])
    _, back, _ = export(root)
    assert back.items["split"].tolist() == ["train", "validation", "test"] and set(back.items["style"]) == {"s1"}


def test_contradictory_forms_are_kept_and_reported(root):
    clip = CLIPS[2][0]
    forms = [(clip, "ben", "anger", "disgust", "no"), (clip, "cy", "", "", "yes"), (clip, "di", "fear", "fear", "")]
    write(root, answers=[*FILES["answers"], *forms])
    report, _, findings = export(root)
    examples = {reason: finding.examples for reason, finding in findings.items()}
    assert examples["forms that see no emotion and name one, kept"] == (f"{clip} by ben",)
    assert examples["forms whose most present emotion is not among all present, kept"] == (f"{clip} by ben",)
    assert examples["forms that see an emotion and name none, kept"] == (f"{clip} by cy",)
    assert examples["forms that do not say whether there is any emotion, no vote on it"] == (f"{clip} by di",)
    assert {name: row["votes"] for name, row in report.questions.items()} == {
        "most_present": 6,
        "all_present": 10,
        "any_emotion": 7,
    }


def test_spans_on_items_left_out_are_counted(root):
    write(root, **changed("clips", 3, 2, ""))
    with pytest.raises(ValueError, match=r"1 of 3 items have no text \(03bSnISJMiM_1: missing\).*missing_text=.drop"):
        export(root)
    report, back, findings = export(root, missing_text="drop")
    assert findings["items without text"].votes == 4 and report.votes == 16 - 4
    assert len(back.spans) == 2 and findings["spans on items or by raters that are left out"].count == 1
    with pytest.raises(
        ValueError, match="span row 2 is on item '03bSnISJMiM_1', which has no text; leave the span out"
    ):
        export(root, missing_text="keep")


def test_the_list_of_all_present_may_be_untidy(root):
    write(root, **changed("answers", 1, 3, " happiness ;; surprise;happiness;"))
    report, back, findings = export(root)
    np.testing.assert_array_equal(back.votes.counts("all_present", items=[CLIPS[0][0]]), [[0, 0, 0, 2, 0, 1]])
    assert findings["repeated votes of one annotator"].votes == 1 == report.votes_left_out


@pytest.mark.parametrize(
    ("name", "row", "column", "value", "message"),
    [
        ("clips", 2, 0, CLIPS[0][0], r"clips.csv: row 3 has clip '2iD-tVS8NPw_1'; it must be listed once"),
        ("clips", 2, 1, " ", "row 3 has video ' '; it must name the video"),
        ("answers", 1, 1, "", "answers.csv: row 2 has rater ''; it must be a name"),
        ("answers", 2, 1, "ann", "row 3 has rater 'ann'; it must fill in one form a clip"),
        ("answers", 1, 2, "joy", "row 2 has most_present 'joy'; it must be anger, disgust,"),
        (
            "answers",
            1,
            3,
            "happiness,fear",
            "row 2 has all_present 'happiness,fear'; it must be labels with ';' between",
        ),
        ("answers", 1, 4, "maybe", "row 2 has any_emotion 'maybe'; it must be yes, no or blank"),
        ("answers", 1, 0, "nowhere", r"votes are on 1 items that the corpus does not list \(nowhere\)"),
        ("highlights", 1, 0, "2iD-tVS8NPw_3", "span row 0 is on item '2iD-tVS8NPw_3' .did you mean '2iD-tVS8NPw_"),
        ("highlights", 1, 1, "zoe", "span row 0 is by annotator 'zoe', who has no vote on item '2iD-tVS8NPw_1'"),
        ("highlights", 3, 1, "ben", "span row 2 is by annotator 'ben', who has no vote on item '03bSnISJMiM_1'"),
        ("highlights", 3, 3, "16", "span row 2 goes from '10' to '16' in a text of 15 characters; give whole numbers"),
        ("highlights", 1, 2, "23", "span row 0 goes from '23' to '23'"),
        ("highlights", 1, 2, "-1", "span row 0 goes from '-1'"),
        ("highlights", 1, 2, "1.5", "span row 0 goes from '1.5'"),
        ("highlights", 1, 3, "end", "span row 0 goes from '15' to 'end'"),
        ("highlights", 1, 4, "so sad", "span row 0 has the words 'so sad', but from 15 to 23 .* holds 'so happy'"),
        ("highlights", 2, 0, "", "span row 1 is on item ''"),
    ],
)
def test_broken_rows_are_named(root, name, row, column, value, message):
    write(root, **changed(name, row, column, value))
    with pytest.raises(ValueError, match=message):
        export(root)


def test_a_span_is_listed_once(root):
    write(root, highlights=[*FILES["highlights"], SPANS[0]])
    with pytest.raises(ValueError, match="span row 3 repeats a span of annotator 'ann' on item '2iD-tVS8NPw_1'"):
        export(root)


@pytest.mark.parametrize("home", ["Raw/Transcript", "Transcript"])
@pytest.mark.parametrize("form", ["Segmented/{}.annotprocessed", "Segmented/Combined/{}.txt"])
def test_transcripts_of_mosi_stand_for_the_clips(form, home, root):
    (root / "clips.csv").unlink()
    # further segments have no forms, and macOS leaves copies
    clips = [*CLIPS, ("03bSnISJMiM_2", "03bSnISJMiM", " ")]
    for video in {video for _, video, _ in clips}:
        lines = [(clip.rpartition("_")[2], text) for clip, name, text in clips if name == video]
        spoken = [
            f"{n}_DELIM_ {text}" if "annot" in form else f"{video}___{n}___0.5___1.25___{text}" for n, text in lines
        ]
        path = root / home / form.format(video)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\r\n".join([*spoken, "", spoken[0]]), encoding="utf-8-sig")
        (path.parent / f"._{path.name}").write_bytes(b"\x00\xff")
    report, back, findings = export(root, missing_text="keep")
    items = back.items.set_index("item")
    assert {clip: items.loc[clip, "text"] for clip, *_ in CLIPS} == {clip: text for clip, _, text in CLIPS}
    assert items.groupby("video")["split"].nunique().max() == 1 and report.spans == 3
    assert findings["segments that stand again, the first transcript used"].count == 2
    assert findings["items without votes"].examples == ("03bSnISJMiM_2",)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Segmented/v.annotprocessed", "no number"),
        ("Segmented/v.annotprocessed", "\u0661_DELIM_text"),
        ("Segmented/Combined/v.txt", "v___1___text"),
        ("Segmented/Combined/v.txt", "../w___1___0.5___1.5___text"),
    ],
)
def test_lines_of_transcripts_of_another_form_are_named(name, line, root):
    (root / "clips.csv").unlink()
    path = root / "Transcript" / name
    path.parent.mkdir(parents=True)
    path.write_text(f"\n{line}\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=f"{path.name}: row 2 has line .*; it must be a segment of v, such as 1_DELIM_TEXT"
    ):
        MosiSubjectivity(root).read_items()
