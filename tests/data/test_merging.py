"""Primary and secondary votes merged, plurality and point targets, each against a loop that is written out here."""

from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from annot_hf.data.corpus import VoteCorpus
from annot_hf.data.export import export_corpus, read_export
from annot_hf.data.questions import Question
from annot_hf.data.targets import make_targets, merge_votes, rater_weights, scale_means, secondary_votes, winners
from annot_hf.data.votes import VoteTable

LABELS = ("angry", "happy", "sad", "neutral", "other")
HEARD = (
    "amused",
    "sad",
    "angry",
    "tired",
    "other",
    "neutral",
    "happy",
)  # another order, two labels that are no primary ones
EMOTION = Question.category("emotion", LABELS)
SECOND = Question.category("second", HEARD, multiple=True, secondary_to="emotion")
OUTSIDE, REPEATED = (
    "secondary votes on labels outside the question",
    "secondary votes that repeat a label of the same rater",
)


def table(primary, secondary, *, weight=None, second=SECOND, **options):
    """Votes from `(item, rater, label)` rows of both questions."""
    rows = [(*row, "emotion") for row in primary] + [(*row, second.name) for row in secondary]
    item, annotator, value, question = (list(column) for column in zip(*rows, strict=True))
    columns = {"item": item, "annotator": annotator, "value": value, "question": question, "weight": weight}
    return VoteTable.from_columns([EMOTION, second], **columns, **{"duplicates": "keep"} | options)


def merged(votes, alpha=0.9, **options):
    return make_targets(votes, "emotion", "merged", primary_weight=alpha, **options)


def merge_by_hand(primary, secondary, alpha):
    """The rule of the paper for one item, in fractions: rows `(rater, label)`, None for "none of them"."""
    alpha = Fraction(alpha)
    p = [Fraction(sum(label == c for _, label in primary), len(primary)) for c in LABELS]
    heard = defaultdict(set)
    for rater, label in secondary:
        if label in LABELS:
            heard[rater].add(label)
    if not heard:
        return p
    s = [sum(Fraction(1, len(labels)) for labels in heard.values() if c in labels) / len(heard) for c in LABELS]
    m = [alpha * a + (1 - alpha) * b for a, b in zip(p, s, strict=True)]
    return [mass / sum(m) for mass in m]


def winner_by_hand(masses, counts, ties):
    """One item's winner over `LABELS`, by the published rules, in fractions; a set where a tie is shared."""
    best = {label for label, mass in zip(LABELS, masses, strict=True) if mass == max(masses)}
    if ties == "share":
        return best
    if ties == "other":
        return best if len(best) == 1 else {"other"}
    by_name = dict(zip(LABELS, masses, strict=True))
    neutral = by_name.pop("neutral")
    rival = max(by_name.values())
    clear = neutral >= Fraction(35, 100) and neutral - rival >= Fraction(10, 100)
    if (clear and counts[LABELS.index("neutral")] >= 2) or not rival:
        return {"neutral"}
    return {max(label for label, mass in by_name.items() if mass == rival)}


def one_hot(labels):
    return [(label in labels) / len(labels) for label in LABELS]


# --- merged votes


first_choice = st.tuples(st.sampled_from("abcd"), st.sampled_from("rstu"), st.sampled_from(LABELS))
heard_too = st.tuples(st.sampled_from("abcd"), st.sampled_from("rstu"), st.sampled_from([*HEARD, None]))


@given(
    primary=st.lists(first_choice, min_size=1, max_size=12),
    secondary=st.lists(heard_too, max_size=20),
    alpha=st.sampled_from(["0", "0.8", "0.9", "1", "0.37"]),
)
def test_merged_targets_are_the_rule_of_the_paper(primary, secondary, alpha):
    primary, secondary = [*primary, ("z", "r", "sad")], [*secondary, ("z", "r", "sad")]
    targets = merged(table(primary, secondary), float(alpha))
    assert set(targets.items) == {item for item, _, _ in primary}
    for item, row in zip(targets.items, targets.probs, strict=True):
        own = [[(rater, label) for name, rater, label in rows if name == item] for rows in (primary, secondary)]
        np.testing.assert_allclose(row, [float(mass) for mass in merge_by_hand(*own, alpha)], atol=1e-12)
    on_items = [row for row in secondary if row[0] in set(targets.items)]
    outside = sum(label in ("amused", "tired") for _, _, label in on_items)
    repeats = sum(many - 1 for row, many in Counter(on_items).items() if row[2] in LABELS)
    unvoted = {item for item, _, _ in secondary} - set(targets.items)
    excluded = {"items without votes": len(unvoted), OUTSIDE: outside, REPEATED: repeats}
    assert targets.excluded == {reason: number for reason, number in excluded.items() if number}


