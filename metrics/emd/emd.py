"""Earth mover's distance between distributions over an ordered scale, as an `evaluate` metric."""

import numpy as np

from .distribution_metric import DistributionMetric
from .measures import emd


class EarthMoversDistance(DistributionMetric):
    """Earth mover's distance between distributions over an ordered scale."""

    key = "emd"
    about = """\
Earth mover's distance sum |P - Q| of cumulative sums, over labels in their order, averaged over items: 0 to K - 1 steps.
"""
    citation = """\
@article{rubner2000earth,
  title={The Earth Mover's Distance as a Metric for Image Retrieval},
  author={Rubner, Yossi and Tomasi, Carlo and Guibas, Leonidas J.},
  journal={International Journal of Computer Vision}, volume={40}, number={2}, pages={99--121}, year={2000}
}
"""

    def measure(self, p: np.ndarray, q: np.ndarray) -> tuple:
        """See `about`."""
        return emd(p, q), "steps"
