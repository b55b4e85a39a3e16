"""A folder of synthetic votes against an export: which items take part, what is written, and every refusal."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from annot_hf.cli import app as cli
from annot_hf.data.corpus import VoteCorpus
from annot_hf.data.export import export_corpus, read_export
from annot_hf.data.questions import Question
from annot_hf.data.synthetic import read_annotations, write_annotations
from annot_hf.data.votes import VoteTable
from annot_hf.experiments.saturation_study import measure_saturation

LABELS = ("anger", "joy", "sad")
EMOTION, VALENCE = Question.category("emotion", LABELS), Question.scale("valence", 1, 5)
HEARD = Question.category("heard", ("x", "y"), multiple=True)
ITEMS = [f"i{row:02d}" for row in range(60)]
OPINION = np.random.default_rng(0).dirichlet(np.ones(3) * 0.7, 60)


class Said(VoteCorpus):
    name = "said"
    questions = (EMOTION, VALENCE, HEARD)
    default_questions = ("emotion",)
    people = 6

    def read_items(self):
        split = ["train"] * 40 + ["test"] * 20
        speakers = [f"s{row % 10}" for row in range(60)]
        return pd.DataFrame({"item": ITEMS, "text": ["words"] * 60, "speaker": speakers, "split": split})

    def read_votes(self):
        rng = np.random.default_rng(1)
        rows = [
            (i, f"r{r}", LABELS[rng.choice(3, p=OPINION[n])]) for n, i in enumerate(ITEMS) for r in range(self.people)
        ]
        rows = rows[self.people :]  # nobody voted on the first
        item, annotator, value = zip(*rows, strict=True)
        return VoteTable.from_columns(self.questions, item=item, annotator=annotator, value=value, question="emotion")


class Alone(Said):
    people = 1


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    home = tmp_path_factory.mktemp("said")
    (home / "root").mkdir()
    for reader in (Said, Alone):
        export_corpus(reader(home / "root"), home / reader.__name__)
    return home


@pytest.fixture(scope="module")
def corpus(exports):
    return read_export(exports / "Said")


def annotate(folder, corpus, values=None, *, question=EMOTION, items=ITEMS, votes=12, short=3, facts=None):
    """`votes` synthetic votes per item; the last `short` items have two fewer."""
    rng, rows = np.random.default_rng(2), []
    for place, item in enumerate(items):
        for number in range(votes - 2 * (place >= len(items) - short)):
            opinion = OPINION[ITEMS.index(item)] if item in ITEMS else np.ones(3) / 3
            rows.append((item, str(number), values or LABELS[rng.choice(3, p=opinion)]))
    item, annotator, value = zip(*rows, strict=True)
    table = VoteTable.from_columns(question, item=item, annotator=annotator, value=value, source="synthetic")
    about = {"corpus": corpus.name, "corpus_digest": corpus.digest} | (facts or {})
    write_annotations(folder, table, pa.table({"item": list(items)}), about)
    return read_annotations(folder)


@pytest.fixture(scope="module")
def annotations(corpus, tmp_path_factory):
    return annotate(tmp_path_factory.mktemp("annotations"), corpus)


def measure(annotations, corpus, **options):
    return measure_saturation(annotations, corpus, **{"n_resamples": 20} | options)


def test_the_same_items_at_every_n_and_none_uncounted(annotations, corpus):
    found = measure(annotations, corpus)
    assert len(found.curve.mean) == 12
    assert found.counts == {
        "items": 56,
        "items with fewer than 12 synthetic votes": 3,
        "items without synthetic votes": 0,
        "items without human votes": 1,
    }
    assert found.about["speakers"] == 10
    fewer = measure(annotations, corpus, votes=10)
    assert fewer.counts["items"] == 59 and len(fewer.curve.mean) == 10
    train = measure(annotations, corpus, splits=["train"])
    assert train.counts["items"] == 39 and train.about["splits"] == ["train"]
    assert train.agreement.counts["items"] == 39


def test_the_last_point_is_the_divergence_of_the_histograms(annotations, corpus):
    found = measure(annotations, corpus, splits=["train"])
    assert found.curve.mean[-1] == pytest.approx(found.agreement.records["jsd"]["all"]["synthetic"]["value"])
    np.testing.assert_allclose(np.diff(found.curve.runs[:, -1]), 0, atol=1e-12)


def test_row_order_and_label_order_change_nothing(annotations, corpus, tmp_path):
    found = measure(annotations, corpus)
    order = np.random.default_rng(3).permutation(len(annotations.votes))
    table = annotations.votes.to_arrow().take(pa.array(order))
    turned = Question.category("emotion", LABELS[::-1], prompt="Which?")
    write_annotations(tmp_path, VoteTable.from_arrow(table, [turned]), pa.table({"item": ITEMS}), {
        "corpus": corpus.name, "corpus_digest": corpus.digest,
    })  # fmt: skip
    np.testing.assert_allclose(measure(read_annotations(tmp_path), corpus).curve.runs, found.curve.runs, atol=1e-12)


def test_people_held_out(annotations, corpus):
    found = measure(annotations, corpus).held_out
    assert len(found.human.mean) == 3 and found.fewest == 3 and found.items == 56
    assert found.worth["text"]


def test_one_person_an_item_has_no_ceiling_and_says_so(exports, tmp_path):
    alone = read_export(exports / "Alone")
    found = measure(annotate(tmp_path / "votes", alone), alone)
    assert found.held_out is None and found.agreement is None
    assert "so the divergence among people is not known" in found.summary
    found.save(tmp_path / "out")
    record = json.loads((tmp_path / "out" / "saturation.json").read_text())
    assert record["held_out"] is None and record["agreement"] is None
    assert len(found.tables()) == 1


def test_what_is_written(annotations, corpus, tmp_path):
    found = measure(annotations, corpus)
    assert found.save(tmp_path / "out") == tmp_path / "out"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "saturation.md").write_text("mine")
    with pytest.raises(ValueError, match=r"holds saturation\.md, which this package did not write"):
        found.save(tmp_path / "other")
    record = json.loads((tmp_path / "out" / "saturation.json").read_text())
    assert record["suggested"] == found.finding.suggested and record["counts"]["items"] == 56
    assert [one["value"] for one in record["curve"]["values"]] == found.curve.mean.tolist()
    assert record["curve"]["unit"] == "nats" and len(record["curve"]["runs"]) == 5
    assert set(record["agreement"]["records"]["kappa"]) == {"all", "low", "mid", "high"}
    page = (tmp_path / "out" / "saturation.md").read_text()
    assert "![" in page and "saturation.png" in page and "arXiv 2601.14620" in page and "Synthetic annotators" in page
    assert (tmp_path / "out" / "saturation.png").read_bytes().startswith(b"\x89PNG")
    curve, agreement = found.tables()
    assert len(curve.rows) == 12
    for table in (curve, agreement):
        assert {len(row) for row in table.rows} == {len(table.columns)}
    bits = float(curve.rows[0][2].text)
    assert bits == pytest.approx(found.curve.mean[0] / np.log(2), abs=5e-4)


def test_annotators_who_all_say_the_same(corpus, tmp_path):
    found = measure(annotate(tmp_path, corpus, "joy"), corpus)
    assert found.finding.suggested is None and "flat" in found.finding.text
    assert "flat" in found.tables()[0].note
    found.save(tmp_path / "out")


def test_one_vote_an_item(corpus, tmp_path):
    found = measure(annotate(tmp_path, corpus, votes=1, short=0), corpus)
    assert len(found.curve.mean) == 1 and "There is 1 synthetic vote per item at most" in found.finding.text
    found.save(tmp_path / "out")
    assert found.agreement.records["among"]["all"]["synthetic"]["value"] is None


def test_one_item(corpus, tmp_path):
    found = measure(annotate(tmp_path, corpus, items=["i05"], short=0), corpus)
    assert found.counts["items"] == 1 and found.counts["items without synthetic votes"] == 59
    assert found.curve.estimates()[0].low is None
    found.save(tmp_path / "out")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"splits": ["tset"]}, r"no split 'tset' \(did you mean 'test'\?\); it has test, train"),
        ({"question": "emotoin"}, "no question 'emotoin'"),
        ({"question": "valence"}, "Question 'valence' was not annotated; emotion were"),
        ({"votes": 13}, "No item has 13 synthetic votes; the largest number is 12"),
        ({"votes": 0}, "number of votes is 0"),
        ({"resamples": 0}, "number of resamples is 0"),
        ({"n_resamples": 0}, "number of bootstrap resamples is 0; give a whole number from 1 up"),
        ({"n_resamples": -5}, "number of bootstrap resamples is -5"),
        ({"seed": -1}, "seed is -1; give a whole number from 0 up"),
        ({"seed": 1.5}, "seed is 1.5; give"),
    ],
)
def test_bad_requests(annotations, corpus, options, message):
    with pytest.raises(ValueError, match=message):
        measure(annotations, corpus, **options)


@pytest.mark.parametrize("question, value, what", [(VALENCE, 3, "a scale"), (HEARD, "x", "multi-select")])
def test_questions_without_a_histogram(corpus, tmp_path, question, value, what):
    found = annotate(tmp_path, corpus, value, question=question, votes=4)
    with pytest.raises(ValueError, match=f"is {what}; saturation compares histograms"):
        measure(found, corpus, question=question.name)
    with pytest.raises(ValueError, match="of which 0 have a histogram of single answers; name the question"):
        measure(found, corpus)


def test_annotations_that_do_not_belong(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"are of other \(digest 0123\), but the corpus is said"):
        measure(annotate(tmp_path / "a", corpus, facts={"corpus": "other", "corpus_digest": "0123"}), corpus)
    with pytest.raises(ValueError, match="have votes on 1 items that said does not list, such as 'nobody'"):
        measure(annotate(tmp_path / "b", corpus, items=[*ITEMS, "nobody"]), corpus)
    with pytest.raises(ValueError, match="has the answers anger, joy, but the corpus asks for anger, joy, sad"):
        measure(
            annotate(tmp_path / "c", corpus, "joy", question=Question.category("emotion", ["anger", "joy"])), corpus
        )
    with pytest.raises(ValueError, match="No item of said has both human and synthetic votes on 'emotion'"):
        measure(annotate(tmp_path / "d", corpus, items=["i00"], short=0), corpus)
    with pytest.raises(ValueError, match="No item of split test of said has both"):
        measure(annotate(tmp_path / "e", corpus, items=["i05"], short=0), corpus, splits=["test"])


def test_exports_that_do_not_fit(annotations, corpus):
    weighed = replace(corpus, votes=replace(corpus.votes, weights=np.full(len(corpus.votes), 0.5)))
    with pytest.raises(ValueError, match="have weights, but whole votes are drawn"):
        measure(annotations, weighed)
    mixed = replace(corpus, votes=VoteTable.concat([corpus.votes, annotations.votes]))
    with pytest.raises(ValueError, match="itself holds votes of source 'synthetic'"):
        measure(annotations, mixed)
    nameless = corpus.items.assign(speaker=[None, None, *corpus.items["speaker"][2:]])
    with pytest.raises(ValueError, match=r"1 evaluated items have no speaker \(such as 'i01'\)"):
        measure(annotations, replace(corpus, items=nameless))
    nobody = measure(annotations, replace(corpus, items=corpus.items.assign(speaker=None)))
    assert nobody.about["speakers"] == 0 and nobody.curve.estimates()[0].low is not None


def test_the_command(annotations, exports, tmp_path, capsys):
    words = [str(annotations.folder), "--corpus", str(exports / "Said"), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        cli.main(["saturation", *words, "--split", "train", "--resamples", "20"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "Divergence of n synthetic votes" in shown and "Synthetic annotators and people" in shown
    assert shown.rstrip().endswith(str(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "saturation.json").read_text())["splits"] == ["train"]
    with pytest.raises(SystemExit) as end:
        cli.main(["saturation", str(tmp_path), *words[1:]])
    assert end.value.code == 2 and "holds no annotations" in capsys.readouterr().err
    for option, value, least in (("--seed", "-1", 0), ("--resamples", "0", 1), ("--resamples", "-5", 1)):
        with pytest.raises(SystemExit) as end:
            cli.main(["saturation", *words, option, value])
        error = " ".join(capsys.readouterr().err.split())
        assert end.value.code == 2 and f" is {value}; give a whole number from {least} up" in error
