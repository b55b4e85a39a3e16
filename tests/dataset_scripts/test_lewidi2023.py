"""LeWiDi 2023: the four corpora of the shared task in miniature, with every known trap; all rows are invented."""

import json
from pathlib import Path

import pytest

from annot_hf.data.corpus import load_corpus_script
from annot_hf.data.export import export_corpus, read_export

LeWiDi2023 = load_corpus_script(Path(__file__).parents[2] / "dataset_scripts" / "lewidi2023")


def entry(split, raters, answers, text="a text", **changed):
    given = [int(answer) for answer in answers.split(",") if answer.lstrip("-").isdigit()]
    share = round(sum(one == 1 for one in given) / len(given), 2) if given else ""
    return {
        "text": text,
        "annotation task": "a task",
        "number of annotations": len(given),
        "annotations": answers,
        "annotators": raters,
        "lang": "en",
        "hard_label": "0",
        "soft_label": {"0": round(1 - share, 2) if given else "", "1": share},
        "split": split,
        "other_info": {"group": "target,target,control", "other annotations": {"offensive": "0,1,0"}, "more": [1]},
    } | changed


def turns(user, agent="Hi.", prev_user="_", prev_agent="_"):
    return json.dumps({"prev_agent": prev_agent, "prev_user": prev_user, "agent": agent, "user": user})


def write(root, corpus, **splits):
    root.mkdir(parents=True, exist_ok=True)
    for split, entries in splits.items():
        (root / f"{corpus}_{split}.json").write_text(json.dumps(entries, indent=1), encoding="utf-8")


def miniature(root):
    """ConvAbuse; returns votes per question."""
    soft = {"soft_label": {"0": 0.67, "1": 0.33}}
    write(
        root,
        "ConvAbuse",
        train={
            "1": entry("train", "Ann2,Ann3,Ann7", "1,0,-3", turns("You fool", "Hm.", "no", "Why?"), **soft),
            "2": entry("train", "Ann2", "-1", turns("bye"), hard_label="1", soft_label={"0": 0.0, "1": 1.0}),
        },
        dev={"1": entry("dev", "Ann3,Ann7", "0,1", turns("hello"), soft_label={"0": 1.0, "1": 0.0})},
        test={"1": entry("test", "Ann9", "-2", turns("hello"), hard_label="1", soft_label={"0": 0.0, "1": 1.0})},
    )
    return {"abusive": 7, "severity": 7}


def findings(corpus, out, **options):
    return {one.reason: one for one in export_corpus(corpus, out, **options).findings}


def test_severities_below_zero_are_abusive_and_numbers_start_again_in_each_split(tmp_path):
    miniature(tmp_path / "ConvAbuse_dataset")
    corpus = LeWiDi2023(tmp_path)
    assert corpus.name == "lewidi2023_convabuse" and corpus.default_questions == ("abusive",)
    items = corpus.read_items().set_index("item")
    assert items["split"].to_dict() == {"train-1": "train", "train-2": "train", "dev-1": "validation", "test-1": "test"}
    assert items.loc["train-1", "text"] == "You fool" and items.loc["dev-1", "text"] == "hello"
    said = [items.loc["train-1", f"text_{name}"] for name in ("prev_agent", "prev_user", "agent", "user")]
    assert said == ["Why?", "no", "Hm.", "You fool"]
    assert items.loc["dev-1", "info_other annotations_offensive"] == "0,1,0" and "info_more" not in items
    votes = corpus.read_votes().to_pandas()
    said = votes[votes["item"] == "train-1"].set_index(["question", "annotator"])
    assert said.loc["abusive", "label"].to_dict() == {"Ann2": "not abusive", "Ann3": "not abusive", "Ann7": "abusive"}
    assert said.loc["severity", "rating"].to_dict() == {"Ann2": 1, "Ann3": 0, "Ann7": -3}
    told = findings(corpus, tmp_path / "out")
    assert set(told) == {"answers that are a vote on several questions", "items with a text of several splits"}
    assert told["answers that are a vote on several questions"].count == 7
    assert all(one.expected for one in told.values())


@pytest.mark.parametrize(
    ("name", "question", "label"),
    [
        ("HS-Brexit", "hate_speech", "hate speech"),
        ("MD-Agreement", "offensive", "offensive"),
        ("ArMIS", "misogynistic", "misogynistic"),
    ],
)
def test_answers_go_to_raters_by_position(name, question, label, tmp_path):
    write(tmp_path, name, train={"5": entry("train", "Ann4, Ann1", "1,0")})
    corpus = LeWiDi2023(tmp_path)
    votes = corpus.read_votes().to_pandas().set_index("annotator")
    assert votes.loc["Ann4", "label"] == label and votes.loc["Ann1", "label"] == corpus.questions[0].labels[0]
    told = findings(corpus, tmp_path / "out")
    assert told["label files that are not there"].examples == (f"{name}_dev.json", f"{name}_test.json")
    assert read_export(tmp_path / "out").items["text"].tolist() == ["a text"]


