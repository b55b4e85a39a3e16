"""After how many votes a curve is saturated: the exponential and the rule of arXiv 2601.14620, and where they do not hold."""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit

WITHIN = 0.1  # of the fall is left where a curve is saturated
LEAST_R2 = 0.9  # of a fit that is believed; our choice


@dataclass(frozen=True)
class Fit:
    """a - b exp(-c n), fitted to what the curve has fallen from its largest value.

    Attributes:
        a: Fall in the limit (nats).
        b: Scale (nats).
        c: Rate per vote.
        top: Largest value of the curve (nats), which the fall counts from.
        r2: Share of the curve's variance that the fit explains.
    """

    a: float
    b: float
    c: float
    top: float
    r2: float

    def at(self, n: np.ndarray | float) -> np.ndarray:
        """Fitted divergence (nats) after n votes."""
        return self.top - (self.a - self.b * np.exp(-self.c * np.asarray(n, dtype=np.float64)))


@dataclass(frozen=True)
class Finding:
    """What a curve says.

    Attributes:
        suggested: Votes an item by the paper's rule; None where the curve does not tell.
        text: The same as a sentence, or why it does not tell.
        fit: The fitted curve, if there is one.
        threshold: Divergence (nats) that the suggested n comes down to, if there is a fit.
    """

    suggested: int | None
    text: str
    fit: Fit | None = None
    threshold: float | None = None


def find_saturation(curve: np.ndarray) -> Finding:
    """Fit a curve `(N,)` (nats) and say after how many votes it is saturated, or why that cannot be told.

    Of the paper: the form, fitted to max(y) - y, and the rule, the first n whose fitted divergence is at most
    y_inf + .1 (max(y) - y_inf), where y_inf = max(y) - a is the fit's asymptote and not the smallest y seen. Ours: no n is
    suggested where the fit explains less than .9 of the variance, or where it comes down so far only after N.
    """
    y = np.asarray(curve, dtype=np.float64)
    count, top, bottom = len(y), float(y.max()), float(y.min())
    if count < 4:
        return Finding(
            None, f"There {_votes_are(count)} an item at most, and a curve of three parameters needs 4 or more."
        )
    if top - bottom < 1e-9:
        return Finding(
            None,
            f"The curve is flat at {top:.4f} nats: the synthetic votes on an item are all alike, so that one says as much as "
            f"{count}.",
        )
    if y[-1] >= y[0]:
        return Finding(
            None, f"The curve does not fall: {y[0]:.4f} nats after 1 vote, {y[-1]:.4f} after {count}; more do not help."
        )
    fit = _fit(y)
    if fit is None:
        return Finding(None, "No exponential could be fitted to the curve; look at it.")
    limit, threshold = top - fit.a, top - (1 - WITHIN) * fit.a
    if fit.r2 < LEAST_R2:
        return Finding(None, f"An exponential does not fit the curve (R² = {fit.r2:.2f}); look at it.", fit, threshold)
    below = np.flatnonzero(fit.at(np.arange(1, count + 1)) <= threshold)
    if not len(below):
        return Finding(
            None,
            f"The curve is not saturated after {count} votes: the fit falls by another {float(fit.at(count)) - limit:.4f} "
            "nats; ask for more.",
            fit,
            threshold,
        )
    first = int(below[0]) + 1
    return Finding(
        first,
        f"The rule of arXiv 2601.14620 suggests {first} synthetic {'vote' if first == 1 else 'votes'} an item: the fitted "
        f"divergence is then within a tenth of its fall from {top:.4f} to {limit:.4f} nats, where it ends.",
        fit,
        threshold,
    )


def _fit(y: np.ndarray) -> Fit | None:
    """Least squares; None where it does not converge."""
    n, fallen = np.arange(1, len(y) + 1, dtype=np.float64), y.max() - y
    scale = fallen.max()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", OptimizeWarning)
            (a, b, c), _ = curve_fit(
                lambda x, a, b, c: a - b * np.exp(-c * x),
                n,
                fallen / scale,  # of order 1, as the tolerances expect
                p0=(1.0, 1.0, 0.3),
                bounds=([0, 0, 1e-4], [100, 1000, 50]),
                max_nfev=10_000,
            )
    except (RuntimeError, ValueError, OptimizeWarning):
        return None
    rest = fallen / scale - (a - b * np.exp(-c * n))
    r2 = 1 - float((rest**2).sum() / ((fallen / scale - (fallen / scale).mean()) ** 2).sum())
    return Fit(float(a * scale), float(b * scale), float(c), float(y.max()), r2)


def _votes_are(count: int) -> str:
    return f"is {count} synthetic vote" if count == 1 else f"are {count} synthetic votes"
