"""IEMOCAP: one session in miniature, its spellings and defects, and hostile lines; all rows are invented."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from annot_hf.data.corpus import load_corpus_script
from annot_hf.data.export import export_corpus

Iemocap = load_corpus_script(Path(__file__).parents[2] / "dataset_scripts" / "iemocap")

F0, M0 = "Ses01F_impro01_F000", "Ses01F_impro01_M000"
MAIN = f"""% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[6.2901 - 8.2357]\t{F0}\tang\t[1.5000, 4.0000, 4.5000]
C-E1:\tAnger;\t()
C-E2:\tNeutral; Frustration;\t()
C-F1:\tNeutral state;\t(calm (really))
A-E3:\tval 2; act 4; dom  4;\t()
A-F1:\tval 1; act 5; dom  ;\t()

[10.0100 - 11.3925]\t{M0}\txxx\t[2.5000, 2.5000, 2.5000]
C-E1:\tOther;\t(odd; very, odd)
C-M1:\tExcited;\t()
A-E3:\tval 3; act 3; dom  2;\t(threatening, belligerent)
"""
FILES = {
    "Categorical/Ses01F_impro01_e1_cat.txt": f"{F0} :Anger; ()\n{M0} :Other; (odd; very, odd)\n",
    "Categorical/Ses01F_impro01_e2_cat.txt": f"{F0} : Neutral state ;  :Frustration; ()\n",
    "Attribute/Ses01F_impro01_e3_atr.txt": f"{F0} :act 4; :val 2; :dom 4; ()\n{M0} :act  3 ;:val 3; :dom 2; ()\n",
    "Self-evaluation/Ses01F_impro01_f1_cat.txt": f"{F0} :Neutral state; ()\n",
    "Self-evaluation/Ses01F_impro01_f1_atr.txt": f"{F0} :act 5; :val 1; :dom  ; ()\n",
    "Self-evaluation/Ses01F_impro01_m1_cat.txt": f"{M0} :Excited; ()\n",
}


def evaluation(root, session=1):
    return root / f"Session{session}" / "dialog" / "EmoEvaluation"


def write(root, main=MAIN, files=FILES, session=1):
    def renamed(text):
        return text.replace("Ses01", f"Ses0{session}")

    home = evaluation(root, session)
    for name, text in {"Ses01F_impro01.txt": main, **files}.items():
        path = home / renamed(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(renamed(text), encoding="utf-8")
    spoken = home.parent / "transcriptions" / renamed("Ses01F_impro01.txt")
    spoken.parent.mkdir(exist_ok=True)
    lines = (
        f"{F0} [006.2901-008.2357]: Excuse me.\nSes01F_impro01_FXX0 [1-2]: Hm.\n{M0} [010.0100-011.3925]: Yes: no.\n"
    )
    spoken.write_text(renamed(lines), encoding="utf-8")
    for turn in (F0, M0):
        path = root / f"Session{session}" / "sentences" / "wav" / renamed("Ses01F_impro01") / f"{renamed(turn)}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(1600), 16_000)


def miniature(root):
    """Three sessions; returns votes per question."""
    files = {name: text.replace("dom  ;", "dom 3;") for name, text in FILES.items()}
    for session in (1, 4, 5):
        write(root, MAIN.replace("dom  ;", "dom 3;"), files, session)
    per_session = {"emotion": 4, "valence": 2, "activation": 2, "dominance": 2}
    per_session |= {"emotion_self": 2, "valence_self": 1, "activation_self": 1, "dominance_self": 1}
    return {name: 3 * count for name, count in per_session.items()}


def said(votes):
    table = votes.to_pandas()
    table["value"] = table["label"].astype(object).fillna(table["rating"])
    return sorted(table[["item", "annotator", "question", "value"]].astype(str).itertuples(index=False, name=None))


EXPECTED = sorted(
    [
        (F0, "E1", "emotion", "anger"),
        (F0, "E2", "emotion", "neutral"),
        (F0, "E2", "emotion", "frustration"),
        (F0, "Ses01F", "emotion_self", "neutral"),
        (F0, "E3", "valence", "2.0"),
        (F0, "E3", "activation", "4.0"),
        (F0, "E3", "dominance", "4.0"),
        (F0, "Ses01F", "valence_self", "1.0"),
        (F0, "Ses01F", "activation_self", "5.0"),
        (M0, "E1", "emotion", "other"),
        (M0, "Ses01M", "emotion_self", "excited"),
        (M0, "E3", "valence", "3.0"),
        (M0, "E3", "activation", "3.0"),
        (M0, "E3", "dominance", "2.0"),
    ]
)


def test_votes_are_read_by_name_and_self_ratings_are_apart(tmp_path):
    write(tmp_path)
    corpus = Iemocap(tmp_path)
    assert said(corpus.read_votes()) == EXPECTED
    assert corpus.findings["sessions that are not there"].count == 4 and corpus.findings["blank answers"].count == 1
    # the dialogue writes "Neutral" for the "Neutral state" of a rater's file
    assert not [reason for reason in corpus.findings if "otherwise" in reason or "only the file" in reason]


def test_items_belong_to_who_speaks(tmp_path):
    write(tmp_path / "IEMOCAP_full_release")
    corpus = Iemocap(tmp_path)
    items = corpus.read_items().set_index("item")
    assert items["speaker"].to_dict() == {F0: "Ses01F", M0: "Ses01M"}
    assert items.loc[M0, "gender"] == "male" and items.loc[M0, "text"] == "Yes: no."
    assert items["consensus"].tolist() == ["anger", "no agreement"]
    assert items.loc[F0, ["consensus_valence", "consensus_activation", "consensus_dominance"]].tolist() == [1.5, 4, 4.5]
    assert items.loc[F0, "audio"] == f"IEMOCAP_full_release/Session1/sentences/wav/Ses01F_impro01/{F0}.wav"


@pytest.mark.parametrize("kept", [(), ("Categorical",), ("Attribute", "Self-evaluation")])
def test_what_only_the_dialogue_has_is_added(kept, tmp_path):
    files = {name: text for name, text in FILES.items() if name.split("/")[0] in kept}
    write(tmp_path, files=files)
    corpus = Iemocap(tmp_path)
    assert said(corpus.read_votes()) == EXPECTED
    lines = sum(text.count("\n") for name, text in FILES.items() if name not in files)
    assert corpus.findings["answers that only the file of the dialogue has, used"].count == lines


def test_files_of_macos_and_others_are_skipped(tmp_path):
    write(tmp_path)
    home = evaluation(tmp_path)
    for name in (
        "._Ses01F_impro01.txt",
        "Categorical/._Ses01F_impro01_e1_cat.txt",
        "Attribute/Ses01F_impro01_e3.anvil",
    ):
        (home / name).write_bytes(b"\x00\x05\x16\x07")
    (home / "Categorical" / "notes.txt").write_text("x")
    wav = tmp_path / "Session1" / "sentences" / "wav" / "Ses01F_impro01"
    (wav / f"._{F0}.wav").write_bytes(b"x")
    (wav / "Ses01F_impro01_F077.wav").write_bytes(b"x")
    corpus = Iemocap(tmp_path)
    assert said(corpus.read_votes()) == EXPECTED and len(corpus.read_items()) == 2
    foreign = corpus.findings["files in the folders of raters whose name is no rater's, left out"]
    assert foreign.examples == ("Session1/dialog/EmoEvaluation/Categorical/notes.txt",)
    assert corpus.findings["audio without labels, left out"].examples == ("Ses01F_impro01_F077",)


def test_what_is_odd_is_left_out_and_counted(tmp_path):
    partner = {"Self-evaluation/Ses01F_impro01_f2_cat.txt": f"{M0} :Anger; ()\n"}
    more = {
        "Categorical/Ses01F_impro01_e1_cat.txt": f"{F0} :Anger; ()\n{F0} :Fear; ()\n{F0} :anger;()\n{M0} :Bliss; :Other; ()\n",
        "Attribute/Ses01F_impro01_e3_atr.txt": f"{F0} :act 7; :val inf; :dom high; ()\n{M0} :act nan; :val 3.5; ()\n",
        "Categorical/Ses01F_impro01_e4_cat.txt": "Ses01F_impro01_F099 :Fear; ()\n",
    }
    write(tmp_path, main=MAIN.replace("\tang\t", "\tabc\t") + MAIN.split("\n\n")[1], files=FILES | more | partner)
    corpus = Iemocap(tmp_path)
    items, votes = corpus.read_items(), corpus.read_votes()
    told = corpus.findings
    assert items["item"].tolist() == [F0, M0, "Ses01F_impro01_F099"]
    assert told["turns that are in no file of a dialogue"].examples == ("Ses01F_impro01_F099",)
    assert told["turns that stand again in the files of dialogues, the first used"].examples == (F0,)
    assert told["turns whose consensus is no known code"].examples == (F0,)
    again = told["lines of a rater that repeat a turn, the first used"]
    # Fear, and Anger once more
    assert (again.count, again.votes) == (2, 2)
    assert told["of these, lines that say something else"].count == 1
    other = told["answers that the file of the dialogue states otherwise, those of the rater's file used"]
    # ratings of the first turn, whose block stands twice, and ratings and emotion of the second
    # of each turn three ratings, which are none or another in the rater's file
    assert (other.count, other.votes) == (4, 6)
    assert told["emotions outside the ten, left out"].examples == (f"{M0}: bliss",)
    rated = told["ratings that are no number from 1 to 5, left out"]
    assert rated.votes == 3 and rated.examples == (f"{F0}: val inf", f"{F0}: act 7", f"{F0}: dom high")
    assert told["answers of an actor about the partner's turns, left out"].votes == 1
    assert ("E3", "valence", "3.5") in [row[1:] for row in said(votes)]


def test_repeats_in_the_file_of_the_dialogue_and_in_an_answer_are_counted(tmp_path):
    block = MAIN.split("\n\n")[1]
    write(tmp_path, main=f"{MAIN}\n{block.replace('Anger;', 'Anger; Fear; fear;')}", files={})
    corpus = Iemocap(tmp_path)
    assert said(corpus.read_votes()) == EXPECTED
    again = corpus.findings["lines of a rater that repeat a turn, the first used"]
    # Anger and Fear, Neutral and Frustration, Neutral state, and 3 and 2 ratings
    assert (again.count, again.votes) == (5, 10)
    assert corpus.findings["of these, lines that say something else"].count == 1
    assert corpus.findings["emotions that an answer repeats, left out"].votes == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (F0, "../etc/passwd", "line 3 has '../etc/passwd'; it must be a turn such as"),
        (F0, "Ses01F_impro01_F\u0660", "line 3 has 'Ses01F_impro01_F\u0660'"),
        (F0, "Ses01F_impro01_F0\\x", "line 3 has"),
        (F0, "C:Ses01F_impro01_F000", "line 3 has 'C:Ses01F"),
        ("C-E1:\tAnger;\t()", "C-E1 Anger", "line 4 has 'C-E1 Anger'; it must be a turn .* or an answer"),
        ("[1.5000, 4.0000, 4.5000]", "[1.5000, 4.0000]", "line 3 has '1.5000, 4.0000'; it must be means of"),
        ("[6.2901 - 8.2357]", "6.2901", "line 3 has"),
    ],
)
def test_lines_of_another_form_are_named(old, new, message, tmp_path):
    write(tmp_path, main=MAIN.replace(old, new, 1))
    with pytest.raises(ValueError, match=f"Ses01F_impro01.txt: {message}"):
        Iemocap(tmp_path).read_items()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../x :Anger; ()", "line 1 has '../x'"),
        (F0, "line 1 has .*it must read 'Ses01F_impro01_F000 :Neutral state"),
        ("\x00 :Anger; ()", "line 1 has"),
    ],
)
def test_lines_of_raters_of_another_form_are_named(line, message, tmp_path):
    write(tmp_path, files=FILES | {"Categorical/Ses01F_impro01_e1_cat.txt": line})
    with pytest.raises(ValueError, match=f"Ses01F_impro01_e1_cat.txt: {message}"):
        Iemocap(tmp_path).read_votes()


def test_encodings_and_line_ends(tmp_path):
    write(tmp_path)
    path = evaluation(tmp_path) / "Categorical" / "Ses01F_impro01_e1_cat.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert said(Iemocap(tmp_path).read_votes()) == EXPECTED
    path.write_bytes(f"{F0} :Anger; (\xe9)\n".encode("latin-1"))
    with pytest.raises(ValueError, match="e1_cat.txt is not UTF-8"):
        Iemocap(tmp_path).read_votes()


def test_missing_audio_is_one_summary(tmp_path):
    miniature(tmp_path / "upstream")
    (tmp_path / "upstream" / "Session1" / "sentences" / "wav" / "Ses01F_impro01" / f"{F0}.wav").unlink()
    with pytest.raises(ValueError, match=f"1 of 6 items have no readable audio .{F0}: missing"):
        export_corpus(Iemocap(tmp_path / "upstream"), tmp_path / "out")
    assert Iemocap.shareable == "nothing"
