"""New raters for a trained model: each gets a row of their own, fitted to a few votes; everything else stays as it is.

Rows of raters have a normal prior, whose mean and covariance are those of the known raters' rows (empirical Bayes), in the
few directions in which these differ most. Training has shrunk them, so that no estimation error needs to be taken off. A
new row is the maximum a posteriori (MAP) under the likelihood of the rater's votes: of a normal opinion that is rounded and
cut at the ends of the scale, or of a label.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.func import jvp
from torch.utils.data import DataLoader

from annot_hf.data.encoding import read_csv
from annot_hf.data.export import ExportedCorpus, read_export
from annot_hf.data.questions import Question, nearest
from annot_hf.data.rater_facts import encode_raters, read_rater_table
from annot_hf.data.targets import scale_answers
from annot_hf.data.votes import VoteTable
from annot_hf.models.heads import RaterHeads
from annot_hf.models.losses import answer_costs
from annot_hf.models.modeling_annotator import PUBLISHED_KERNEL, AnnotatorModel, bounded_spread
from annot_hf.models.modeling_opinion import SupportModel
from annot_hf.training.checkpoints import FACTS, check_model_folder, load_model, read_record, save_model
from annot_hf.training.collator import make_collator
from annot_hf.training.datasets import hashed_names
from annot_hf.training.inference import accepted_seconds, check_support
from annot_hf.training.inputs import corpus_inputs, read_together

logger = logging.getLogger(__name__)

# most directions in which a new row may leave the mean; 4, 8 and 16 do alike on the simulator
DIRECTIONS = 8
# standard deviations between a new rater's number and the mean of the trained raters
FARTHEST = 10
# Newton steps, halvings of one, and the gain (nats) of all raters together below which they end
_STEPS, _HALVINGS, _LEAST_GAIN = 50, 30, 1e-9


@dataclass(frozen=True)
class Onboarded:
    """The checkpoint with the new raters, how many answers each was fitted to, and what of the votes was left out."""

    model: Path
    answers: dict[str, int]
    left_out: dict[str, int]


@dataclass(frozen=True)
class Answers:
    """Answers of new raters: `item` and `rater` `(P,)` index embeddings and raters; `value` as `Ratings.value` `(P, D)`."""

    item: torch.Tensor
    rater: torch.Tensor
    value: torch.Tensor


def onboard(
    source: str | Path,
    votes: str | Path | None,
    corpus: str | Path | ExportedCorpus,
    out: str | Path,
    *,
    raters: str | Path | None = None,
    batch_size: int = 32,
    features: str | Path | None = None,
    max_seconds: float | None = None,
    revision: str | None = None,
) -> Onboarded:
    """Give the raters of some votes rows of their own in a trained model, and write the model with them to another folder.

    Args:
        source: Checkpoint folder or Hub id of an annotator model.
        votes: CSV file, as `VoteTable.from_csv` reads it, with votes of raters whom the model does not know on items of the
            corpus. Votes on questions that the model does not answer are counted and left out. None where `raters` says all
            that is known of the new raters.
        corpus: Folder or Hub id of the exported corpus, or the corpus if it is open already.
        out: Folder to write, a checkpoint as any other; its `training.json` says who was onboarded from how many answers.
        raters: CSV file of a table of raters with the columns that the model was trained with, if there were any. All raters
            in it whom the model does not know are onboarded, with votes or without.
        batch_size: Items per batch.
        features: Folder for computed log-mel features; "features" next to `out` by default.
        max_seconds: Longest clip that is accepted (s); by default what training accepted.
        revision: Branch, tag or commit of a Hub id.

    Raises:
        ValueError: The model has no raters, or a row of one of these already; a vote has no rater, or its item, question or
            value is unknown; the table of raters does not fit the model; or there is nobody to onboard.
    """
    out = Path(out)
    if out.resolve() == Path(source).resolve():
        raise ValueError(f"{out} is the model's own folder, which would be overwritten; name another folder.")
    check_model_folder(out)
    earlier = read_record(out / FACTS)
    if earlier is not None and "onboarded" not in earlier:
        raise ValueError(f"{out} holds a trained model, which would be lost; name another folder.")
    model, processor, facts = load_model(source, revision=revision)
    _check_model(model, source)
    corpus = corpus if isinstance(corpus, ExportedCorpus) else read_export(corpus)
    names, items, answers, left_out = _read_votes(votes, corpus, model)
    names, facts_of_raters = _read_facts(raters, names, model)
    if not names:
        raise ValueError(
            "There is no new rater; give votes, or a table of raters with somebody whom the model does not know."
        )
    embedding = torch.zeros(0, model.width)
    if len(items):
        held, rows = read_together(corpus, items)
        inputs = corpus_inputs(
            corpus,
            held,
            model.config.trunk_config,
            processor,
            features=features or out.resolve().parent / "features",
            max_seconds=accepted_seconds(facts) if max_seconds is None else max_seconds,
        ).select(rows)
        batches = [range(start, min(start + batch_size, len(items))) for start in range(0, len(items), batch_size)]
        loader = DataLoader(inputs, batch_sampler=batches, collate_fn=make_collator(model, processor).pad)
        with torch.no_grad():
            parts = [model.embed(**{name: value.to(model.device) for name, value in batch.items()}) for batch in loader]
        embedding = torch.cat(parts)
    found = fit_rows(model, embedding, answers, len(names), facts_of_raters)
    add_raters(model, names, found, facts_of_raters)
    counts = np.bincount(answers.rater.numpy(), minlength=len(names)).tolist()
    done = Onboarded(out, dict(zip(names, counts, strict=True)), left_out)
    record = {"corpus": corpus.name, "corpus_digest": corpus.digest, "answers": done.answers, "left_out": left_out}
    record["names"] = hashed_names(items)
    save_model(model, processor, facts | {"onboarded": [*facts.get("onboarded", []), record]}, out)
    return done


def _check_model(model: SupportModel, folder: str | Path) -> None:
    """Only a model with raters of its own tells how far raters differ."""
    if not isinstance(model, AnnotatorModel):
        raise ValueError(f"{folder} holds a {type(model).__name__}, which has no raters; give an annotator model.")
    if len(model.config.annotators) < 2:
        raise ValueError(
            f"{folder} has {len(model.config.annotators)} raters, which do not tell how far raters differ; train a model on "
            "votes of two or more."
        )
    if model.has_adapters:
        raise ValueError(f"{folder} holds adapters; merge them first (merge_lora), and onboard raters to the result.")


def _read_facts(
    path: str | Path | None, names: list[str], model: AnnotatorModel
) -> tuple[list[str], torch.Tensor | None]:
    """Names of the new raters, those of the table among them, and what the model reads of each `(raters, F)`, if anything."""
    columns = model.config.rater_columns
    if path is None and not columns:
        return names, None
    if path is None:
        read = ", ".join(column["name"] for column in columns)
        raise ValueError(f"The model reads {read} of its raters; give the table of the new ones (raters).")
    if not columns:
        raise ValueError(f"{path} is a table of raters, and the model was trained without one; leave it out.")
    table = read_rater_table(path)
    known = {*names, *model.config.annotators}
    absent = sorted(set(names) - set(table.index))
    if absent:
        logger.warning(
            "%d new raters are not in %s, and count as average: %s.", len(absent), path, ", ".join(absent[:6])
        )
    names = [*names, *(name for name in table.index if name not in known)]
    return names, torch.from_numpy(encode_raters(table, columns, names, farthest=FARTHEST))


def _read_votes(
    path: str | Path | None, corpus: ExportedCorpus, model: AnnotatorModel
) -> tuple[list[str], np.ndarray, Answers, dict[str, int]]:
    """Names of the new raters, the items that they rated, their answers, and counts of the votes that are left out."""
    if path is None:
        nothing = torch.zeros(0, dtype=torch.long)
        return [], np.array([]), Answers(nothing, nothing, torch.zeros(0, model.columns)), {}
    mine = [Question.from_dict(question) for question in model.config.questions]
    asked = [question.name for question in mine]
    check_support(mine, corpus)
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}; give a CSV with the columns item, annotator, question and value.")
    columns = read_csv(path)
    # without a column that says which, all votes are on the only question of the model
    others = [one for one in corpus.votes.questions if one.name not in asked and "question" in columns]
    votes = VoteTable.from_columns([*mine, *others], **columns, where=str(path), duplicates="keep")
    if votes.weights is not None:
        raise ValueError(f"{path} has weights, which answers of single raters do not take; remove the column weight.")
    _check_rows(votes, path, corpus, model)
    own = votes.select(questions=asked)
    if not len(own):
        raise ValueError(f"{path} has no vote on {' or '.join(asked)}, which the model answers; give some.")
    left_out = {"votes on other questions": len(votes) - len(own)}
    if model.config.is_scale:
        found = scale_answers(own, asked)
        item, rater, value = found.item, found.annotator, found.value
    else:
        given = own.label_codes >= 0
        left_out["votes for none of the labels"] = int((~given).sum())
        item, rater, value = own.item_codes[given], own.annotator_codes[given], own.label_codes[given, None]
    # who answered nothing that counts has the mean row, and is not forgotten
    names = [str(name) for name in votes.annotators]
    rater = pd.Index(names).get_indexer(own.annotators)[rater]
    parts = ((item, np.int64), (rater, np.int64), (value, np.float64))
    answers = Answers(*(torch.from_numpy(np.asarray(part, kind)) for part, kind in parts))
    return names, own.items, answers, {reason: count for reason, count in left_out.items() if count}


def _check_rows(votes: VoteTable, path: str | Path, corpus: ExportedCorpus, model: AnnotatorModel) -> None:
    """Raise for the first vote on an item that the corpus lacks, or of nobody, or of a rater whom the model knows."""
    items = pd.Index(corpus.items["item"])
    unknown = ~pd.Index(votes.items).isin(items)[votes.item_codes]
    if unknown.any():
        row = int(np.argmax(unknown))
        name = votes.items[votes.item_codes[row]]
        raise ValueError(
            f"{path}: row {row} rates item {name!r}{nearest(name, items)}, which {corpus.name} does not have; correct the "
            "name, or export the item."
        )
    # code -1, an anonymous vote, reads the last entry
    known = np.append(pd.Index(votes.annotators).isin(model.config.annotators), True)[votes.annotator_codes]
    if known.any():
        row = int(np.argmax(known))
        code = votes.annotator_codes[row]
        if code < 0:
            raise ValueError(f"{path}: row {row} has no annotator; name the rater whose row its vote is for.")
        raise ValueError(
            f"{path}: row {row} is a vote of {votes.annotators[code]!r}, who has a head in the model already; remove the "
            "votes of known raters."
        )
    plain = {name.strip().casefold(): name for name in model.config.annotators}
    for name in votes.annotators:
        alike = plain.get(name.strip().casefold())
        if alike:
            raise ValueError(
                f"{path} has votes of {name!r}, and the model knows {alike!r}; remove the votes if that is the same rater, or "
                "rename the new one."
            )


def rater_tables(model: AnnotatorModel) -> list[RaterHeads]:
    """All that a model has a row for each rater of: the heads of each tower, and the raters' noise if it is learned."""
    return [*model.raters, *([] if model.noise is None else [model.noise])]


