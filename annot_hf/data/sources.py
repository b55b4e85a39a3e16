"""Where votes come from: people, or models that stand in for them (arXiv 2601.14620).

The paper puts both in one list and counts each vote once, q = (n_h q_h + n_s q_s) / (n_h + n_s) for the n_h people's votes
and the n_s synthetic ones of an item. With a weight w of the synthetic ones, our choice, it is
(n_h q_h + w n_s q_s) / (n_h + w n_s). Both are votes with weights, so that `make_targets` makes any target of them.
"""

from dataclasses import replace

import numpy as np

from annot_hf.data.encoding import WEIGHT_RULE, usable_weight
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

SYNTHETIC = "synthetic"  # the source of every vote of a model; a vote of any other source, or of none, is a person's


def is_synthetic(votes: VoteTable) -> np.ndarray:
    """Which votes `(V,)` are of a model: those of source "synthetic". Every other source, or none, is people."""
    return np.append(votes.sources == SYNTHETIC, False)[votes.source_codes]  # -1 reads the last place


def weigh_sources(votes: VoteTable, *, human: float = 1.0, synthetic: float = 1.0) -> VoteTable:
    """The votes with each one's weight times that of where it comes from.

    Args:
        votes: Votes of people, of models, or of both.
        human: Weight of people's votes; 0 removes them, raters and all.
        synthetic: Weight of votes of source "synthetic"; 0 removes them.

    Raises:
        ValueError: A weight is negative, or beyond what sums can hold, or no vote is left.

    Example:
        >>> mood = Question.category("mood", ["low", "high"])
        >>> source = [None, "synthetic", "synthetic"]
        >>> said = VoteTable.from_columns(mood, item=["a"] * 3, value=["low", "high", "high"], source=source)
        >>> weigh_sources(said, synthetic=0.5).counts("mood").tolist()
        [[1.0, 1.0]]
    """
    for name, weight in (("human", human), ("synthetic", synthetic)):
        if isinstance(weight, bool) or not isinstance(weight, int | float | np.number) or not usable_weight(weight):
            raise ValueError(
                f"The weight of {name} votes is {weight!r}; give a finite number from 0 up ({WEIGHT_RULE})."
            )
    factors = np.where(is_synthetic(votes), float(synthetic), float(human))
    if not factors.any():
        raise ValueError(
            f"No vote is left of {len(votes)}, with a weight of {human} for people's votes and of {synthetic} for "
            "synthetic ones; give votes that are there a weight above 0."
        )
    kept = votes.select(mask=factors > 0)
    weights = factors[factors > 0] * (1.0 if kept.weights is None else kept.weights)
    return replace(kept, weights=None if (weights == 1).all() else weights)


def combine_votes(human: VoteTable, synthetic: VoteTable, weight: float = 1.0) -> VoteTable:
    """People's votes and synthetic ones in one table, the latter of a weight.

    Args:
        human: Votes of people; its questions are those of the result.
        synthetic: Votes of source "synthetic" on some of these questions. Their annotators are called "synthetic:NAME" in
            the result, so that none is taken for the person of the same name.
        weight: Weight of a synthetic vote, where a person's is 1 (or what its own weight says); 0 leaves people's only.

    Raises:
        ValueError: A question differs, or a vote of the first table is synthetic or one of the second is a person's.
    """
    for votes, wanted, name in ((human, False, "human"), (synthetic, True, "synthetic")):
        if (is_synthetic(votes) != wanted).any():
            raise ValueError(
                f"{name} votes hold votes of another source; only source {SYNTHETIC!r} marks synthetic ones."
            )
    asked = answers_to(synthetic, human.questions, "synthetic votes")
    renamed = replace(asked, annotators=np.array([f"{SYNTHETIC}:{name}" for name in asked.annotators], dtype=object))
    return weigh_sources(VoteTable.concat([human, renamed]), synthetic=weight)


def answers_to(votes: VoteTable, questions: tuple[Question, ...], where: str) -> VoteTable:
    """The votes as answers to the same questions of another table, whose order of labels they take.

    Args:
        votes: The votes.
        questions: All questions of the other table; those of `votes` must be among them.
        where: How error messages call the votes.

    Raises:
        ValueError: A question is not among them, or has other labels or another scale there.
    """
    known = {question.name: question for question in questions}
    for question in votes.questions:
        theirs = known.get(question.name)
        if theirs is None:
            raise ValueError(f"{where}: question {question.name!r} is not asked there; it asks {', '.join(known)}.")
        if _meaning(question) != _meaning(theirs):
            raise ValueError(
                f"{where}: question {question.name!r} has {_answers(question)} and the corpus asks for {_answers(theirs)}; "
                "ask again with the corpus's own question."
            )
    return VoteTable.from_arrow(votes.to_arrow(), questions)


def _meaning(question: Question) -> tuple:
    return frozenset(question.labels), question.low, question.high, question.multiple


def _answers(question: Question) -> str:
    """What a question takes, in words."""
    if question.is_scale:
        return f"a scale from {question.low:g} to {question.high:g}"
    return f"{'several of ' if question.multiple else ''}the labels {', '.join(question.labels)}"
