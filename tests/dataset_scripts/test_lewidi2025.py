"""LeWiDi 2025: the four corpora of the shared task in miniature, with every known trap; all rows are invented."""

import json
from pathlib import Path

import pytest

from annot_hf.data.corpus import load_corpus_script
from annot_hf.data.export import export_corpus

LeWiDi2025 = load_corpus_script(Path(__file__).parents[2] / "dataset_scripts" / "lewidi2025")

SHARES = {"entailment": {"0": 0.5, "1": 0.5}, "neutral": {"0": 0.0, "1": 1.0}, "contradiction": {"0": 1.0, "1": 0.0}}


def entry(split, answers, soft, text=None, **changed):
    return {
        "annotation task": "a task",
        "text": text or {"context": "It rained.", "response": "Lovely."},
        "number of annotators": len(answers),
        "annotators": ",".join(answers),
        "number of annotations": len(answers),
        "annotations": answers,
        "soft_label": soft,
        "split": split,
        "lang": "en",
        "other_info": {"context+speaker": "1_2", "explanations": ["because", "so"]},
    } | changed


def write(root, corpus, **splits):
    root.mkdir(parents=True, exist_ok=True)
    for split, entries in splits.items():
        (root / f"{corpus}_{split}.json").write_text(json.dumps(entries, indent=1), encoding="utf-8")


def miniature(root):
    """CSC; returns votes per question."""
    soft = {"0": 0.0, "1": 0.0, "2": 0.33, "3": 0.0, "4": 0.0, "5": 0.67, "6": 0.0}
    write(
        root,
        "CSC",
        train={"1": entry("train", {"Ann288": "2", " Ann289": "5", " Ann290": "5"}, soft)},
        dev={"1": entry("dev", {"Ann288": "6"}, {"6": 1.0})},
        test={"1": entry("test", {"Ann3": "1"}, {"1": 1.0})},
        annotators_meta={"288": {"Age": "30", "Gender": "DATA_EXPIRED"}, "Ann289": {"Age": 41, "Education": None}},
    )
    return {"sarcasm_class": 5, "sarcasm": 5}


def test_levels_are_labels_and_ratings(tmp_path):
    miniature(tmp_path)
    corpus = LeWiDi2025(tmp_path)
    items = corpus.read_items().set_index("item")
    assert items.loc["train-1", "text"] == "context: It rained.\nresponse: Lovely."
    assert items.loc["train-1", ["text_context", "text_response"]].tolist() == ["It rained.", "Lovely."]
    assert items.loc["train-1", "info_context+speaker"] == "1_2" and "info_explanations" not in items
    votes = corpus.read_votes().to_pandas()
    said = votes[votes["item"] == "train-1"].set_index(["question", "annotator"])
    assert said.loc["sarcasm_class", "label"].to_dict() == {"Ann288": "2", "Ann289": "5", "Ann290": "5"}
    assert said.loc["sarcasm", "rating"].to_dict() == {"Ann288": 2, "Ann289": 5, "Ann290": 5}
    reasons = [one.reason for one in export_corpus(corpus, tmp_path / "out").findings]
    # The miniature has one text in all splits.
    assert reasons == ["answers that are a vote on several questions", "items with a text of several splits"]


def test_raters_are_known_by_name_and_what_has_expired_is_empty(tmp_path):
    miniature(tmp_path)
    raters = LeWiDi2025(tmp_path).raters.set_index("annotator")
    assert raters.to_dict("index") == {
        "Ann288": {"age": "30", "gender": "", "education": ""},
        "Ann289": {"age": "41", "gender": "", "education": ""},
    }


