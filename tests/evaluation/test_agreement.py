import collections
import itertools
from dataclasses import replace

import krippendorff
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import cohen_kappa_score, mutual_info_score

from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.agreement import (
    _add_measures,
    _kappas,
    _Sums,
    agreement,
    agreement_difference,
)
from annot_hf.evaluation.resampling import Resamples

LEVELS = ["nominal", "ordinal", "interval", "ratio"]
POINT = Resamples(n=0)
COUNTS = hnp.arrays(np.int64, st.tuples(st.integers(1, 8), st.integers(2, 5)), elements=st.integers(0, 5))
VOTED = COUNTS.filter(np.any)


def of_counts(counts):
    """Agreement on anonymous votes."""
    counts = np.asarray(counts)
    question = Question.category("q", [f"label {code}" for code in range(counts.shape[1])])
    return agreement(
        VoteTable.from_counts(question, [f"i{row}" for row in range(len(counts))], counts), "q", resamples=POINT
    )


def alpha_of(counts, level="nominal", values=None):
    """Alpha of anonymous ratings, of which each item has so many of each value; None where it is undefined."""
    counts = np.asarray(counts)
    values = np.arange(counts.shape[1]) if values is None else np.asarray(values)
    item, code = (part.repeat(counts.ravel()) for part in np.divmod(np.arange(counts.size), counts.shape[1]))
    asked = Question.scale("q", values.min() - 1, values.max() + 1)
    votes = VoteTable.from_columns(asked, item=item.astype(str), value=values[code].astype(float))
    return agreement(votes, "q", level=level, resamples=POINT).alpha.value


def pairwise_agreement(counts):
    return of_counts(counts).pairwise.value


def fleiss_kappa(counts):
    return of_counts(counts).fleiss_kappa.value


def usable(counts):
    pairable = counts[counts.sum(1) >= 2]
    return len(pairable) > 0 and (pairable.sum(0) > 0).sum() > 1


@given(VOTED, st.sampled_from(LEVELS))
@settings(max_examples=150, deadline=None)
def test_alpha_equals_krippendorff(counts, level):
    if not usable(counts):
        assert alpha_of(counts, level) is None
        return
    expected = krippendorff.alpha(value_counts=counts, level_of_measurement=level)
    assert alpha_of(counts, level) == pytest.approx(expected, abs=1e-10)


def test_alpha_of_interval_values_far_from_zero():
    counts = np.random.default_rng(0).integers(0, 4, (40, 5))
    values = np.array([1000.0, 1000.5, 1001.0, 1003.0, 1007.0])
    expected = krippendorff.alpha(value_counts=counts, value_domain=values, level_of_measurement="interval")
    assert alpha_of(counts, "interval", values) == pytest.approx(expected, abs=1e-10)


@given(VOTED)
@settings(max_examples=25, deadline=None)
def test_pairwise_agreement_and_kappa_equal_explicit_loops(counts):
    per_item = []
    for row in counts:
        votes = np.repeat(np.arange(len(row)), row)
        if len(votes) > 1:
            per_item.append(np.mean([a == b for a, b in itertools.combinations(votes, 2)]))
    if not per_item:
        assert pairwise_agreement(counts) is None and fleiss_kappa(counts) is None
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