def second_votes(*rows):
    """Masses and what was left out of item a, whose raters r and s chose happy and sad."""
    masses, left_out = secondary_votes(table([("a", "r", "happy"), ("a", "s", "sad")], rows), "emotion")
    assert masses.shape == (1, 5)
    return dict(zip(LABELS, masses[0], strict=True)), [int(number[0]) for number in left_out.values()]


@pytest.mark.parametrize(
    ("rows", "masses", "left_out"),
    [
        ([("r", "happy"), ("r", "angry")], {"happy": 0.5, "angry": 0.5}, [0, 0]),  # the primary label again: kept
        ([("r", "happy"), ("s", "sad"), ("s", "angry")], {"happy": 1, "sad": 0.5, "angry": 0.5}, [0, 0]),
        ([("r", "sad"), ("r", "sad"), ("r", "angry")], {"sad": 0.5, "angry": 0.5}, [0, 1]),  # a set, not a list
        ([("r", "sad"), ("r", "tired")], {"sad": 1}, [1, 0]),  # mass is spent on valid labels alone
        ([("r", "sad"), ("s", "tired"), ("s", "amused")], {"sad": 1}, [2, 0]),  # s has no valid label: no mass
        ([("r", "sad"), ("s", None)], {"sad": 1}, [0, 0]),  # s heard none of them
        ([("q", "sad")], {"sad": 1}, [0, 0]),  # a rater without a primary vote
        ([("r", label) for label in LABELS], dict.fromkeys(LABELS, 0.2), [0, 0]),
    ],
)
def test_each_rater_spends_one(rows, masses, left_out):
    found, counted = second_votes(*(("a", *row) for row in rows))
    assert found == pytest.approx(dict.fromkeys(LABELS, 0) | masses) and counted == left_out


def test_an_item_without_secondary_votes_keeps_its_fractions_whatever_the_others_have():
    primary = [("a", "r", "happy"), ("a", "s", "sad"), ("a", "t", "sad"), ("b", "r", "sad"), ("c", "r", "sad")]
    votes = table(primary, [("b", "r", "happy"), ("c", "r", "tired"), ("a", "r", None)])
    soft = make_targets(votes, "emotion")
    for alpha in (0, 0.8, 1):
        targets = merged(votes, alpha)
        np.testing.assert_array_equal(targets.probs[[0, 2]], soft.probs[[0, 2]])
        np.testing.assert_allclose(targets.probs[1], [0, 1 - alpha, alpha, 0, 0])
    assert targets.method == "merged" and targets.votes_per_item.tolist() == [3, 1, 1]
    np.testing.assert_array_equal(merged(votes, 1).probs, soft.probs)
    np.testing.assert_allclose(merged(votes, 0).probs[1], [0, 1, 0, 0, 0])


def test_an_item_without_primary_votes_has_no_target():
    votes = table([("a", "r", "happy")], [("a", "r", "happy"), ("b", "r", "sad"), ("b", "r", "tired")])
    targets = merged(votes)
    assert list(targets.items) == ["a"] and targets.excluded == {"items without votes": 1}
    np.testing.assert_array_equal(targets.probs, [[0, 1, 0, 0, 0]])


def test_chosen_items_have_the_same_rows_and_their_own_counts():
    primary = [(item, "r", label) for item, label in zip("abc", ("sad", "happy", "angry"), strict=True)]
    votes = table(primary, [("a", "r", "tired"), ("a", "r", "happy"), ("b", "r", "amused"), ("c", "r", "sad")])
    whole, part = merged(votes), merged(votes, items=["c", "a"])
    np.testing.assert_array_equal(part.probs, whole.probs[[2, 0]])
    assert (whole.excluded, part.excluded) == ({OUTSIDE: 2}, {OUTSIDE: 1})


