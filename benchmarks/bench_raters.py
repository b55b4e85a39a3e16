"""Models of raters: the kernel with learned spreads, forward and backward, and 1,000 new raters from ten votes each."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import ndtr

from annot_hf.models.configuration_annotator import AnnotatorConfig
from annot_hf.models.kde import cell_masses, draw_answers, expected_answers
from annot_hf.models.modeling_annotator import AnnotatorModel, bounded_spread
from annot_hf.training.onboarding import DIRECTIONS, Answers, fit_rows, rater_tables
from benchmarks.timing import Result, best

# of one utterance in a batch of as many as here (s)
LIMIT = 20e-6
UTTERANCES, VOTERS, LEVELS = 512, 8, (5, 5)
KNOWN, NEW, VOTES, ITEMS = 40, 1000, 10, 400
# so many raters are fitted one by one, and the time of all is that times their number
ONE_BY_ONE = 20


def run() -> Iterator[Result]:
    torch.set_num_threads(2)
    yield _kernel()
    # as the baseline, which has one
    torch.set_num_threads(1)
    yield _onboarding()


def _kernel() -> Result:
    """Votes of eight raters, each as wide as the model says, to a 4 x 4 grid."""
    draw = torch.Generator().manual_seed(0)
    location = (torch.rand(UTTERANCES * VOTERS, 2, generator=draw) * 2 - 1).requires_grad_()
    width = torch.randn(UTTERANCES * VOTERS, 2, generator=draw).requires_grad_()
    weights = torch.rand(4, 4, generator=draw)

    def masses(location: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
        means, variances = expected_answers(location, bounded_spread(width), LEVELS)
        shape = (len(location) // VOTERS, VOTERS, 2)
        observations, own = draw_answers(means.view(shape), variances.view(shape))
        return cell_masses(observations, variances=own)

    def ours() -> None:
        (masses(location, width) * weights).sum().backward()
        location.grad = width.grad = None

    (seconds,) = best(ours, rounds=20)
    # the same through SciPy: NumPy arrays in double precision
    with torch.no_grad():
        few = slice(16 * VOTERS)
        means, variances = expected_answers(location[few].double(), bounded_spread(width[few].double()), LEVELS)
        observations, own = draw_answers(*(part.view(16, VOTERS, 2).numpy() for part in (means, variances)))
        difference = np.abs(masses(location[few], width[few]).numpy() - cell_masses(observations, variances=own)).max()
    subject = "learned spreads, one utterance, f + b"
    return Result(subject, "the goal of 20 microseconds", LIMIT, seconds / UTTERANCES, 1.0, float(difference), 1e-5)


def _onboarding() -> Result:
    """Ten votes on two scales from each new rater, against SciPy's optimiser, one rater after the other."""
    torch.manual_seed(0)
    scales = [{"name": name, "low": 1, "high": 5} for name in ("activation", "valence")]
    names = [f"r{number}" for number in range(KNOWN)]
    config = AnnotatorConfig(
        questions=scales, annotators=names, rater_head="residual", levels=LEVELS, embedding_size=64
    )
    model = AnnotatorModel(config).eval()
    for table in rater_tables(model):
        torch.nn.init.normal_(table.table, std=0.1)
    embedding = torch.randn(ITEMS, model.width)
    item, rater = torch.randint(ITEMS, (NEW * VOTES,)), torch.arange(NEW).repeat_interleave(VOTES)
    answers = Answers(item, rater, torch.randint(5, (NEW * VOTES, 2)).double() / 2 - 1)
    found = torch.cat(fit_rows(model, embedding, answers, NEW), 1).numpy()

    known = torch.cat([table.table.detach() for table in rater_tables(model)], 1).double().numpy()
    _, deviations, directions = np.linalg.svd((known - known.mean(0)) / np.sqrt(KNOWN - 1), full_matrices=False)
    basis = (deviations[:, None] * directions)[:DIRECTIONS]
    with torch.no_grad():
        inner = model.towers([embedding] * 2).chunk(2, -1)
        consensus = model.consensus(inner).double().numpy()
        ambiguity = model.ambiguity(embedding).double().numpy()
    inner = np.stack([np.append(part.double().numpy(), np.ones((ITEMS, 1)), 1) for part in inner], 1)

    def one_by_one() -> np.ndarray:
        return np.stack([known.mean(0) + fitted(number) @ basis for number in range(ONE_BY_ONE)])

    def fitted(number: int) -> np.ndarray:
        rows = item[rater == number].numpy()
        value = answers.value[rater == number].numpy()

        def cost(place: np.ndarray) -> float:
            row = known.mean(0) + place @ basis
            location = consensus[rows] + np.einsum("pdw,dw->pd", inner[rows], row[:-2].reshape(2, -1))
            spread = 0.05 + np.logaddexp(0, ambiguity[rows] + row[-2:])
            low = np.where(value == -1, -np.inf, (value - 0.25 - location) / spread)
            high = np.where(value == 1, np.inf, (value + 0.25 - location) / spread)
            return -np.log(ndtr(high) - ndtr(low)).sum() + place @ place / 2

        return minimize(cost, np.zeros(DIRECTIONS)).x

    difference = float(np.abs(one_by_one() - found[:ONE_BY_ONE]).max())
    (seconds,) = best(lambda: fit_rows(model, embedding, answers, NEW), rounds=3)
    (baseline,) = best(one_by_one, rounds=2)
    subject = "1,000 new raters from ten votes"
    return Result(subject, "scipy, one by one", baseline * NEW / ONE_BY_ONE, seconds, 3.0, difference, 1e-3)