@given(VOTED, st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_order_of_items_and_nominal_labels_does_not_matter(counts, random):
    items, labels = list(range(counts.shape[0])), list(range(counts.shape[1]))
    random.shuffle(items)
    random.shuffle(labels)
    shuffled = counts[items][:, labels]
    assert of_counts(shuffled).alpha.value == pytest.approx(of_counts(counts).alpha.value, abs=1e-12)
    assert fleiss_kappa(shuffled) == pytest.approx(fleiss_kappa(counts))


@pytest.mark.parametrize("level", LEVELS)
def test_perfect_agreement_is_one(level):
    assert alpha_of([[3, 0, 0], [0, 2, 0], [0, 0, 5]], level) == pytest.approx(1)


def scale_votes(values):
    items = [f"i{row}" for row in range(len(values)) for _ in values[row]]
    raters = [f"r{column}" for row in values for column in range(len(row))]
    return VoteTable.from_columns(
        Question.scale("valence", 0, 100), item=items, value=np.concatenate(values), annotator=raters
    )


@pytest.mark.parametrize("level", LEVELS)
def test_votes_on_a_fine_scale_equal_krippendorff(level):
    rng = np.random.default_rng(1)
    values = rng.normal(50, 20, (60, 1)) + rng.normal(0, 8, (60, 4))
    values = np.clip(np.round(values, 1), 0, 100)
    found = agreement(scale_votes(list(values)), "valence", level=level)
    assert found.alpha.value == pytest.approx(krippendorff.alpha(values.T, level_of_measurement=level), abs=1e-10)
    assert (found.items, found.pairable_items, found.votes, found.annotators) == (60, 60, 240, 4)


def test_agreement_counts_what_it_used():
    question = Question.category("emotion", ("a", "b", "c"))
    votes = VoteTable.from_counts(question, ["x", "y", "z", "none"], [[2, 1, 0], [0, 1, 0], [0, 0, 2], [0, 0, 0]])
    found = agreement(votes, "emotion", resamples=POINT).to_dict()
    none = {"value": None, "low": None, "high": None}
    information = mutual_information([[2, 1, 0], [0, 0, 2]])
    assert found == {
        "question": "emotion",
        "level": "nominal",
        "alpha": none | {"value": pytest.approx(alpha_of([[2, 1, 0], [0, 0, 2]]))},
        "pairwise": none | {"value": pytest.approx((1 / 3 + 1) / 2)},
        "fleiss_kappa": none | {"value": pytest.approx(fleiss_kappa([[2, 1, 0], [0, 0, 2]]))},
        "cohen_kappa": none,  # nobody has a name
        "entropy": none | {"value": pytest.approx(scipy.stats.entropy([2, 1]) / 2)},
        "information": none | {"value": pytest.approx(information)},
        "deviation": none,
        "rest_ccc": none,
        "rater_pairs": 0,
        "undefined_pairs": 0,
        "items": 3,
        "pairable_items": 2,
        "votes": 6,
        "annotators": 0,
        "effective_raters": None,
    }


def test_raters_who_cast_most_votes_are_few():
    cast = {"a": 50, "b": 30, "c": 1, "d": 1}
    who = [name for name, times in cast.items() for _ in range(times)]
    names = [f"i{row % 50}" for row in range(len(who))]
    question = Question.category("emotion", ("a", "b"))
    votes = VoteTable.from_columns(question, item=names, annotator=who, value=["a", "b"] * 41)
    found = agreement(votes, "emotion", resamples=POINT)
    shares = np.array(list(cast.values())) / 82
    # the number of equal raters of whom two votes are by the same one as often
    assert found.effective_raters == pytest.approx(1 / (shares**2).sum()) and found.annotators == 4


def mutual_information(counts):
    """From the table of all ordered pairs of votes of an item, each vote counting once."""
    together = sum(
        np.eye(len(row))[[a, b]][[0]].T @ np.eye(len(row))[[b]] / (sum(row) - 1)
        for row in counts
        for a, b in itertools.permutations(np.repeat(np.arange(len(row)), row), 2)
    )
    return mutual_info_score(None, None, contingency=together)


def test_undefined_agreement_is_none():
    question = Question.category("emotion", ("a", "b"))
    alone = agreement(VoteTable.from_counts(question, ["x", "y"], [[1, 0], [0, 1]]), "emotion")
    same = agreement(VoteTable.from_counts(question, ["x", "y"], [[2, 0], [3, 0]]), "emotion")
    assert (alone.alpha.value, alone.pairwise.value, alone.fleiss_kappa.value, alone.pairable_items) == (
        None,
        None,
        None,
        0,
    )
    assert (same.alpha.value, same.pairwise.value, same.fleiss_kappa.value) == (None, 1.0, None)


def test_agreement_of_one_question_of_several():
    questions = (Question.category("emotion", ("a", "b")), Question.scale("valence", 1, 5))
    votes = VoteTable.from_columns(
        questions,
        item=["x", "x", "y", "y", "x", "x"],
        question=["emotion"] * 4 + ["valence"] * 2,
        value=["a", "b", "a", "a", "1", "4"],
        annotator=["p", "q"] * 3,
    )
    assert agreement(votes, "emotion").alpha.value == pytest.approx(alpha_of([[1, 1], [2, 0]]))
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
        found = agreement(named(question, said), "q", resamples=POINT)
        assert found.cohen_kappa.value == (None if np.isnan(expected) else pytest.approx(expected))
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
    votes = named(question, answers)
    whole = agreement(votes, "q", resamples=POINT)
    assert whole.cohen_kappa.value == (pytest.approx(np.mean(defined)) if defined else None)
    assert whole.rater_pairs == by_label[0][1]
    assert (whole.alpha.value, whole.pairwise.value, whole.fleiss_kappa.value, whole.level) == (
        None,
        None,
        None,
        "per label",
    )
    per_item = [sum(item == other for other, _ in answers) for item in {item for item, _ in answers}]
    assert (whole.items, whole.pairable_items) == (len(per_item), sum(count > 1 for count in per_item))
    assert whole.annotators == len({rater for _, rater in answers})


def test_cohen_kappa_of_the_worked_example():
    # Cohen's example on Wikipedia: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no of 50 proposals, kappa 0.40
    cells = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    answers = {(str(item), rater): pair[place] for item, pair in enumerate(cells) for place, rater in enumerate("ab")}
    found = agreement(named(Question.category("q", ("yes", "no")), answers), "q")
    assert found.cohen_kappa.value == pytest.approx(0.4) and (found.rater_pairs, found.undefined_pairs) == (1, 0)


def test_cohen_kappa_where_there_is_none():
    question = Question.category("q", ("a", "b"))
    alone = {("x", "ann"): "a", ("y", "ann"): "b"}
    apart = {("x", "ann"): "a", ("y", "ben"): "b"}
    once = {("x", "ann"): "a", ("x", "ben"): "b"}
    same = {(item, rater): "a" for item in "xyz" for rater in ("ann", "ben")}
    for answers, pairs in ((alone, 0), (apart, 0), (once, 1), (same, 1)):
        found = agreement(named(question, answers), "q")
        assert (found.cohen_kappa.value, found.rater_pairs, found.undefined_pairs) == (None, pairs, pairs)


def test_cohen_kappa_takes_first_answers_and_leaves_anonymous_votes_out():
    question = Question.category("q", ("a", "b"))
    rows = {
        "item": list("xyxyx") + ["x"],
        "annotator": ["ann", "ann", "ben", "ben", "ann", None],
        "value": list("ababba"),
    }
    votes = VoteTable.from_columns(question, **rows, duplicates="keep")
    found = agreement(votes, "q", resamples=POINT)
    assert found.cohen_kappa.value == pytest.approx(1) and found.rater_pairs == 1


def test_questions_that_do_not_fit():
    several = Question.category("tags", ("a", "b"), multiple=True)
    votes = VoteTable.from_columns(several, item=["x", "x"], value=["a", "b"], annotator=["p", "p"])
    with pytest.raises(ValueError, match="Question 'tags' is multi-select and has no alpha of level 'nominal'; leave"):
        agreement(votes, "tags", level="nominal")
    votes = VoteTable.from_counts(Question.category("emotion", ("a", "b")), ["x"], [[1, 1]])
    with pytest.raises(ValueError, match="Question 'emotion' has unordered labels; level 'interval' needs a scale"):
        agreement(votes, "emotion", level="interval")
    with pytest.raises(ValueError, match="level is 'metric'; use 'nominal' or 'ordinal' or 'interval' or 'ratio'"):
        agreement(scale_votes([[1.0, 2.0]]), "valence", level="metric")


def test_alpha_of_a_large_corpus_of_chance():
    counts = np.random.default_rng(0).multinomial(6, np.full(9, 1 / 9), size=50_000)
    assert abs(alpha_of(counts)) < 0.01


def crossed(kind, rng, items=40, raters=6):
    """Votes of raters who rate some items each, with tastes of their own."""
    item, rater = np.nonzero(rng.random((items, raters)) < 0.7)
    names = {"item": [f"i{code}" for code in item], "annotator": [f"r{code}" for code in rater]}
    if kind == "scale":
        value = np.clip(np.round(3 + rng.normal(size=items)[item] + rng.normal(size=raters)[rater]), 1, 5)
        return VoteTable.from_columns(Question.scale("q", 1, 5), value=value, **names)
    value = (rng.normal(size=(items, 3))[item] + rng.normal(size=(raters, 3))[rater]).argmax(axis=1)
    return VoteTable.from_columns(Question.category("q", list("abc")), value=["abc"[code] for code in value], **names)


@pytest.mark.parametrize(("kind", "level"), [("category", "nominal"), *(("scale", level) for level in LEVELS)])
def test_items_that_are_drawn_twice_count_twice(kind, level, monkeypatch):
    votes = crossed(kind, np.random.default_rng(2))
    anonymous = replace(votes, annotator_codes=np.full(len(votes), -1))
    rng = np.random.default_rng(3)
    times = rng.multinomial(len(votes.items), np.full(len(votes.items), 1 / len(votes.items)), 4).astype(float)
    monkeypatch.setattr(Resamples, "_multiplicities", lambda self, count: iter([times]))
    found = agreement(anonymous, "q", level=level, resamples=Resamples(n=4)).draws
    columns = ("annotator_codes", "question_codes", "label_codes", "ratings", "source_codes")
    for row, weight in enumerate(times):
        drawn = np.repeat(np.arange(len(weight)), weight.astype(int))
        rows = [np.flatnonzero(votes.item_codes == item) for item in drawn]
        place = np.repeat(np.arange(len(drawn)), [len(one) for one in rows])
        parts = {name: getattr(anonymous, name)[np.concatenate(rows)] for name in columns}
        again = replace(anonymous, items=np.arange(len(drawn)).astype(str), item_codes=place, **parts)
        expected = agreement(again, "q", level=level, resamples=POINT)
        for name in ("pairwise", "deviation" if kind == "scale" else "entropy"):
            assert found[name][row + 1] == pytest.approx(getattr(expected, name).value, abs=1e-9)
        # Expected disagreement is linear in the votes of a resample, and the metric of ranks is that of all votes.
        assert found["alpha"][row + 1] == pytest.approx(expected.alpha.value, abs=0.03)


def summed(item, value, scores):
    """The sums behind the measures, by loops over pairs of votes."""
    sums = collections.Counter()
    for name in set(item):
        x = value[item == name]
        if len(x) < 2:
            continue
        pairs = list(itertools.permutations(x, 2))
        mean = {key: np.mean([score(a, b) for a, b in pairs]) for key, score in scores.items()}
        sums.update({key: len(x) * one for key, one in mean.items()} | {"used": len(x), "agree": 1 - mean["differ"]})
        sums["pairable"] += 1
        sums["entropy"] += scipy.stats.entropy(np.unique(x, return_counts=True)[1])
        sums["by chance"] += sum(scores["chance"](a, a) for a in x)
        for place in range(len(x)):
            y = np.mean(np.delete(x, place))
            sums.update({index: one for index, one in enumerate((1, x[place], y, x[place] ** 2, y**2, x[place] * y))})
    return sums


@pytest.mark.parametrize("kind", ["category", "scale"])
def test_sums_and_what_each_vote_changes_are_those_without_the_vote(kind):
    votes = crossed(kind, np.random.default_rng(9), items=9, raters=5)
    item, scale = votes.item_codes.astype(np.int64), kind == "scale"
    assert {1, 2, 3} <= set(np.bincount(item))
    sums = _Sums(item, len(votes.items))
    _add_measures(sums, votes, votes.questions[0], slice(None), "ratio" if scale else "nominal")
    value = votes.ratings if scale else votes.label_codes.astype(float)
    pairable = value[np.bincount(item)[item] >= 2]
    distance = (lambda a, b: ((a - b) / (a + b)) ** 2) if scale else (lambda a, b: a != b)
    scores = {"differ": lambda a, b: a != b, "chance": lambda a, _: np.mean([distance(a, one) for one in pairable])}
    expected = {"agree": "agree", "used": "used", "pairable": "pairable", ("alpha", "expected"): "by chance"}
    if scale:
        scores |= {"ratio": distance, "square": lambda a, b: (a - b) ** 2}
        expected |= {("alpha", "observed"): "ratio", ("same", "observed"): "differ", "variance": "square"}
        expected |= {("rest", index): index for index in range(6)}
        # Neither an offset nor a scale changes the CCC.
        value = (value - value.mean()) / value.std()
        back = votes.ratings.std(), votes.ratings.mean()
        scores = {
            key: (lambda a, b, score=score: score(a * back[0] + back[1], b * back[0] + back[1]))
            for key, score in scores.items()
        }
    else:
        table = votes.counts("q")
        together = sum((np.outer(row, row) - np.diag(row)) / (row.sum() - 1) for row in table if row.sum() > 1)
        share = together / together.sum()
        information = np.log(share / np.outer(share.sum(0), share.sum(0)))
        scores["information"] = lambda a, b: information[int(a), int(b)]
        expected |= {("alpha", "observed"): "differ", "information": "information", "entropy": "entropy"}
    whole, every = summed(item, value, scores), np.arange(len(value))
    for vote in every:
        rest = summed(item[every != vote], value[every != vote], scores)
        for name, key in expected.items():
            items, changes = sums.columns[name]
            assert items.sum() == pytest.approx(whole[key]), name
            assert changes[vote] == pytest.approx(whole[key] - rest[key], abs=1e-9), (name, vote)


def test_the_share_of_an_item_in_kappa_is_the_derivative_by_its_weight():
    rng = np.random.default_rng(5)
    left, right = rng.integers(0, 3, (2, 12))
    _, shares = _kappas(np.zeros(12, dtype=int), np.array([12]), left, right)

    def kappa(weight):
        share = np.zeros((3, 3))
        np.add.at(share, (left, right), weight / weight.sum())
        chance = share.sum(0) @ share.sum(1)
        return weight.sum() * (np.trace(share) - chance) / (1 - chance)

    for row in range(12):
        step = 1e-5 * np.eye(12)[row]
        assert shares[row] == pytest.approx((kappa(1 + step) - kappa(1 - step)) / 2e-5, abs=1e-6)


def test_intervals_are_as_wide_as_the_entropy_varies_where_few_raters_rate_much():
    """Each item has six of thirty raters, so what many items say is the tastes of these thirty."""
    rng, asked, found, variances = np.random.default_rng(8), Question.category("q", list("abcd")), [], []
    for seed in range(40):
        rater = np.argsort(rng.random((600, 30)), axis=1)[:, :6].ravel()
        item = np.repeat(np.arange(600), 6)
        logits = 1.5 * rng.normal(size=(600, 4))[item] + 0.8 * rng.normal(size=(30, 4))[rater]
        label = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        names = {"item": item.astype(str).tolist(), "annotator": rater.astype(str).tolist()}
        votes = VoteTable.from_columns(asked, value=["abcd"[code] for code in label], **names)
        draws = agreement(votes, "q", resamples=Resamples(n=40, seed=seed)).draws["entropy"]
        found.append(draws[0])
        variances.append(draws[1:].var())
    # Student's factor for 30 raters is 1.04, and the spread of 40 corpora is known to 11 %.
    assert 0.8 < np.mean(variances) ** 0.5 / np.std(found) < 1.4


def test_intervals_widen_with_raters_of_their_own_taste_and_not_with_names_alone():
    rng = np.random.default_rng(6)
    votes = crossed("scale", rng, items=200, raters=8)
    widths = {}
    for who, codes in (
        ("named", votes.annotator_codes),
        ("unknown", np.full(len(votes), -1)),
        ("each vote", np.arange(len(votes))),
    ):
        names = np.arange(len(votes)).astype(str)
        found = agreement(
            replace(votes, annotators=names, annotator_codes=codes), "q", resamples=Resamples(n=300)
        ).alpha
        widths[who] = found.high - found.low
    # Raters differ by as much as items, and there are eight of them.
    assert widths["named"] > 3 * widths["unknown"] and widths["each vote"] == pytest.approx(widths["unknown"], rel=0.1)


def test_questions_of_one_table_are_compared_on_the_same_draws():
    rng = np.random.default_rng(7)
    one = crossed("category", rng)
    both = VoteTable.concat([one, renamed(one, "again")])
    first, second = (agreement(both, name, resamples=Resamples(n=50)) for name in ("q", "again"))
    assert agreement_difference(first, second, "alpha") == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert agreement_difference(first, second, "rest_ccc") is None


def renamed(votes, name):
    return replace(votes, questions=(replace(votes.questions[0], name=name),))
