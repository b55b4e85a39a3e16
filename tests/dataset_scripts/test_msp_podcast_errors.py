"""MSP-Podcast: what is refused, each time in one sentence with file and row."""

import pytest
from test_msp_podcast import (
    ALICE,
    ANSWERS,
    CONSENSUS,
    EXPECTED,
    FORMS,
    LINES,
    ONE,
    MspPodcast,
    consensus_csv,
    detailed_2_0,
    labels_txt,
    miniature,
    partition,
    read_votes,
    said,
    write,
)


@pytest.mark.parametrize("name", ["MSP-PODCAST-Publish-1.4", "msp_podcast_v1.0", "1.5"])
def test_early_releases_are_refused(name, tmp_path):
    miniature(tmp_path / name)
    with pytest.raises(ValueError, match=r"releases 1\.0 to 1\.5 hold other label files"):
        MspPodcast(tmp_path / name)


@pytest.mark.parametrize("name", ["MSP-PODCAST-Publish-1.6", "msp1.10", "MSP-PODCAST-Publish-1.12", "2.0", "v11.4"])
def test_later_releases_are_not(name, tmp_path):
    miniature(tmp_path / name)
    assert len(MspPodcast(tmp_path / name).read_votes())


def test_missing_label_files_are_named(tmp_path):
    partition(tmp_path)
    with pytest.raises(
        ValueError, match=r"labels_detailed.csv or labels_detailed.json or labels.txt is not in .* 1\.6 on"
    ):
        MspPodcast(tmp_path).read_votes()


def with_line(position, **changes):
    """The lines with one of them changed: by field name, or cut short."""
    line = dict(zip(("turn", "worker", *ANSWERS), LINES[position], strict=True)) | changes
    return [*LINES[:position], tuple(line.values()), *LINES[position + 1 :]]


@pytest.mark.parametrize(
    ("form", "row"), [("1.6", "row 4"), ("1.12", "row 4"), ("2.0", "row 4"), ("json", "row 3"), ("txt", "row 6")]
)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"EmoVal": "9"}, "has EmoVal '9'; it must be 1 to 7 or blank"),
        ({"EmoAct": "0.0"}, "has EmoAct '0.0'"),
        ({"EmoDom": "four"}, "has EmoDom 'four'"),
        ({"EmoDom": "inf"}, "has EmoDom 'inf'"),
        ({"worker": " "}, "has WorkerID ''; it must name the rater"),
    ],
)
def test_bad_answers_are_named_with_file_and_row(form, row, changes, message, tmp_path):
    FORMS[form](tmp_path / "corpus", with_line(2, **changes))
    with pytest.raises(ValueError, match=f"labels[^ ]*: {row} {message}") as error:
        MspPodcast(tmp_path / "corpus").read_votes()
    assert str(error.value).count(". ") == 0


@pytest.mark.parametrize(
    "name", ["../../etc/passwd.wav", "/etc/x.wav", "a\\b.wav", "C:x.wav", ".hidden.wav", "x.mp3", ""]
)
@pytest.mark.parametrize("form", ["1.6", "1.12", "2.0", "json"])
def test_names_that_lead_elsewhere_are_refused(form, name, tmp_path):
    FORMS[form](tmp_path / "corpus", with_line(2, turn=name))
    with pytest.raises(ValueError, match=r"row [34] has FileName .*plain name"):
        MspPodcast(tmp_path / "corpus").read_votes()