def test_weights_weigh_secondary_votes_and_zero_means_no_vote():
    primary, secondary = [("a", "r", "sad")], [("a", "r", "happy"), ("a", "r", "sad"), ("a", "s", "angry")]
    masses, _ = secondary_votes(table(primary, secondary, weight=[1, 2, 4, 3]), "emotion")
    np.testing.assert_allclose(masses, [[3, 1, 2, 0, 0]])
    masses, _ = secondary_votes(table(primary, secondary, weight=[1, 2, 0, 3]), "emotion")
    np.testing.assert_allclose(masses, [[3, 2, 0, 0, 0]])
    np.testing.assert_allclose(
        merged(table(primary, secondary, weight=[1, 2, 0, 3]), 0.5).probs, [[0.3, 0.2, 0.5, 0, 0]]
    )


def test_anonymous_secondary_votes_need_one_label_a_rater():
    primary = [("a", None, "sad"), ("a", None, "happy")]
    with pytest.raises(ValueError, match="Question 'second' has anonymous votes, so the labels of one rater are"):
        merged(table(primary, [("a", None, "sad"), ("a", None, "angry")]))
    np.testing.assert_allclose(
        merged(table(primary, [("a", None, None), ("a", "r", "sad")]), 0.5).probs[0], [0, 0.25, 0.75, 0, 0]
    )
    single = Question.category("second", HEARD, secondary_to="emotion")
    votes = table(primary, [("a", None, "sad"), ("a", None, "sad"), ("a", None, "angry")], second=single)
    masses, left_out = secondary_votes(votes, "emotion")
    np.testing.assert_allclose(masses, [[1, 0, 2, 0, 0]])
    assert [number.sum() for number in left_out.values()] == [0, 0]


def test_merging_does_not_change_what_it_is_given():
    primary, secondary = np.array([[1.0, 3.0]]), np.array([[2.0, 0.0]])
    np.testing.assert_allclose(merge_votes(primary, secondary, 0.5), [[0.625, 0.375]])
    assert primary.tolist() == [[1, 3]] and secondary.tolist() == [[2, 0]]