def test_what_is_odd_is_counted(tmp_path):
    train = {
        "1": entry("train", "Ann1,Ann1", "1,1"),
        "2": entry("train", "Ann1,Ann2", "1,2", soft_label={"0": 0.0, "1": 1.0}),
        "3": entry("train", "Ann1,Ann2", "1,0", soft_label={"0": 0.9, "1": 0.1}),
        "4": entry("train", "Ann1,Ann2", "1,0", soft_label={"0": "x", "1": 0.5}, **{"number of annotations": 6}),
    }
    write(tmp_path, "ArMIS", train=train, test={"1": entry("test", "Ann1,Ann2", "")})
    told = findings(LeWiDi2023(tmp_path), tmp_path / "out")
    assert told["answers of a rater who stands twice at an item, kept"].count == 1
    outside = told["answers outside misogynistic, left out"]
    assert (outside.count, outside.votes, outside.examples) == (1, 1, ("train-2: '2'",))
    assert told["items whose soft_label is not the share of their votes, which count"].examples == (
        "train-3",
        "train-4",
    )
    numbers = told["items whose number of annotations is not that of their answers, which count"]
    assert numbers.examples == ("train-4: 6, and 2 answers",)
    assert told["items whose answers are withheld"].examples == ("test-1",)
    assert told["items without votes"].count == 1


def test_hard_labels_that_are_not_those_of_most_votes_are_counted(tmp_path):
    said = {
        "1": ("1,1,0", "1"),
        "2": ("1,1,0", "0"),
        "3": ("1,0", "0"),
        "4": ("1,0", "1.0"),
        "5": ("0", ""),
        "6": ("0", "2"),
    }
    raters = ("Ann1", "Ann1,Ann2", "Ann1,Ann2,Ann3")
    train = {
        number: entry("train", raters[answers.count(",")], answers, hard_label=hard)
        for number, (answers, hard) in said.items()
    }
    write(tmp_path, "ArMIS", train=train)
    told = findings(LeWiDi2023(tmp_path), tmp_path / "out")
    other = told["items whose hard_label is not the label of most votes, which counts"]
    tie = told["items with a tie whose hard_label is not its first label, which counts"]
    assert (other.examples, other.expected) == (("train-2", "train-6"), False)
    assert (tie.examples, tie.expected) == (("train-4",), True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": "1,0"}, "item '1' has annotations '1,0'; it must have one answer for each of 3 annotators"),
        ({"annotations": None}, "item '1' has annotations None; it must be answers with ',' between"),
        ({"annotators": None}, "item '1' has annotations"),
        ({"annotators": "Ann1,,Ann2"}, "item '1' has annotators 'Ann1,,Ann2'; it must name each rater"),
        ({"split": "dev"}, "item '1' has split 'dev'; it must be 'train', as in the file's name"),
        ({"text": '{"user": "a", "user": "b"}'}, "item '1' has text .*it must be JSON .'user' stands twice"),
        ({"text": "not JSON"}, "item '1' has text 'not JSON'; it must be JSON"),
        ({"text": "[1]"}, r"item '1' has text '\[1\]'; it must be a text, or texts by name"),
        ({"text": '{"user": 1}'}, "item '1' has text .*it must be a text, or texts by name"),
        ({"text": None}, "item '1' has text None"),
    ],
)
def test_an_item_of_another_form_is_named_with_its_file(changes, message, tmp_path):
    write(tmp_path, "ConvAbuse", train={"1": entry("train", "Ann1,Ann2,Ann3", "1,0,-1", turns("hi")) | changes})
    with pytest.raises(ValueError, match=f"ConvAbuse_train.json: {message}") as error:
        export_corpus(LeWiDi2023(tmp_path), tmp_path / "out")
    assert str(error.value).endswith("restore the upstream file.")


def test_an_item_that_is_listed_twice_is_named(tmp_path):
    one = json.dumps(entry("train", "Ann1", "1"))
    (tmp_path / "ArMIS_train.json").write_text(f'{{"1": {one}, "1": {one}}}', encoding="utf-8")
    with pytest.raises(ValueError, match="item '1' has its number '1'; it must be listed once"):
        LeWiDi2023(tmp_path).read_items()


def test_a_root_with_several_corpora_is_refused(tmp_path):
    for name in ("ArMIS", "HS-Brexit"):
        write(tmp_path / name, name, train={"1": entry("train", "Ann1", "1")})
    with pytest.raises(ValueError, match="holds ArMIS and HS-Brexit, .*; pass the folder of one"):
        LeWiDi2023(tmp_path)


def test_no_answer_at_all(tmp_path):
    write(tmp_path, "ArMIS", train={"1": entry("train", "Ann1,Ann2", "")})
    with pytest.raises(ValueError, match="no item has answers; put a file with answers beside ArMIS_train.json"):
        LeWiDi2023(tmp_path).read_votes()