@pytest.mark.parametrize(
    ("corpus", "answers", "soft", "expected"),
    [
        ("MP", {"Ann0": "0", "Ann1": "1.0"}, {"0.0": 0.5, "1.0": 0.5}, {"irony": ["not ironic", "ironic"]}),
        (
            "Paraphrase",
            {"Ann1": "-5", "Ann2": "0"},
            {"-5": 0.5, "0": 0.5},
            {"paraphrase_class": ["-5", "0"], "paraphrase": [-5, 0]},
        ),
        (
            "VariErrNLI",
            {"Ann1": "entailment,neutral", "Ann3": " Neutral"},
            SHARES,
            {"entailment": ["yes", "no"], "neutral": ["yes", "yes"], "contradiction": ["no", "no"]},
        ),
    ],
)
def test_every_corpus_has_its_own_answers(corpus, answers, soft, expected, tmp_path):
    # a rater may stand twice among the annotators
    changed = {"annotators": ",".join([*answers, next(iter(answers))])}
    write(tmp_path, corpus, train={"1": entry("train", answers, soft, **changed)})
    found = LeWiDi2025(tmp_path)
    votes = found.read_votes().to_pandas()
    votes["said"] = votes["label"].astype(object).fillna(votes["rating"])
    said = {name: rows["said"].tolist() for name, rows in votes.groupby("question", observed=True)}
    assert said == expected and set(votes["annotator"]) == set(answers)
    assert not [reason for reason in found.findings if "soft_label" in reason]


def test_soft_labels_that_are_not_those_of_the_votes_are_counted(tmp_path):
    wrong = SHARES | {"contradiction": {"0": 0.5, "1": 0.5}}
    write(tmp_path, "VariErrNLI", train={"1": entry("train", {"Ann1": "entailment,neutral", "Ann3": "neutral"}, wrong)})
    found = LeWiDi2025(tmp_path)
    found.read_votes()
    assert found.findings["items whose soft_label is not the share of their votes, which count"].examples == (
        "train-1",
    )


def test_stated_numbers_and_raters_that_are_not_those_of_the_answers_are_counted(tmp_path):
    answers, one = {"Ann1": "1", " Ann2": "2"}, {"1": 0.5, "2": 0.5}
    changed = [
        {},
        {"number of annotations": 6},
        {"annotators": "Ann1,Ann1,Ann2"},
        {"annotators": "Ann1"},
        {"annotators": "Ann1,Ann3"},
        {"annotations": {}, "number of annotations": 6},
    ]
    train = {str(place): entry("train", answers, one, **more) for place, more in enumerate(changed)}
    write(tmp_path, "CSC", train=train)
    found = LeWiDi2025(tmp_path)
    found.read_votes()
    told = {reason: one for reason, one in found.findings.items() if "annotat" in reason}
    assert [(one.examples, one.expected) for one in told.values()] == [
        (("train-1: 6, and 2 answers",), False),
        (("train-3", "train-4"), False),
        (("train-2",), True),
    ]


def test_answers_outside_the_question_are_left_out_and_counted(tmp_path):
    answers = {"Ann1": "0", "Ann2": "7", "Ann3": "2", "Ann4": "two", "Ann5": ""}
    write(tmp_path, "CSC", train={"1": entry("train", answers, {"2": 1.0})})
    found = LeWiDi2025(tmp_path)
    assert len(found.read_votes()) == 2
    for name in ("sarcasm_class", "sarcasm"):
        outside = found.findings[f"answers outside {name}, left out"]
        assert (outside.count, outside.votes) == (4, 4) and outside.examples[0] == "train-1: '0'"
    write(
        tmp_path / "nli",
        "VariErrNLI",
        train={"1": entry("train", {"Ann1": "neutral", "Ann2": "neutral,maybe"}, SHARES)},
    )
    found = LeWiDi2025(tmp_path / "nli")
    assert len(found.read_votes()) == 3
    assert [found.findings[f"answers outside {name}, left out"].votes for name in SHARES] == [1, 1, 1]


def test_the_test_file_of_the_phase_without_answers_gives_items_only(tmp_path):
    miniature(tmp_path)
    (tmp_path / "CSC_test.json").unlink()
    write(tmp_path, "CSC", test_clear={"9": entry("test", {"Ann1": "", "Ann2": ""}, {})})
    found = LeWiDi2025(tmp_path)
    assert "test-9" in set(found.read_items()["item"])
    found.read_votes()
    assert found.findings["items whose answers are withheld"].examples == ("test-9",)
    assert found.findings["label files that are not there"].examples == ("CSC_test.json",)
    write(tmp_path, "CSC", test_clear={"9": entry("test", {}, {}, annotations="", annotators="Ann1,Ann2")})
    assert len(LeWiDi2025(tmp_path).read_votes()) == 8
