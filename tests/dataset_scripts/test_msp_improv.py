"""MSP-IMPROV: the label file in miniature, its defects, and hostile lines; all rows are invented."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from annot_hf.data.corpus import load_corpus_script
from annot_hf.data.export import export_corpus, read_export
from annot_hf.data.splitting import split_as

MspImprov = load_corpus_script(Path(__file__).parents[2] / "dataset_scripts" / "msp_improv")

ONE, TWO, THREE = "S01A-F01-S-FM01", "S07H-M05-P-MF12", "S20S-F06-R-FF103"
FREE = 'Sad,Other (tired | bored? "so"; half: [quiet]),'
BLOCKS = f"""UTD-IMPROV-{ONE}.avi; N; A:3.000000; V:3.500000; D:3.000000 ; N:4.000000;
amt-0_A1; Neutral; Neutral,Happy,; A:2.000000; V:4.000000; D:NaN; N:4.000000;
bob; Angry; ; A:5.000000; V:3.000000; D:1.000000; N:NaN;

UTD-IMPROV-{TWO}.avi; X; A:3.000000; V:NaN; D:NaN ; N:NaN;
bob; Other; {FREE}; A:1.000000; V:1.000000; D:2.000000; N:3.000000;

UTD-IMPROV-{THREE}.avi; S; A:1.000000; V:2.000000; D:3.000000 ; N:5.000000;
amt-0_A1; Sad; Sad,Depressed,Sad; A:1.000000; V:2.000000; D:3.000000; N:5.000000;
"""


def write(root, text=BLOCKS, name="Evalution.txt"):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")


def audio(root, clip, scenario="S"):
    session = clip.split("-")[1][1:]
    folder = root / "Audio" / f"session{int(session)}" / clip[:4] / scenario
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / f"MSP-IMPROV-{clip}.wav", np.zeros(1600), 16_000)
    return folder


def miniature(root):
    """A clean miniature; returns votes per question."""
    write(root, BLOCKS.replace(FREE, "Sad,Fear").replace("Sad,Depressed,Sad", "Sad,Depressed"))
    for clip in (ONE, TWO, THREE):
        audio(root, clip)
    return {
        "emotion": 4,
        "emotion_secondary": 7,
        "activation": 4,
        "valence": 4,
        "dominance": 3,
        "naturalness": 3,
    }


def test_votes_are_read_and_activation_is_turned_round(tmp_path):
    miniature(tmp_path)
    write(tmp_path)
    corpus = MspImprov(tmp_path)
    votes = corpus.read_votes().to_pandas()
    clip = votes[votes["item"] == f"MSP-IMPROV-{ONE}.wav"].set_index(["question", "annotator"])
    assert clip.loc["emotion", "label"].to_dict() == {"amt-0_A1": "neutral", "bob": "angry"}
    assert clip.loc["activation", "rating"].to_dict() == {"amt-0_A1": 4, "bob": 1}  # written as 2 and 5
    assert clip.loc["valence", "rating"].to_dict() == {"amt-0_A1": 4, "bob": 3}
    assert clip.loc["dominance", "rating"].to_dict() == {"bob": 1}
    assert clip.loc["naturalness", "rating"].to_dict() == {"amt-0_A1": 4}
    seen = votes[votes["question"] == "emotion_secondary"].groupby(["item", "annotator"], observed=True)["label"]
    assert {key: [label if isinstance(label, str) else None for label in rows] for key, rows in seen} == {
        (f"MSP-IMPROV-{ONE}.wav", "amt-0_A1"): ["neutral", "happy"],
        (f"MSP-IMPROV-{ONE}.wav", "bob"): [None],
        (f"MSP-IMPROV-{TWO}.wav", "bob"): ["sad"],
        (f"MSP-IMPROV-{THREE}.wav", "amt-0_A1"): ["sad", "depressed"],
    }
    told = corpus.findings
    assert told["secondary words outside the ten, left out"].votes == 3
    assert told["secondary labels that a line repeats, left out"].votes == 1
    assert told["blank or NaN ratings of dominance"].count == told["blank or NaN ratings of naturalness"].count == 1


def test_items_have_the_parts_of_their_names(tmp_path):
    miniature(tmp_path)
    folder = audio(tmp_path, "S02A-M01-T-MF02")
    for name in (f"._MSP-IMPROV-{ONE}.wav", "notes.wav"):
        (folder / name).write_bytes(b"x")
    texts = tmp_path / "All_human_transcriptions" / "session1"
    texts.mkdir(parents=True)
    (texts / f"MSP-IMPROV-{ONE}.txt").write_bytes(b"I am \xe9 here\n")
    corpus = MspImprov(tmp_path)
    items = corpus.read_items().set_index("item")
    assert list(items.index) == [f"MSP-IMPROV-{clip}.wav" for clip in (ONE, TWO, THREE)]
    one = items.iloc[0].to_dict()
    expected = {"speaker": "F01", "gender": "female", "session": "01", "sentence": "01", "target": "angry"}
    expected |= {"scenario": "other improvised", "split": "train", "consensus": "neutral", "text": "I am \ufffd here"}
    assert expected.items() <= one.items() and one["audio"] == f"Audio/session1/S01A/S/MSP-IMPROV-{ONE}.wav"
    assert (one["consensus_activation"], one["consensus_valence"], one["consensus_naturalness"]) == (3, 3.5, 4)
    assert items["split"].tolist() == ["train", "validation", "test"]
    assert items["consensus"].tolist()[1:] == ["no agreement", "sad"] and items["consensus_activation"].iloc[2] == 5
    assert corpus.findings["audio without labels, left out"].examples == ("MSP-IMPROV-S02A-M01-T-MF02.wav",)
    assert corpus.findings["clips without transcript"].count == 2


def test_repeated_lines_and_blocks_count_once(tmp_path):
    miniature(tmp_path)
    block = BLOCKS.split("\n\n")[0]
    write(tmp_path, f"{BLOCKS}\n{block}\n{block.replace('bob; Angry', 'bob; Happy')}")
    corpus = MspImprov(tmp_path)
    votes, items = corpus.read_votes(), corpus.read_items()
    assert votes.counts("emotion", [f"MSP-IMPROV-{ONE}.wav"]).tolist() == [[1, 0, 0, 1, 0]] and len(items) == 3
    again = corpus.findings["rater lines that repeat a clip and rater, left out"]
    # a block has 2 emotions, 3 secondary votes, and 2, 2, 1 and 1 ratings
    assert (again.count, again.votes) == (4, 2 * 11)
    assert corpus.findings["of these, lines that say something else"].count == 1
    assert corpus.findings["clips whose block stands again, the first consensus used"].count == 1


def test_spellings_line_ends_and_marks(tmp_path):
    expected = None
    for number, (name, data) in enumerate(
        [
            ("Evalution.txt", BLOCKS.encode()),
            ("Evaluation.txt", BLOCKS.replace("\n", "\r\n").encode()),
            ("Evaluation.txt", b"\xef\xbb\xbf" + BLOCKS.rstrip("\n").encode()),
            ("Evalution.txt", BLOCKS.replace("\n\n", "\n").replace("; A:", " ;  A: ").encode()),
        ]
    ):
        root = tmp_path / str(number)
        root.mkdir()
        (root / name).write_bytes(data)
        votes = MspImprov(root).read_votes().to_pandas().astype(str).to_numpy().tolist()
        expected = expected or votes
        assert votes == expected


def test_odd_labels_are_left_out_and_counted(tmp_path):
    miniature(tmp_path)
    write(
        tmp_path,
        BLOCKS.replace("bob; Angry", "bob; Bored").replace("; X;", "; Q;").replace("bob; Other;", "bob; Other (x);"),
    )
    corpus = MspImprov(tmp_path)
    corpus.read_items()
    assert len(corpus.read_votes().select(questions=["emotion"])) == 3
    odd = corpus.findings["primary labels outside the five, left out"]
    assert (odd.votes, odd.examples) == (1, ("Bored",))
    assert corpus.findings["primary labels Other with free text"].count == 1
    assert corpus.findings["clips whose consensus class is no known letter"].count == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("V:4.000000", "V:7.000000", "row 2 has valence '7.000000'; it must be 1 to 5 or NaN"),
        ("A:2.000000", "A:inf", "row 2 has activation 'inf'"),
        ("A:2.000000", "A:two", "row 2 has activation 'two'"),
        ("N:4.000000;\nbob", "N:9;\nbob", "row 2 has naturalness '9'"),
        ("amt-0_A1; Neutral", "; Neutral", "row 2 has WorkerID ''; it must name the rater"),
        ("amt-0_A1; Neutral", "a b; Neutral", "row 2 has WorkerID 'a b'"),
        ("D:NaN;", "", "row 2 has line .*it must read 'WORKER1; Neutral; Neutral,Sad; A:4; V:4; D:4; N:4;'"),
        ("bob; Angry; ; A", "bob; A", "row 3 has line"),
        (f"UTD-IMPROV-{ONE}.avi; N;", "", "row 1 has FileName ''|row 1 has line"),
    ],
)
def test_bad_lines_are_named(old, new, message, tmp_path):
    assert old in BLOCKS
    write(tmp_path, BLOCKS.replace(old, new, 1))
    with pytest.raises(ValueError, match=f"Evalution.txt: ({message})"):
        MspImprov(tmp_path).read_votes()


@pytest.mark.parametrize(
    "name",
    [
        "../UTD-IMPROV-S01A-F01-S-FM01.avi",
        "/etc/UTD-IMPROV-S01A-F01-S-FM01.avi",
        "UTD-IMPROV-S01A-F01-S-FM01/../x.avi",
        "C:UTD-IMPROV-S01A-F01-S-FM01.avi",
        "UTD-IMPROV-S01A\\F01-S-FM01.avi",
        "UTD-IMPROV-S01A-F01-S-FM01\u2025x.avi",
        "UTD-IMPROV-S\u0661\u0661A-F01-S-FM01.avi",
        "UTD-IMPROV-S01B-F01-S-FM01.avi",
        "notes.avi",
    ],
)
def test_clips_of_another_name_are_refused(name, tmp_path):
    write(tmp_path, BLOCKS.replace(f"UTD-IMPROV-{ONE}.avi", name))
    with pytest.raises(ValueError, match="Evalution.txt: row 1 has FileName .*must be a name such as UTD-IMPROV"):
        MspImprov(tmp_path).read_items()


def test_other_encodings_and_empty_files_are_refused(tmp_path):
    tmp_path.joinpath("Evalution.txt").write_bytes(BLOCKS.replace("bob", "b\xf6b").encode("latin-1"))
    with pytest.raises(ValueError, match="Evalution.txt: not a readable file .*UTF8"):
        MspImprov(tmp_path).read_votes()
    for text in (f"UTD-IMPROV-{ONE}.avi; N; A:3.0; V:3.5; D:3.0 ; N:4.0;\n", "\n\n"):
        write(tmp_path, text)
        with pytest.raises(ValueError, match="Evalution.txt has no rater lines"):
            MspImprov(tmp_path).read_votes()


def test_the_export_keeps_sessions_apart(tmp_path):
    miniature(tmp_path / "upstream")
    report = export_corpus(MspImprov(tmp_path / "upstream"), tmp_path / "out")
    assert report.splits == {"train": 1, "validation": 1, "test": 1} and report.annotators == 2
    assert MspImprov.shareable == "nothing"


def test_the_published_split_by_speaker(tmp_path):
    file = Path(__file__).parents[2] / "dataset_scripts" / "msp_improv" / "published_splits.csv"
    people = [row.split(",")[0] for row in file.read_text().splitlines()[1:]]
    assert sorted(people) == [f"{sex}0{session}" for sex in "FM" for session in range(1, 7)]
    miniature(tmp_path / "root")
    export_corpus(MspImprov(tmp_path / "root"), tmp_path / "out", splits=split_as(file))
    found = read_export(tmp_path / "out").items.groupby("speaker")["split"].first()
    assert found.to_dict() == {"F01": "train", "M05": "test", "F06": "train"}