def unrelated(*questions):
    """A vote on `emotion`, and more questions in the table."""
    return VoteTable.from_columns([EMOTION, *questions], item=["a"], question=["emotion"], value=["sad"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: merged(unrelated()), "secondary_to='emotion': none; .* multiple=True, secondary_to='emotion'"),
        (
            lambda: merged(unrelated(SECOND, Question.category("third", HEARD, secondary_to="emotion"))),
            "secondary_to='emotion': second .category., third .category.; merging needs one",
        ),
        (
            lambda: merged(unrelated(Question.scale("second", 1, 5, secondary_to="emotion"))),
            "second .scale.; merging needs one category question",
        ),
        (lambda: merged(unrelated(SECOND)), "Question 'second' has no vote on a label of 'emotion' .angry, happy"),
        (lambda: merged(table([("a", "r", "sad")], [("a", "r", "tired")])), "no vote on a label of 'emotion'"),
        (lambda: merged(table([("a", "r", "sad")], [("a", "r", None)])), "so there is nothing to merge"),
        (lambda: merged(unrelated(), -0.1), r"primary_weight is -0\.1; give a share from 0 to 1"),
        (lambda: merged(unrelated(), 1.5), "primary_weight is 1.5"),
        (lambda: merged(unrelated(), "M90"), "primary_weight is 'M90'; give a share"),
        (lambda: merged(unrelated(), np.nan), "primary_weight is nan"),
        (
            lambda: make_targets(unrelated(Question.scale("valence", 1, 5)), "valence", "merged"),
            "Method 'merged' does not fit question 'valence', a scale; use kde",
        ),
        (
            lambda: make_targets(unrelated(), "emotion", "majority", majority_of="merged"),
            "secondary_to='emotion': none",
        ),
        (
            lambda: make_targets(unrelated(), "emotion", "majority", ties="other "),
            "ties is 'other ' .did you mean 'oth",
        ),
        (lambda: make_targets(unrelated(), "emotion", majority_of="all"), "majority_of is 'all'; use 'primary' or 'm"),
    ],
)
def test_what_is_not_merged_and_why(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# --- the label that wins


def majority(*counts, **options):
    """Targets of items with these counts of votes."""
    votes = VoteTable.from_counts(EMOTION, [str(row) for row in range(len(counts))], counts)
    return make_targets(votes, "emotion", "majority", **options).probs


@given(
    counts=st.lists(st.lists(st.integers(0, 9), min_size=5, max_size=5).filter(any), min_size=1, max_size=8),
    ties=st.sampled_from(["share", "other", "guarded"]),
)
def test_plurality_is_the_published_rule(counts, ties):
    expected = [winner_by_hand([Fraction(n, sum(row)) for n in row], row, ties) for row in counts]
    np.testing.assert_allclose(majority(*counts, ties=ties), [one_hot(labels) for labels in expected])


@pytest.mark.parametrize(
    ("counts", "share", "other", "guarded"),
    [  # angry, happy, sad, neutral, other
        ([2, 2, 0, 0, 0], "angry happy", "other", "happy"),
        ([2, 2, 2, 0, 0], "angry happy sad", "other", "sad"),
        ([2, 0, 0, 0, 2], "angry other", "other", "other"),
        ([0, 0, 2, 2, 0], "sad neutral", "other", "sad"),
        ([0, 2, 0, 2, 2], "happy neutral other", "other", "other"),
        ([0, 3, 2, 0, 0], "happy", "happy", "happy"),
        ([1, 1, 1, 1, 1], "angry happy sad neutral other", "other", "sad"),
        ([5, 5, 3, 7, 0], "neutral", "neutral", "neutral"),  # .35 of 20, .10 ahead: both at the boundary
        ([12, 11, 10, 17, 0], "neutral", "neutral", "angry"),  # .34, .10 ahead
        ([5, 6, 2, 7, 0], "neutral", "neutral", "happy"),  # .35, but .05 ahead
        ([40, 11, 0, 51, 0], "neutral", "neutral", "neutral"),  # .5 and .108 ahead
        ([13, 10, 0, 17, 0], "neutral", "neutral", "neutral"),  # .425 - .325, which floats put below .10
        ([42, 7, 0, 51, 0], "neutral", "neutral", "angry"),
        ([0, 0, 0, 2, 0], "neutral", "neutral", "neutral"),
        ([0, 0, 0, 1, 0], "neutral", "neutral", "neutral"),  # one vote, but nothing else was heard
    ],
)
def test_ties_and_the_guard_at_its_thresholds(counts, share, other, guarded):
    found = [majority(counts, ties=ties)[0] for ties in ("share", "other", "guarded")]
    np.testing.assert_allclose(found, [one_hot(labels.split()) for labels in (share, other, guarded)])


def test_neutral_needs_two_primary_votes_however_much_was_heard_besides():
    primary = [("a", "r", "neutral"), ("b", "r", "neutral"), ("b", "s", "neutral")]
    secondary = [(item, rater, "neutral") for item in "ab" for rater in "rs"] + [("a", "t", "sad"), ("b", "t", "sad")]
    votes = table(primary, secondary)
    hard = make_targets(votes, "emotion", "majority", ties="guarded", majority_of="merged")
    np.testing.assert_array_equal(hard.probs, [one_hot(["sad"]), one_hot(["neutral"])])
    alone = make_targets(votes, "emotion", "majority", ties="guarded")  # nothing but neutral among the primary votes
    np.testing.assert_array_equal(alone.probs, [one_hot(["neutral"])] * 2)
    assert hard.method == alone.method == "majority"


def test_the_guard_counts_weights():
    columns = {"item": ["a"] * 3, "value": ["neutral", "neutral", "sad"], "question": ["emotion"] * 3}
    for weight, expected in ([1, 1, 1], "neutral"), ([0.9, 0.9, 0.1], "sad"), ([2, 0, 1], "neutral"):
        votes = VoteTable.from_columns([EMOTION, SECOND], **columns, weight=weight)
        targets = make_targets(votes, "emotion", "majority", ties="guarded")
        np.testing.assert_array_equal(targets.probs, [one_hot([expected])])


@pytest.mark.parametrize("ties", ["share", "other", "guarded"])
def test_plurality_of_merged_votes(ties):
    generator = np.random.default_rng(0)
    rows = [
        [
            (f"i{item}", f"r{rater}", labels[choice])
            for item, rater, choice in generator.integers((40, 9, 99), size=(many, 3))
        ]
        for labels, many in (((*LABELS, "neutral") * 20, 150), ((*HEARD, None) * 20, 300))
    ]
    targets = make_targets(table(*rows), "emotion", "majority", ties=ties, majority_of="merged", primary_weight=0.8)
    for item, row in zip(targets.items, targets.probs, strict=True):
        primary, secondary = ([(rater, label) for name, rater, label in part if name == item] for part in rows)
        counts = [sum(label == c for _, label in primary) for c in LABELS]
        expected = winner_by_hand(merge_by_hand(primary, secondary, "0.8"), counts, ties)
        np.testing.assert_allclose(row, one_hot(expected))


def test_equal_masses_tie_in_spite_of_rounding():
    masses = np.array([[0.1 + 0.2, 0.3, 0.4 - 1e-12, 0.4, 0.0]])
    assert winners(masses, masses, LABELS, "share").tolist() == [[0, 0, 0.5, 0.5, 0]]
    assert winners(masses, masses, LABELS, "other").tolist() == [[0, 0, 0, 0, 1]]


def test_a_drawn_label_is_one_of_the_tied_and_the_items_own():
    rows = [(f"i{item}", f"r{rater}", ("angry", "sad")[rater]) for item in range(200) for rater in range(2)]
    item, rater, value = zip(*[*rows, ("sure", "a", "sad")], strict=True)
    votes = VoteTable.from_columns(Question.category("emotion", LABELS), item=item, annotator=rater, value=value)
    drawn = make_targets(votes, "emotion", "majority", ties="draw")
    assert set(drawn.probs.max(1)) == {1.0} and drawn.select(["sure"]).probs[0, LABELS.index("sad")] == 1
    angry = drawn.probs[:, LABELS.index("angry")].mean()
    assert 0.4 < angry < 0.6 and drawn.probs[:, [LABELS.index("angry"), LABELS.index("sad")]].sum() == 201
    some = make_targets(
        votes, "emotion", "majority", ties="draw", items=drawn.items[50:60]
    )  # whatever else is asked for
    np.testing.assert_array_equal(some.probs, drawn.probs[50:60])


@pytest.mark.parametrize(("ties", "label"), [("other", "other"), ("guarded", "neutral")])
def test_a_rule_needs_its_label(ties, label):
    votes = VoteTable.from_columns(Question.category("mood", ["up", "down"]), item=["a"], value=["up"])
    with pytest.raises(ValueError, match=f"ties is '{ties}', which needs a label '{label}'; the labels are up, down"):
        make_targets(votes, "mood", "majority", ties=ties)


# --- point targets


VALENCE, AROUSAL = Question.scale("valence", 1, 7), Question.scale("arousal", 0, 10)


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from(["r", "s", None]),
            st.sampled_from(["valence", "arousal"]),
            st.integers(1, 7),
            st.sampled_from([0.5, 1, 3]),
        ),
        max_size=25,
    ),
    weighted=st.booleans(),
)
def test_point_targets_average_raters(rows, weighted):
    rows = [*rows, ("a", "r", "valence", 2, 1), ("a", "r", "arousal", 5, 1)]
    item, annotator, question, value, weight = (list(column) for column in zip(*rows, strict=True))
    columns = {"item": item, "annotator": annotator, "question": question, "value": value}
    columns |= {"weight": weight} if weighted else {}
    votes = VoteTable.from_columns([VALENCE, AROUSAL, EMOTION], **columns, duplicates="keep")
    wanted = ["c", "nowhere", "a", "b"]
    found = scale_means(votes, ["arousal", "valence"], wanted)
    assert found.shape == (4, 2) and found.dtype == np.float64
    for name, means in zip(wanted, found, strict=True):
        for (asked, middle, half), mean in zip([("arousal", 5, 5), ("valence", 4, 3)], means, strict=True):
            raters = defaultdict(list)  # an anonymous answer is a rater of its own
            for place, row in enumerate(rows):
                if (row[0], row[2]) == (name, asked):
                    raters[row[1] or place].append(((row[3] - middle) / half, row[4] if weighted else 1))
            shares = [
                (sum(x * w for x, w in own) / len(own), sum(w for _, w in own) / len(own)) for own in raters.values()
            ]
            expected = sum(x for x, _ in shares) / sum(w for _, w in shares) if shares else np.nan
            np.testing.assert_allclose(mean, expected, atol=1e-12)


