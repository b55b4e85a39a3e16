"""Human and synthetic votes in one table: every target against the paper's formula, and every refusal."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from annot_hf.data.questions import Question
from annot_hf.data.synthetic import answers_to, combine_votes, half_of, is_synthetic, shuffle_raters
from annot_hf.data.targets import disagreement, make_targets
from annot_hf.data.votes import VoteTable

EMOTION = Question.category("emotion", ["anger", "joy", "sad"])
VALENCE = Question.scale("valence", 1, 5)
COUNTS = st.lists(st.tuples(*[st.integers(0, 3)] * 3).filter(any), min_size=1, max_size=4)


def people(rows, source=None):
    return VoteTable.from_counts(EMOTION, [f"i{row}" for row in range(len(rows))], rows, source=source)


def test_what_counts_as_synthetic():
    votes = VoteTable.from_columns(
        EMOTION, item=list("abcd"), value=["joy"] * 4, source=[None, "synthetic", "Synthetic", "crowd"]
    )
    assert is_synthetic(votes).tolist() == [False, True, False, False]
    assert is_synthetic(people([[1, 0, 0]])).tolist() == [False]


@given(human=COUNTS, synthetic=COUNTS, weight=st.sampled_from([0.0, 0.25, 1.0, 3.0]))
def test_combined_targets_are_those_of_the_paper(human, synthetic, weight):
    votes = combine_votes(people(human), people(synthetic, "synthetic"), weight)
    targets = make_targets(votes, "emotion")
    rows = max(len(human), len(synthetic))
    for row in range(rows):
        mine = np.array(human[row] if row < len(human) else [0, 0, 0], dtype=float)
        theirs = np.array(synthetic[row] if row < len(synthetic) else [0, 0, 0], dtype=float)
        n_h, n_s = mine.sum(), theirs.sum()
        if n_h + weight * n_s == 0:
            assert f"i{row}" not in targets.items
            continue
        q_h, q_s = mine / max(n_h, 1), theirs / max(n_s, 1)
        place = list(targets.items).index(f"i{row}")
        np.testing.assert_allclose(targets.probs[place], (n_h * q_h + weight * n_s * q_s) / (n_h + weight * n_s))
        assert targets.votes_per_item[place] == n_h + (n_s if weight else 0)


def test_one_weight_gives_each_kind_of_target():
    human, synthetic = people([[3, 1, 0]]), people([[0, 5, 1]], "synthetic")
    votes, light = (combine_votes(human, synthetic, weight) for weight in (1, 0.1))
    assert votes.weights is None  # each vote once: nothing is weighed
    kinds = {"human": combine_votes(human, synthetic, 0), "synthetic": synthetic, "combined": votes}
    soft = {name: make_targets(kind, "emotion").probs[0].tolist() for name, kind in kinds.items()}
    assert soft == {"human": [0.75, 0.25, 0], "synthetic": [0, 5 / 6, 1 / 6], "combined": [0.3, 0.6, 0.1]}
    assert make_targets(light, "emotion", "majority").probs[0].tolist() == [1, 0, 0]
    assert make_targets(votes, "emotion", "majority").probs[0].tolist() == [0, 1, 0]
    np.testing.assert_allclose(disagreement(light, "emotion", ["i0"], "variance"), [1 - (9 + 2.25 + 0.01) / 4.6**2])


def test_votes_without_weight_do_not_exist():
    votes = VoteTable.from_columns(
        EMOTION,
        item=["a", "a", "a", "b"],
        annotator=["r", "s", "t", "s"],
        value=["joy", "sad", "joy", "sad"],
        weight=[1, 0, 2, 1],
    )
    targets = make_targets(votes, "emotion")
    assert targets.votes_per_item.tolist() == [2, 1]
    pairs = zip(targets.ratings.item, targets.ratings.annotator, strict=True)
    said = [(targets.items[item], targets.annotators[rater]) for item, rater in pairs]
    assert said == [("a", "r"), ("a", "t"), ("b", "s")]
    one = votes.select(mask=votes.weights != 2)  # of item a, one vote is left: it says nothing about disagreement
    assert np.isnan(disagreement(one, "emotion", ["a"], "entropy")).all()


def test_a_simulated_annotator_is_not_the_person_of_the_same_name():
    human = VoteTable.from_columns(VALENCE, item=["a"], annotator=["1"], value=[1])
    synthetic = VoteTable.from_columns(VALENCE, item=["a"], annotator=["1"], value=[5], source="synthetic")
    votes = combine_votes(human, synthetic)
    assert list(votes.annotators) == ["1", "synthetic:1"]
    assert make_targets(votes, "valence", "kde").votes_per_item.tolist() == [
        2
    ]  # not one rater whose answers are averaged


def test_labels_in_another_order_are_the_same_labels():
    turned = Question.category("emotion", ["sad", "anger", "joy"], prompt="What do you hear?")
    synthetic = VoteTable.from_columns(turned, item=["i0", "i0"], value=["sad", "joy"], source="synthetic")
    votes = combine_votes(people([[2, 0, 0]]), answers_to(synthetic, (EMOTION,), "synthetic votes"))
    assert votes.questions == (EMOTION,) and votes.counts("emotion").tolist() == [[2, 1, 1]]


def test_questions_that_only_people_answer_stay():
    human = VoteTable.from_columns(
        [EMOTION, VALENCE], item=["a", "a"], question=["emotion", "valence"], value=["joy", "3"], annotator=["r", "r"]
    )
    votes = combine_votes(human, answers_to(people([[0, 0, 1]], "synthetic"), human.questions, "synthetic votes"))
    assert votes.questions == (EMOTION, VALENCE) and len(votes) == 3


@pytest.mark.parametrize(
    "question, message",
    [
        (
            Question.category("emotion", ["anger", "joy"]),
            "has the answers anger, joy, but the corpus asks for",
        ),
        (Question.category("emotion", ["anger", "joy", "sad"], multiple=True), "has the answers several of anger"),
        (
            Question.category("mood", ["anger", "joy", "sad"]),
            "question 'mood' is not a question of the corpus, which has emotion",
        ),
        (Question.scale("emotion", 1, 2), "has the answers 1 to 2"),
    ],
)
def test_other_questions_are_refused(question, message):
    value = [1] if question.is_scale else ["joy"]
    votes = VoteTable.from_columns(question, item=["i0"], value=value, source="synthetic")
    with pytest.raises(ValueError, match=message):
        answers_to(votes, (EMOTION,), "synthetic votes")


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), 1e308, 1e-300])
def test_bad_weights(weight):
    with pytest.raises(ValueError, match="finite number from 0 up"):
        combine_votes(people([[1, 0, 0]]), people([[1, 0, 0]], "synthetic"), weight)


def test_weights_of_human_votes_stay():
    weighed = VoteTable.from_columns(EMOTION, item=["i0", "i0"], value=["joy", "sad"], weight=[2, 0.5])
    votes = combine_votes(weighed, people([[1, 0, 0]], "synthetic"), 0.25)
    assert votes.counts("emotion").tolist() == [[0.25, 2, 0.5]]


def test_shuffled_raters_keep_the_votes_of_an_item_and_how_often_each_rater_votes():
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.full(12, 2.0))
    who = np.stack([rng.choice(12, 4, replace=False, p=share) for _ in range(600)])
    item, rater = np.repeat([f"i{row}" for row in range(600)], 4), np.array([f"r{code:02d}" for code in who.ravel()])
    scale, label = rng.integers(1, 6, 2400).astype(str), rng.choice(EMOTION.labels, 2400)
    votes = VoteTable.from_columns(
        (EMOTION, VALENCE),
        item=np.tile(item, 2).tolist() + ["i0", "i0"],
        question=["valence"] * 2400 + ["emotion"] * 2400 + ["emotion"] * 2,
        value=[*scale, *label, "joy", "sad"],
        annotator=[*np.tile(rater, 2), None, None],
    )
    shuffled = shuffle_raters(votes, seed=1)
    one, other = votes.to_pandas(), shuffled.to_pandas()
    assert one.drop(columns="annotator").equals(other.drop(columns="annotator"))
    assert other["annotator"].isna().sum() == 2 and other["annotator"][4800:].isna().all()
    named = other[:4800]
    # Both questions of a vote have moved together, and no rater is there twice.
    assert (named["annotator"][:2400].to_numpy() == named["annotator"][2400:].to_numpy()).all()
    assert not named[:2400].duplicated(["item", "annotator"]).any()
    counts = [frame[:2400].groupby("annotator", observed=False).size() for frame in (one, named)]
    assert np.corrcoef(*counts)[0, 1] > 0.95 and (counts[0] != counts[1]).any()
    moved = (one["annotator"][:2400].astype(str) != named["annotator"][:2400].astype(str)).mean()
    assert moved > 0.7
    assert shuffle_raters(votes, seed=1).to_arrow().equals(shuffled.to_arrow())
    assert not shuffle_raters(votes, seed=2).to_arrow().equals(shuffled.to_arrow())


def test_halves_are_disjoint_and_complete_and_keep_a_raters_votes_together():
    rng = np.random.default_rng(0)
    count = rng.integers(1, 8, 300)
    item = np.repeat([f"i{row}" for row in range(300)], count)
    rater = np.concatenate([rng.choice(40, size, replace=False) for size in count]).astype(str)
    scale, label = rng.integers(1, 6, len(item)).astype(str), rng.choice(EMOTION.labels, len(item))
    votes = VoteTable.from_columns(
        (EMOTION, VALENCE),
        item=[*item, *item, *["i0"] * 5],
        question=["valence"] * len(item) + ["emotion"] * len(item) + ["emotion"] * 5,
        value=[*scale, *label, *["joy"] * 5],
        annotator=[*rater, *rater, *[None] * 5],
    )
    first, second = (half_of(votes, half) for half in ("first", "second"))
    for question in ("emotion", "valence"):
        one, other, whole = (part.select(questions=[question]) for part in (first, second, votes))
        assert len(one) + len(other) == len(whole)
    rows = [part.to_arrow().to_pylist() for part in (first, second, votes)]
    assert sorted(map(str, rows[0] + rows[1])) == sorted(map(str, rows[2]))
    named = [part.to_pandas().dropna(subset="annotator") for part in (first, second)]
    pairs = [set(map(tuple, frame[["item", "annotator"]].to_numpy())) for frame in named]
    assert len(pairs[0]) > 100 and not pairs[0] & pairs[1]
    sizes = np.stack([part.counts("emotion", votes.items).sum(1) for part in (first, second)])
    # i0 has anonymous votes too, whose halves are drawn by themselves
    assert abs(sizes[0] - sizes[1])[1:].max() == 1 and abs(sizes[0] - sizes[1])[0] <= 2
    # chance decides which half is the larger
    assert 0.35 < (sizes[0] > sizes[1])[1:][count[1:] % 2 == 1].mean() < 0.65
    assert first.exclusions == {"not in this half of the item's votes": len(second)}
    assert half_of(votes, "first").to_arrow().equals(first.to_arrow())
    with pytest.raises(ValueError, match="votes: half is 'third'"):
        half_of(votes, "third")


def test_anonymous_votes_are_halved_too():
    votes = people([[4, 2, 0], [0, 0, 1], [0, 3, 2]])
    first, second = (half_of(votes, half).counts("emotion", votes.items) for half in ("first", "second"))
    assert (first + second == votes.counts("emotion")).all()
    assert first.sum(1)[0] == 3 and sorted([first.sum(1)[1], second.sum(1)[1]]) == [0, 1]
