"""LeWiDi 2025 (third edition, NLPerspectives): paraphrase, inference, sarcasm and irony, each by named raters.

Answers on the two ordered scales are a vote on labels, `sarcasm_class` and `paraphrase_class`, whose distribution the task
scores, and again a rating, `sarcasm` and `paraphrase`: use one of the two, and do not add them up. An answer of VariErrNLI,
where a rater may choose several labels, is a yes or no to each.
"""

from collections.abc import Mapping
from typing import Any

from annot_hf.data.lewidi import LeWiDi
from annot_hf.data.questions import Question

IRONY = ("not ironic", "ironic")
INFERENCE = ("entailment", "neutral", "contradiction")


def ordered(name: str, low: int, high: int) -> tuple[Question, Question]:
    """The two questions of an ordered scale."""
    levels = [str(level) for level in range(low, high + 1)]
    return Question.category(f"{name}_class", levels), Question.scale(name, low, high)


class LeWiDi2025(LeWiDi):
    """Reader of one of the four corpora, whose files are named after it."""

    name = "lewidi2025"
    version = "1.0.0"
    license = "other"
    shareable = ""
    homepage = "https://le-wi-di.github.io"
    access = (
        "The data of the third edition are on https://www.codabench.org/competitions/7192, after registration. Each corpus "
        "has its own owners and terms; ask them before you pass texts on."
    )
    citation = (
        "Leonardelli, Casola, Peng, Rizzi, Basile, Fersini, Frassinelli, Jang, Pavlovic, Plank, Poesio: LeWiDi-2025 at "
        "NLPerspectives: The Third Edition of the Learning with Disagreements Shared Task. arXiv:2510.08460, 2025."
    )
    corpora = {
        "CSC": ordered("sarcasm", 1, 6),
        "MP": (Question.category("irony", IRONY),),
        "Paraphrase": ordered("paraphrase", -5, 5),
        "VariErrNLI": tuple(Question.category(label, ("no", "yes")) for label in INFERENCE),
    }

    def votes_of(self, question: Question, answer: str) -> tuple[str | float | None, ...]:
        """One label or level, or for VariErrNLI whether the question is among the labels with ',' between."""
        if self.corpus == "VariErrNLI":
            chosen = {word.strip().lower() for word in answer.split(",")}
            return (question.labels[question.name in chosen],) if chosen <= set(INFERENCE) else ()
        if question.labels == IRONY:
            code = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}.get(answer)
            return () if code is None else (IRONY[code],)
        level = answer.removesuffix(".0")
        if level not in (self.questions[0].labels):
            return ()
        return (float(level),) if question.is_scale else (level,)

    def codes_of(self, question: Question) -> tuple[str, ...]:
        """Upstream's 0 and 1 where there are two labels; levels are called as here."""
        return ("0", "1") if len(question.labels) == 2 else question.labels

    def shares_of(self, question: Question, stated: Mapping[str, Any]) -> Any:
        """The shares of the question's label for VariErrNLI, which states them label by label."""
        return stated.get(question.name) if self.corpus == "VariErrNLI" else stated
