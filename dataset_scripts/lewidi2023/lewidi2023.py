"""LeWiDi 2023 (SemEval-2023 task 11): four corpora of texts, each answered with yes or no by named raters."""

import json
from collections.abc import Mapping
from typing import Any

from annot_hf.data.encoding import unrepeated
from annot_hf.data.lewidi import LeWiDi
from annot_hf.data.questions import Question

# The label of upstream's 0, then that of its 1.
LABELS = {
    "ConvAbuse": ("abusive", ("not abusive", "abusive")),
    "HS-Brexit": ("hate_speech", ("no hate speech", "hate speech")),
    "MD-Agreement": ("offensive", ("not offensive", "offensive")),
    "ArMIS": ("misogynistic", ("not misogynistic", "misogynistic")),
}
# From very strongly abusive to not abusive; below 0 is abusive.
SEVERITIES = {str(level): level for level in range(-3, 2)}
# Upstream marks an absent turn with this.
NOTHING = "_"


class LeWiDi2023(LeWiDi):
    """Reader of one of the four corpora, whose files are named after it."""

    name = "lewidi2023"
    version = "1.0.0"
    license = "other"
    shareable = ""
    homepage = "https://le-wi-di.github.io"
    access = (
        "The data of SemEval-2023 task 11 are linked from https://le-wi-di.github.io. Each corpus has its own owners and "
        "terms (ConvAbuse: CC BY 4.0); ask them before you pass texts on."
    )
    citation = (
        "Leonardelli, Abercrombie, Almanea, Basile, Fornaciari, Plank, Rieser, Uma, Poesio: SemEval-2023 Task 11: Learning "
        "with Disagreements (LeWiDi). SemEval 2023, 2304-2318. https://aclanthology.org/2023.semeval-1.314"
    )
    corpora = {name: (Question.category(*asked),) for name, asked in LABELS.items()}
    corpora["ConvAbuse"] += (Question.scale("severity", -3, 1),)

    def votes_of(self, question: Question, answer: str) -> tuple[str | float | None, ...]:
        """The label of 0 or 1, or for ConvAbuse of a severity, and the severity itself."""
        if self.corpus == "ConvAbuse":
            level = SEVERITIES.get(answer)
            code = None if level is None else int(level < 0)
        else:
            level, code = None, {"0": 0, "1": 1}.get(answer)
        if code is None:
            return ()
        return (float(level),) if question.is_scale else (question.labels[code],)

    def codes_of(self, question: Question) -> tuple[str, ...]:
        """Upstream's 0 and 1."""
        return ("0", "1")

    def parts_of(self, text: Any) -> Mapping[str, str] | str:
        """The four turns of ConvAbuse, which its text holds as JSON."""
        if self.corpus != "ConvAbuse" or not isinstance(text, str):
            return text
        return json.loads(text, object_pairs_hook=unrepeated)

    def text_of(self, parts: Mapping[str, str]) -> str:
        """The turn that was rated: in the mean over all four, little of it is left, see docs/results/text.md."""
        return parts.get("user", NOTHING)
