"""Share of speakers whose own UAR exceeds a level, as an `evaluate` metric."""

import datasets
import numpy as np

from .distribution_metric import DistributionMetric
from .measures import recall_above, speaker_uar


class SpeakersAboveUAR(DistributionMetric):
    """Share of speakers whose own UAR exceeds a level."""

    key = "pauar"
    about = """\
paUAR: the share (%) of speakers whose own unweighted average recall exceeds a level, strictly; 0 to 100.
"""
    citation = """\
@misc{mitra2025,
  author={Mitra and Romana and Tran and Azemi},
  note={arXiv:2503.22711}, year={2025}
}
"""
    options = """\
    speakers: The speaker of each item.
    level: The recall (%) to exceed, 75 by default; 50 is also common.
    n: How many of the most probable labels count, 1 by default.
"""
    beside = {"speakers": datasets.Value("string")}
    example = {**DistributionMetric.example, "speakers": ["s1"]}

    def measure(self, p: np.ndarray, q: np.ndarray, speakers: list, level: float = 75, n: int = 1) -> tuple:
        """See `about`."""
        recalls = speaker_uar(p, q, np.asarray(speakers), n)[1]
        return 100 * recall_above(recalls, level).mean(), "% of speakers"
