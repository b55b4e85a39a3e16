"""Ratings of 512 utterances by 8 raters to a 4 x 4 grid, forward and backward, against SciPy's box integrals."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.stats import gaussian_kde, multivariate_normal

from annot_hf.models.kde import cell_masses, draw_observations
from benchmarks.timing import Result, best

UTTERANCES, RATERS = 512, 8


def run() -> Iterator[Result]:
    torch.set_num_threads(2)
    ratings = (torch.rand(UTTERANCES, RATERS, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1).requires_grad_()
    weights = torch.rand(4, 4)

    def ours() -> None:
        (cell_masses(draw_observations(ratings)) * weights).sum().backward()
        ratings.grad = None

    observations = draw_observations(ratings.detach())[:4].double().numpy()
    kernel_sd = observations.std(1, ddof=1) * observations.shape[1] ** (-1 / 6)
    edges = np.array([-9, -0.5, 0, 0.5, 9])

    def boxes(row: int) -> np.ndarray:
        """The same diagonal kernel through SciPy: the cumulative mass at each corner, differenced."""
        kernel = multivariate_normal(np.zeros(2), np.diag(kernel_sd[row] ** 2))
        corners = np.stack(np.meshgrid(edges, edges, indexing="ij"), -1).reshape(-1, 1, 2)
        mass = kernel.cdf(corners - observations[row]).mean(1).reshape(5, 5)
        return np.diff(np.diff(mass, axis=0), axis=1)

    def textbook() -> None:
        """The same result with every cell's mass formed per observation, as the formula is usually written."""
        drawn = draw_observations(ratings)
        sd = drawn.detach().std(1, keepdim=True) * drawn.shape[1] ** (-1 / 6)
        below = torch.special.ndtr((torch.tensor([-0.5, 0, 0.5]) - drawn[..., None]) / sd[..., None])
        zeros = torch.zeros_like(below[..., :1])
        mass = torch.cat([zeros, below, zeros + 1], -1).diff(dim=-1)
        (torch.einsum("bni,bnj->bij", mass[:, :, 0], mass[:, :, 1]) / drawn.shape[1] * weights).sum().backward()
        ratings.grad = None

    def scipy_boxes() -> None:
        kde = gaussian_kde(observations[0].T)
        for low in np.ndindex(4, 4):
            kde.integrate_box(edges[list(low)], edges[[low[0] + 1, low[1] + 1]])

    difference = float(np.abs(cell_masses(observations) - np.stack([boxes(row) for row in range(4)])).max())
    seconds, plain = best(ours, textbook, rounds=20)
    (boxed,) = best(scipy_boxes, rounds=3)
    seconds, plain = seconds / UTTERANCES, plain / UTTERANCES
    subject = "KDE, one utterance, fwd + bwd"
    yield Result(subject, "scipy integrate_box, fwd only", boxed, seconds, 100.0, difference, 1e-6)
    yield Result(subject, "torch, mass per observation", plain, seconds, 1.0, difference, 1e-6)