def test_names_are_checked_in_every_other_file(tmp_path):
    root = tmp_path
    miniature(root)
    consensus_csv(root, [*CONSENSUS, ("../x.wav", *CONSENSUS[0][1:])])
    with pytest.raises(ValueError, match=r"labels_consensus.csv: row 7 has FileName '../x.wav'"):
        MspPodcast(root).read_items()
    miniature(root)
    partition(root, [*CONSENSUS, ("../x.wav", "Train")])
    with pytest.raises(ValueError, match=r"Partitions.txt: row 6 has FileName '../x.wav'"):
        MspPodcast(root).read_items()
    detailed = root / "Labels" / "labels_detailed.csv"
    detailed.unlink()
    labels_txt(root, with_line(0, turn="../x.wav"))
    with pytest.raises(ValueError, match=r"labels.txt: row 2 has FileName '../x.wav'"):
        MspPodcast(root).read_votes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the header is ''; it must have the columns FileName,EmoDetail or FileName,WorkerID,"),
        ("FileName,Answer1,Answer2\nx.wav,1,2\n", "the header is 'FileName,Answer1,Answer2'"),
        ("FileName,EmoDetail\n", "has no rater lines"),
        (f"FileName,EmoDetail\n{ONE}\n", "Row #2: Expected 2 columns, got 1"),
        (f"FileName,EmoDetail\n{ONE},W1; Sad; Sad; A:1; V:1; D:1;\n{ONE},x,y\n", "Row #3: Expected 2 columns, got 3"),
        (f"FileName,EmoDetail\n{ONE},W1; Sad; A:1; V:1; D:1;\n", "row 2 has EmoDetail 'W1; Sad; A:1.*it must read"),
        (f"FileName,EmoDetail\n{ONE},W1; Sad; Sad; A:1; A:1; D:1;\n", "row 2 has EmoDetail"),
        (f"FileName,EmoDetail\n{ONE},\n", "row 2 has EmoDetail ''"),
    ],
)
def test_broken_csv_files_are_named(text, message, tmp_path):
    write(tmp_path / "Labels" / "labels_detailed.csv", text)
    with pytest.raises(ValueError, match=f"labels_detailed.csv:? .*{message}"):
        MspPodcast(tmp_path).read_votes()


def test_a_short_row_far_down_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("annot_hf.data.encoding.BLOCK", 2000)
    line = f"{ONE},W1; Sad; Sad; A:1; V:1; D:1;\n"
    write(tmp_path / "Labels" / "labels_detailed.csv", "FileName,EmoDetail\n" + line * 999 + f"{ONE}\n" + line)
    with pytest.raises(ValueError, match="Row #1001: Expected 2 columns, got 1"):
        MspPodcast(tmp_path).read_votes()


def test_other_encodings_are_refused_and_a_byte_order_mark_is_not(tmp_path):
    detailed_2_0(tmp_path)
    path = tmp_path / "Labels" / "labels_detailed.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert said(read_votes(tmp_path)[0]) == EXPECTED
    path.write_bytes(path.read_bytes() + f"{ONE},W1,Other-\xe9,Sad,1,1,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match="labels_detailed.csv: not a readable file .*UTF8"):
        MspPodcast(tmp_path).read_votes()
    path.write_bytes("FileName,\xe9\n".encode("latin-1"))
    with pytest.raises(ValueError, match="labels_detailed.csv: the header is"):
        MspPodcast(tmp_path).read_votes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a JSON object of objects"),
        ("[1]", "not a JSON object of objects"),
        ('{"a.wav": {}', "not a JSON object of objects"),
        ('{"a.wav": [1]}', "the entry 'a.wav' is not an object"),
        ('{"a.wav": {"Workers": [{"Name": "W1"}]}}', "not the JSON of MSP-Podcast"),
        ('{"a.wav": {"W1": {"EmoAct": 1}}}', "row 1 has no EmoClass_Major for 'a.wav'"),
        ("{}", "has no rater lines"),
    ],
)
def test_broken_json_files_are_named(text, message, tmp_path):
    write(tmp_path / "Labels" / "labels_detailed.json", text)
    with pytest.raises(ValueError, match=f"labels_detailed.json:? .*{message}"):
        MspPodcast(tmp_path).read_votes()


def test_broken_text_files_are_named(tmp_path):
    root = tmp_path
    miniature(root)
    (root / "Labels" / "labels_detailed.csv").unlink()
    write(root / "Labels" / "labels.txt", f"{ALICE}; Sad; Sad; A:1; V:1; D:1;\n")
    with pytest.raises(ValueError, match="labels.txt: row 1 has FileName ''"):
        MspPodcast(root).read_votes()
    write(root / "Labels" / "labels.txt", f"{ONE}; N; A:1; V:1; D:1;\n\n{ALICE}; Sad\n")
    with pytest.raises(ValueError, match=f"labels.txt: row 3 has line '{ALICE}; Sad'"):
        MspPodcast(root).read_votes()
    write(root / "Partitions.txt", f"Train; {ONE}\n\nno separator\n")
    with pytest.raises(ValueError, match="Partitions.txt: row 3 has line 'no separator'"):
        MspPodcast(root).read_items()
    partition(root, [(ONE, "Somewhere")])
    with pytest.raises(ValueError, match="Partitions.txt: row 1 has split 'Somewhere'; it must be Train"):
        MspPodcast(root).read_items()
