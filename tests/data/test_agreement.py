import itertools

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import cohen_kappa_score

from annot_hf.data.agreement import agreement, fleiss_kappa, krippendorff_alpha, pairwise_agreement
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

COUNTS = hnp.arrays(np.int64, st.tuples(st.integers(1, 8), st.integers(2, 5)), elements=st.integers(0, 5))


def usable(counts):
    pairable = counts[counts.sum(1) >= 2]
    return len(pairable) > 0 and (pairable.sum(0) > 0).sum() > 1


@given(COUNTS, st.sampled_from(["nominal", "ordinal", "interval"]))
@settings(max_examples=150, deadline=None)
def test_alpha_equals_krippendorff(counts, level):
    if not usable(counts):
        assert np.isnan(krippendorff_alpha(counts, level=level))
        return
    expected = krippendorff.alpha(value_counts=counts, level_of_measurement=level)
    assert krippendorff_alpha(counts, level=level) == pytest.approx(expected, abs=1e-10)


def test_alpha_of_interval_values_far_from_zero():
    counts = np.random.default_rng(0).integers(0, 4, (40, 5))
    values = np.array([1000.0, 1000.5, 1001.0, 1003.0, 1007.0])
    expected = krippendorff.alpha(value_counts=counts, value_domain=values, level_of_measurement="interval")
    assert krippendorff_alpha(counts, level="interval", values=values) == pytest.approx(expected, abs=1e-10)


@given(COUNTS)
@settings(max_examples=80, deadline=None)
def test_pairwise_agreement_and_kappa_equal_explicit_loops(counts):
    per_item = []
    for row in counts:
        votes = np.repeat(np.arange(len(row)), row)
        if len(votes) > 1:
            per_item.append(np.mean([a == b for a, b in itertools.combinations(votes, 2)]))
    if not per_item:
        assert np.isnan(pairwise_agreement(counts)) and np.isnan(fleiss_kappa(counts))
        return
    assert pairwise_agreement(counts) == pytest.approx(np.mean(per_item))
    shares = counts[counts.sum(1) >= 2].sum(0) / counts[counts.sum(1) >= 2].sum()
    if (shares > 0).sum() > 1:
        chance = (shares**2).sum()
        assert fleiss_kappa(counts) == pytest.approx((np.mean(per_item) - chance) / (1 - chance))


def test_fleiss_kappa_of_the_worked_example():
    # Fleiss (1971) as on Wikipedia: 14 raters, 10 subjects, 5 categories, kappa = 0.210
    rows = "0 0 0 0 14/0 2 6 4 2/0 0 3 5 6/0 3 9 2 0/2 2 8 1 1/7 7 0 0 0/3 2 6 3 0/2 5 3 2 2/6 5 2 1 0/0 2 2 3 7"
    counts = np.array([row.split() for row in rows.split("/")], dtype=int)
    assert fleiss_kappa(counts) == pytest.approx(0.210, abs=5e-4)
    assert pairwise_agreement(counts) == pytest.approx(0.378, abs=5e-4)


