"""LeWiDi 2025 (third edition, NLPerspectives): paraphrase, inference, sarcasm and irony, each by named raters.

Answers on the two ordered scales are a vote on labels, `sarcasm_class` and `paraphrase_class`, whose distribution the task
scores, and again a rating, `sarcasm` and `paraphrase`: use one of the two, and do not add them up.
"""

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
        "VariErrNLI": (Question.category("inference", INFERENCE, multiple=True),),
    }

    def votes_of(self, question: Question, answer: str) -> tuple[str | float | None, ...]:
        """One label or level, or for VariErrNLI the labels with ',' between."""
        if question.multiple:
            chosen = tuple(dict.fromkeys(word.strip().lower() for word in answer.split(",")))
            return chosen if set(chosen) <= set(question.labels) else ()
        if question.labels == IRONY:
            code = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}.get(answer)
            return () if code is None else (IRONY[code],)
        level = answer.removesuffix(".0")
        if level not in (self.questions[0].labels):
            return ()
        return (float(level),) if question.is_scale else (level,)

    def codes_of(self, question: Question) -> tuple[str, ...]:
        """Upstream's 0 and 1 for irony; elsewhere labels are called as here."""
        return ("0", "1") if question.labels == IRONY else question.labels