def test_point_targets_without_weight_are_no_targets():
    votes = VoteTable.from_columns(VALENCE, item=["a", "a", "b"], value=[1, 7, 5], weight=[0, 2, 0])
    np.testing.assert_array_equal(scale_means(votes, "valence", ["a", "b"]), [[1], [np.nan]])


@pytest.mark.parametrize(
    ("questions", "items", "words"),
    [
        ("emotion", ["a"], "Question 'emotion' is a category and has no mean; name only scale questions"),
        (["valence", "arousl"], ["a"], "no question 'arousl' .did you mean 'arousal'"),
        (["valence", "arousal"], ["a"], "None of 1 items has a rating on arousal"),
        ("valence", ["b", "c"], "None of 2 items has a rating on valence; check the item names"),
    ],
)
def test_what_has_no_point_targets_and_why(questions, items, words):
    votes = VoteTable.from_columns([VALENCE, AROUSAL, EMOTION], item=["a"], question=["valence"], value=[3])
    with pytest.raises(ValueError, match=words):
        scale_means(votes, questions, items)


def test_votes_of_one_rater_share_a_weight():
    votes = table([("a", "r", "sad"), ("a", "r", "sad"), ("a", None, "sad"), ("b", "r", "sad")], [("a", "r", "sad")])
    rows = np.arange(4)
    np.testing.assert_allclose(rater_weights(votes, rows), [0.5, 0.5, 1, 1])
    np.testing.assert_allclose(rater_weights(votes, rows[1:]), [1, 1, 1])


