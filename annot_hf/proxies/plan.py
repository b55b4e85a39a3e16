"""The simulated annotators: instruction and sampling temperature of each (arXiv 2601.14620, section 3)."""

from dataclasses import dataclass

import numpy as np

from annot_hf.data.questions import nearest

INSTRUCTIONS = ("both", "voice", "wording", "subtle", "what-and-how")
# temperatures
BANDS = ((0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 0.93))
JITTER, LOWEST, HIGHEST = 0.05, 0.1, 1.0
PLANS = ("paper", "crossed")
# more would only repeat the 25 combinations of instruction and band
MOST_ANNOTATORS = 100


@dataclass(frozen=True)
class SimulatedAnnotator:
    """A stand-in for a human rater, the same for every item.

    Attributes:
        index: Number from 0; it alone determines the rest, so that a larger plan begins with the smaller one.
        instruction: What it attends to, one of `INSTRUCTIONS`.
        band: Index into `BANDS`.
        temperature: Sampling temperature, in [0.1, 1].
    """

    index: int
    instruction: str
    band: int
    temperature: float


def make_plan(name: str, annotators: int) -> tuple[SimulatedAnnotator, ...]:
    """The simulated annotators of a plan.

    - "paper": annotator i has instruction i mod 5 and temperature band i mod 5, as published. The effects of the two
      are confounded.
    - "crossed": annotator i has instruction i mod 5 and band (i + i div 5) mod 5, a Latin square: every 5 in a row have all
      instructions and all bands once, every 25 each combination once. Ours.

    The temperature is uniform in the band, plus a jitter of +- 0.05, clipped to [0.1, 1], drawn with the annotator's index
    as the seed, as published. The numbers are not those of the authors' run, whose first four are 0.231, 0.405, 0.540 and
    0.831 (NumPy's older generator draws them): ours are 0.2044, 0.4474, 0.5322 and 0.6908. The words of the instructions
    (`annot_hf/templates/annotate`) are ours too.

    Args:
        name: "paper" or "crossed".
        annotators: Number of annotators; the paper has 6 (IEMOCAP) to 10 (MSP-Podcast).

    Raises:
        ValueError: The plan is unknown, or the number is out of range.

    Example:
        >>> [(one.instruction, one.band) for one in make_plan("crossed", 7)][4:]
        [('what-and-how', 4), ('both', 1), ('voice', 2)]
    """
    if name not in PLANS:
        raise ValueError(f"plan is {name!r}{nearest(name, PLANS)}; use one of {', '.join(PLANS)}.")
    if isinstance(annotators, bool) or not isinstance(annotators, int) or not 1 <= annotators <= MOST_ANNOTATORS:
        raise ValueError(f"annotators is {annotators!r}; give a whole number from 1 to {MOST_ANNOTATORS}, such as 10.")
    return tuple(_annotator(index, turn=index // 5 if name == "crossed" else 0) for index in range(annotators))


def _annotator(index: int, turn: int) -> SimulatedAnnotator:
    band = (index + turn) % len(BANDS)
    generator = np.random.default_rng(index)
    drawn = generator.uniform(*BANDS[band]) + generator.uniform(-JITTER, JITTER)
    temperature = round(float(np.clip(drawn, LOWEST, HIGHEST)), 4)
    return SimulatedAnnotator(index, INSTRUCTIONS[index % len(INSTRUCTIONS)], band, temperature)