@given(COUNTS, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_order_of_items_and_nominal_labels_does_not_matter(counts, random):
    items, labels = list(range(counts.shape[0])), list(range(counts.shape[1]))
    random.shuffle(items)
    random.shuffle(labels)
    shuffled = counts[items][:, labels]
    np.testing.assert_allclose(krippendorff_alpha(shuffled), krippendorff_alpha(counts), atol=1e-12)
    np.testing.assert_allclose(fleiss_kappa(shuffled), fleiss_kappa(counts), atol=1e-12)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_perfect_agreement_is_one(level):
    assert krippendorff_alpha(np.array([[3, 0, 0], [0, 2, 0], [0, 0, 5]]), level=level) == pytest.approx(1)


def scale_votes(values):
    items = [f"i{row}" for row in range(len(values)) for _ in values[row]]
    raters = [f"r{column}" for row in values for column in range(len(row))]
    return VoteTable.from_columns(
        Question.scale("valence", 0, 100), item=items, value=np.concatenate(values), annotator=raters
    )


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_votes_on_a_fine_scale_equal_krippendorff(level):
    rng = np.random.default_rng(1)
    values = rng.normal(50, 20, (60, 1)) + rng.normal(0, 8, (60, 4))
    values = np.clip(np.round(values, 1), 0, 100)
    found = agreement(scale_votes(list(values)), "valence", level=level)
    assert found.alpha == pytest.approx(krippendorff.alpha(values.T, level_of_measurement=level), abs=1e-10)
    assert (found.items, found.pairable_items, found.votes, found.annotators) == (60, 60, 240, 4)


def test_agreement_counts_what_it_used():
    question = Question.category("emotion", ("a", "b", "c"))
    votes = VoteTable.from_counts(question, ["x", "y", "z", "none"], [[2, 1, 0], [0, 1, 0], [0, 0, 2], [0, 0, 0]])
    found = agreement(votes, "emotion")
    assert found.to_dict() == {
        "question": "emotion",
        "level": "nominal",
        "alpha": pytest.approx(krippendorff_alpha(np.array([[2, 1, 0], [0, 0, 2]]))),
        "pairwise": pytest.approx((1 / 3 + 1) / 2),
        "fleiss_kappa": pytest.approx(fleiss_kappa(np.array([[2, 1, 0], [0, 0, 2]]))),
        "cohen_kappa": None,  # nobody has a name
        "rater_pairs": 0,
        "undefined_pairs": 0,
        "items": 3,
        "pairable_items": 2,
        "votes": 6,
        "annotators": 0,
    }


def test_undefined_agreement_is_none():
    question = Question.category("emotion", ("a", "b"))
    alone = agreement(VoteTable.from_counts(question, ["x", "y"], [[1, 0], [0, 1]]), "emotion")
    same = agreement(VoteTable.from_counts(question, ["x", "y"], [[2, 0], [3, 0]]), "emotion")
    assert (alone.alpha, alone.pairwise, alone.fleiss_kappa, alone.pairable_items) == (None, None, None, 0)
    assert (same.alpha, same.pairwise, same.fleiss_kappa) == (None, 1.0, None)


def test_agreement_of_one_question_of_several():
    questions = (Question.category("emotion", ("a", "b")), Question.scale("valence", 1, 5))
    votes = VoteTable.from_columns(
        questions,
        item=["x", "x", "y", "y", "x", "x"],
        question=["emotion"] * 4 + ["valence"] * 2,
        value=["a", "b", "a", "a", "1", "4"],
        annotator=["p", "q"] * 3,
    )
    assert agreement(votes, "emotion").alpha == pytest.approx(krippendorff_alpha(np.array([[1, 1], [2, 0]])))
    assert agreement(votes, "valence").votes == 2


def named(question, answers):
    """Votes from {(item, rater): answer}; a list answers a multi-select question."""
    rows = [
        (*who, value)
        for who, given in answers.items()
        for value in (given if isinstance(given, list) and given else [given or None])
    ]
    item, annotator, value = zip(*rows, strict=True)
    return VoteTable.from_columns(question, item=item, annotator=annotator, value=value)


def mean_over_pairs(answers):
    """Mean of sklearn's kappa over pairs of raters, weighted by shared items, and the pairs with and without one."""
    kappas, weights, undefined = [], [], 0
    for one, other in itertools.combinations(sorted({rater for _, rater in answers}), 2):
        items = [item for item, rater in answers if rater == one and (item, other) in answers]
        pairs = [(answers[item, one], answers[item, other]) for item in items]
        if not pairs:
            continue
        if len(pairs) == 1 or len(set(itertools.chain(*pairs))) == 1:  # of the latter sklearn answers NaN, and warns
            undefined += 1
            continue
        kappas.append(cohen_kappa_score(*zip(*pairs, strict=True)))
        weights.append(len(pairs))
    mean = np.average(kappas, weights=weights) if kappas else np.nan
    return mean, len(kappas) + undefined, undefined


FORMS = st.dictionaries(
    st.tuples(st.sampled_from("uvwxyz"), st.sampled_from(["ann", "ben", "cy", "di"])), st.integers(0, 2), min_size=1
)


@given(FORMS)
@settings(max_examples=60, deadline=None)
def test_cohen_kappa_is_the_weighted_mean_of_sklearns(answers):
    words = {who: "abc"[answer] for who, answer in answers.items()}
    expected, pairs, undefined = mean_over_pairs(words)
    for question, said in ((Question.category("q", ("a", "b", "c")), words), (Question.scale("q", 1, 3), answers)):
        if question.is_scale:
            said = {who: 1 + answer for who, answer in said.items()}
        found = agreement(named(question, said), "q")
        assert found.cohen_kappa == (None if np.isnan(expected) else pytest.approx(expected))
        assert (found.rater_pairs, found.undefined_pairs) == (pairs, undefined)


@given(
    st.dictionaries(
        st.tuples(st.sampled_from("uvwx"), st.sampled_from(["ann", "ben", "cy"])),
        st.lists(st.sampled_from(["a", "b", "c"]), unique=True),
        min_size=1,
    )
)
@settings(max_examples=60, deadline=None)
def test_cohen_kappa_of_several_answers_is_the_mean_over_yes_no_questions(answers):
    question = Question.category("q", ("a", "b", "c"), multiple=True)
    by_label = [mean_over_pairs({who: label in chosen for who, chosen in answers.items()}) for label in "abc"]
    defined = [kappa for kappa, *_ in by_label if not np.isnan(kappa)]
    whole = agreement(named(question, answers), "q")
    assert whole.cohen_kappa == (pytest.approx(np.mean(defined)) if defined else None)
    assert whole.rater_pairs == by_label[0][1]
    assert (whole.alpha, whole.pairwise, whole.fleiss_kappa, whole.level) == (None, None, None, "per label")
    per_item = [sum(item == other for other, _ in answers) for item in {item for item, _ in answers}]
    assert (whole.items, whole.pairable_items) == (len(per_item), sum(count > 1 for count in per_item))
    assert whole.annotators == len({rater for _, rater in answers})


def test_cohen_kappa_of_the_worked_example():
    # Cohen's example on Wikipedia: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no of 50 proposals, kappa 0.40
    cells = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    answers = {(str(item), rater): pair[place] for item, pair in enumerate(cells) for place, rater in enumerate("ab")}
    found = agreement(named(Question.category("q", ("yes", "no")), answers), "q")
    assert found.cohen_kappa == pytest.approx(0.4) and (found.rater_pairs, found.undefined_pairs) == (1, 0)


def test_cohen_kappa_where_there_is_none():
    question = Question.category("q", ("a", "b"))
    alone = agreement(named(question, {("x", "ann"): "a", ("y", "ann"): "b"}), "q")
    apart = agreement(named(question, {("x", "ann"): "a", ("y", "ben"): "b"}), "q")
    once = agreement(named(question, {("x", "ann"): "a", ("x", "ben"): "b"}), "q")
    same = agreement(named(question, {(item, rater): "a" for item in "xyz" for rater in ("ann", "ben")}), "q")
    found = (alone, apart, once, same)
    assert [one.cohen_kappa for one in found] == [None] * 4
    assert [(one.rater_pairs, one.undefined_pairs) for one in found] == [(0, 0), (0, 0), (1, 1), (1, 1)]


def test_cohen_kappa_takes_first_answers_and_leaves_anonymous_votes_out():
    question = Question.category("q", ("a", "b"))
    rows = {
        "item": list("xyxyx") + ["x"],
        "annotator": ["ann", "ann", "ben", "ben", "ann", None],
        "value": list("ababba"),
    }
    votes = VoteTable.from_columns(question, **rows, duplicates="keep")
    found = agreement(votes, "q")
    assert found.cohen_kappa == pytest.approx(1) and found.rater_pairs == 1


def test_bad_level():
    with pytest.raises(ValueError, match="There is no level 'ratio'; use one of nominal, ordinal, interval."):
        agreement(scale_votes([[1, 2]]), "valence", level="ratio")


def test_questions_that_do_not_fit():
    several = Question.category("tags", ("a", "b"), multiple=True)
    votes = VoteTable.from_columns(several, item=["x", "x"], value=["a", "b"], annotator=["p", "p"])
    with pytest.raises(ValueError, match="Question 'tags' is multi-select and has no alpha of level 'nominal'; leave"):
        agreement(votes, "tags", level="nominal")
    votes = VoteTable.from_counts(Question.category("emotion", ("a", "b")), ["x"], [[1, 1]])
    with pytest.raises(ValueError, match="Question 'emotion' has unordered labels; level 'interval' needs a scale"):
        agreement(votes, "emotion", level="interval")


def test_alpha_of_a_large_corpus_of_chance():
    counts = np.random.default_rng(0).multinomial(6, np.full(9, 1 / 9), size=50_000)
    assert abs(krippendorff_alpha(counts)) < 0.01