def fit_rows(
    model: AnnotatorModel, embedding: torch.Tensor, answers: Answers, raters: int, facts: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """Rows of new raters in each of `rater_tables` `(raters, columns)`: the maximum a posteriori of their answers.

    A rater without answers gets the mean of the known raters' rows. `embedding` `(N, width)` are what `embed` gives of
    the items, `facts` `(raters, F)` what is known of the raters. The fit is in float64, by Newton's method in the prior's
    directions, for all raters at a time.
    """
    tables = rater_tables(model)
    # rows that were fitted before are shrunk towards their prior, and would shrink this one
    known = torch.cat([table.table.detach().cpu().double() for table in tables], 1)[: model.config.trained]
    mean = known.mean(0)
    _, deviations, directions = torch.linalg.svd((known - mean) / (len(known) - 1) ** 0.5, full_matrices=False)
    # a standard normal step along each direction is one of the prior
    basis = (deviations[:, None] * directions)[:DIRECTIONS]
    places = known.new_zeros(raters, len(basis))
    if len(answers.item):
        respond, cost = _response(model, embedding, answers, facts)
        affine = model.config.rater_rows != "embedding"
        places = _newton(lambda place: respond(mean + place @ basis), cost, answers.rater, places, affine=affine)
    return list((mean + places @ basis).split([table.table.shape[1] for table in tables], 1))


def _response(
    model: AnnotatorModel, embedding: torch.Tensor, answers: Answers, facts: torch.Tensor | None
) -> tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]:
    """What rows `(R, columns)` make of the items `(P, n)`, answers and spreads or logits, and its cost (nats) `(P,)`."""
    config, item, rater = model.config, answers.item, answers.rater
    tables, scales = copy.deepcopy(nn.ModuleList(rater_tables(model))), len(model.raters)
    tables.cpu().double().requires_grad_(False)
    widths = [table.table.shape[1] for table in tables]
    with torch.no_grad():
        inner = model.tower_states(embedding)
        fixed = model.consensus(inner)[item] if config.rater_head == "residual" else embedding.new_zeros(1)
        fixed = [fixed] if model.noise is None else [fixed, model.ambiguity(embedding)[item]]
        fixed, inner = (
            [part.cpu().double() for part in parts] for parts in (fixed, [one[item.to(one.device)] for one in inner])
        )
    inner.append(inner[0].new_zeros(len(item), 0))
    shared = [table.shared_part(None if facts is None else facts[rater]) for table in tables]

    def respond(rows: torch.Tensor) -> torch.Tensor:
        pieces = zip(tables, inner, rows.split(widths, 1), shared, strict=False)
        own = [table.answer(x, part[rater] + expected) for table, x, part, expected in pieces]
        parts = [torch.cat(own[:scales], -1), *own[scales:]]
        return torch.cat([part + common for part, common in zip(parts, fixed, strict=True)], -1)

    def cost(response: torch.Tensor) -> torch.Tensor:
        if not config.is_scale:
            return nn.functional.cross_entropy(response, answers.value[:, 0].long(), reduction="none")
        location, *spread = response.split(model.columns, -1)
        published = torch.full_like(location, PUBLISHED_KERNEL["bandwidth"])
        wide = bounded_spread(spread[0]) if spread else published
        return answer_costs(location, wide, answers.value, config.levels).sum(-1)

    return respond, cost


