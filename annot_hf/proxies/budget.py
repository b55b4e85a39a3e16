"""A cap on what is spent, held before a question goes out."""

from dataclasses import dataclass, field

from annot_hf.proxies.ledger import Ledger

OVER = "the next question could cost"  # how the reason begins that only a higher cap takes away


@dataclass(frozen=True)
class Budget:
    """Most that all answers may cost together.

    Every question under way, cut off by a kill, or lost on its way back counts as much as the dearest answer so far.

    Attributes:
        most: USD; None for no cap.
        ledger: What was spent.
    """

    most: float | None
    ledger: Ledger
    _lost: int = field(init=False)  # answers before this run

    def __post_init__(self) -> None:
        object.__setattr__(self, "_lost", self.ledger.lost)

    def allows(self, questions: int, under_way: int) -> bool:
        """Whether so many more questions, or tries, fit, whatever comes of those under way.

        While no cost is known, one goes out at a time, and none after an answer was lost.
        """
        if self.most is None:
            return True
        if self.ledger.unpriced:
            return False
        if self.ledger.dearest is None:
            return under_way == 0 and self.ledger.lost == self._lost
        unknown = under_way + self.ledger.lost + self.ledger.cut_off + questions
        return self.ledger.spent + unknown * self.ledger.dearest <= self.most

    @property
    def reason(self) -> str:
        """Why it allows nothing more."""
        if self.ledger.unpriced:
            return "the cost of an answer is not known, and there is a cap; give --input-price and --output-price"
        if self.ledger.dearest is None:
            return "an answer was lost before the cost of any was known, and there is a cap; run again to ask one more"
        unknown = self.ledger.lost + self.ledger.cut_off
        perhaps = f", and perhaps as much as {unknown} answers that never came" if unknown else ""
        return f"{OVER} more than the cap of {self.most:g} USD ({self.ledger.spent:.4f} spent{perhaps})"