def test_raters_of_many_items_stay_apart():
    many, (item, rater) = 70_000, divmod(2**32, 70_000)  # a number of 32 bits would mistake this rater for the first
    names = [str(n) for n in range(many)]
    votes = VoteTable.from_columns(
        EMOTION, item=[*names, names[item]], annotator=[*names, names[rater]], value=["sad"] * (many + 1)
    )
    assert (rater_weights(votes, np.arange(many + 1)) == 1).all()


# --- an exported corpus


class Texts(VoteCorpus):
    """Three texts with secondary votes."""

    name = "texts"
    license = "cc0-1.0"
    questions = (EMOTION, SECOND)
    default_questions = ("emotion",)

    def read_items(self):
        columns = {"item": ["a", "b", "c"], "text": ["one", "two", "three"], "speaker": ["x", "x", "y"]}
        return pd.DataFrame(columns | {"split": ["train", "train", "test"]})

    def read_votes(self):
        primary = [("a", "r", "sad"), ("a", "s", "happy"), ("b", "r", "neutral"), ("c", "r", "sad")]
        return table(primary, [("a", "r", "sad"), ("a", "r", "tired"), ("a", "s", None), ("c", "r", "angry")])


def test_an_export_gives_merged_targets(tmp_path):
    (tmp_path / "root").mkdir()
    export_corpus(Texts(tmp_path / "root"), tmp_path / "out")
    corpus = read_export(tmp_path / "out")
    train = corpus.targets("train", method="merged", primary_weight=0.8)
    np.testing.assert_allclose(train.probs, [[0, 0.4, 0.6, 0, 0], [0, 0, 0, 1, 0]])
    assert train.excluded == {OUTSIDE: 1}
    np.testing.assert_allclose(corpus.targets("test", method="merged").probs, [[0.1, 0, 0.9, 0, 0]])
    hard = {"method": "majority", "majority_of": "merged"}
    np.testing.assert_allclose(corpus.targets("test", primary_weight=0.4, **hard).probs, [one_hot(["angry"])])
    np.testing.assert_allclose(corpus.targets("train", method="majority", ties="other").probs[0], one_hot(["other"]))