def _newton(
    respond: Callable[[torch.Tensor], torch.Tensor],
    cost: Callable[[torch.Tensor], torch.Tensor],
    rater: torch.Tensor,
    place: torch.Tensor,
    *,
    affine: bool,
) -> torch.Tensor:
    """Where each rater's cost plus |place|^2 / 2 is least, from 0 `(R, J)`, by damped Newton steps of all raters."""
    raters, directions = place.shape
    identity, answer = torch.eye(directions).to(place), respond

    def slope_at(place: torch.Tensor) -> torch.Tensor:
        """Derivative of each response in the directions `(P, n, J)`."""
        return torch.stack([jvp(respond, (place,), (one.expand_as(place),))[1] for one in identity], -1)

    if affine:
        start = respond(place)
        slope = torch.stack([respond(one.expand_as(place)) - start for one in identity], -1)

        def answer(place: torch.Tensor) -> torch.Tensor:
            return start + torch.einsum("pnj,pj->pn", slope, place[rater])

    def total(response: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return place.new_zeros(raters).index_add(0, rater, cost(response)) + (at**2).sum(1) / 2

    response = answer(place)
    least = total(response, place)
    for _ in range(_STEPS):
        slope = slope if affine else slope_at(place)
        first, second = _derivatives(cost, response)
        gradient = place.clone().index_add(0, rater, torch.einsum("pnj,pn->pj", slope, first))
        curvature = place.new_zeros(raters, directions, directions)
        curvature.index_add_(0, rater, slope.mT @ second @ slope)
        # the prior's own curvature is 1; the likelihood's may be negative far from its maximum
        values, vectors = torch.linalg.eigh(curvature)
        step = torch.einsum(
            "rjk,rk->rj", vectors / (1 + values.clip(0))[:, None], (vectors.mT @ gradient[..., None])[..., 0]
        )
        size = torch.ones_like(least)
        for _ in range(_HALVINGS):
            there = place - size[:, None] * step
            response = answer(there)
            costs = total(response, there)
            worse = ~(costs <= least)
            if not worse.any():
                break
            size = torch.where(worse, size / 2, size)
        there, costs = torch.where(worse[:, None], place, there), torch.where(worse, least, costs)
        gain, place, least = float((least - costs).sum()), there, costs
        if worse.any():
            response = answer(place)
        if gain < _LEAST_GAIN:
            return place
    logger.warning("The fit of %d raters still gained %.1e nats after %d steps.", raters, gain, _STEPS)
    return place


def _derivatives(
    cost: Callable[[torch.Tensor], torch.Tensor], response: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient `(P, n)` and Hessian `(P, n, n)` of the cost of each response `(P, n)`."""
    response = response.detach().requires_grad_()
    with torch.enable_grad():
        (first,) = torch.autograd.grad(cost(response).sum(), response, create_graph=True)
        second = [torch.autograd.grad(one.sum(), response, retain_graph=True)[0] for one in first.unbind(-1)]
    return first.detach(), torch.stack(second, -1)


def add_raters(
    model: AnnotatorModel, names: Sequence[str], rows: Sequence[torch.Tensor], facts: torch.Tensor | None = None
) -> None:
    """Append raters with these rows in each of `rater_tables`, and what is known of them `(raters, F)`, to a model."""
    for table, more in zip(rater_tables(model), rows, strict=True):
        table.table = nn.Parameter(torch.cat([table.table.detach(), more.to(table.table)]))
    model.config.annotators = [*model.config.annotators, *names]
    model.config.onboarded += len(names)
    if facts is not None:
        model.config.rater_facts = [*model.config.rater_facts, *facts.tolist()]
