"""Jensen-Shannon divergence between predicted and voted distributions, as an `evaluate` metric."""

import numpy as np

from .distribution_metric import DistributionMetric, unit_of
from .measures import jsd


class JensenShannonDivergence(DistributionMetric):
    """Jensen-Shannon divergence between predicted and voted distributions."""

    key = "jsd"
    about = """\
Jensen-Shannon divergence (not its square root) between predicted and voted distributions, averaged over items.
In nats, 0 to 0.693; in bits, 0 to 1, with base=2. The result names its unit.
"""
    citation = """\
@article{lin1991divergence,
  title={Divergence measures based on the Shannon entropy},
  author={Lin, Jianhua},
  journal={IEEE Transactions on Information Theory}, volume={37}, number={1}, pages={145--151}, year={1991}
}
"""
    options = """\
    base: Base of the logarithm: None for nats, 2 for bits.
"""

    def measure(self, p: np.ndarray, q: np.ndarray, base: float | None = None) -> tuple:
        """See `about`."""
        return jsd(p, q, base), unit_of(base)
