"""Compare synthetic votes with the human votes of an export (arXiv 2601.14620)."""

from collections.abc import Sequence

import numpy as np

from annot_hf.data.encoding import check_whole
from annot_hf.data.export import ExportedCorpus, check_splits
from annot_hf.data.questions import Question
from annot_hf.data.synthetic import SYNTHETIC, Annotations, answers_to, check_corpus, is_synthetic
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.alignment import items_by_name, speakers_of
from annot_hf.evaluation.resampling import Resamples
from annot_hf.evaluation.saturation import (
    find_saturation,
    measure_agreement,
    measure_curve,
    measure_held_out,
    measure_ideal,
    votes_that_most_have,
)
from annot_hf.report.studies import Saturation


def measure_saturation(
    annotations: Annotations,
    corpus: ExportedCorpus,
    *,
    question: str = "",
    splits: Sequence[str] = (),
    votes: int | None = None,
    resamples: int = 5,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Saturation:
    """Compare synthetic votes with the human votes of the export that was annotated; see `annot_hf.evaluation.saturation`.

    Up to `votes` votes per item are used, by default as many as 90 % of the items have; items with fewer are counted and left
    out, so that every n has the same items. The votes of an item are drawn `resamples` times.
    """
    check_whole("seed", seed, 0)
    check_whole("number of votes", votes if votes is not None else 1)
    check_whole("number of resamples", resamples)
    check_whole("number of bootstrap resamples", n_resamples)
    check_corpus(annotations, corpus)
    if is_synthetic(corpus.votes).any():
        raise ValueError(f"{corpus.name} itself holds votes of source {SYNTHETIC!r}; export only human votes.")
    synthetic = answers_to(annotations.votes, corpus.votes.questions, f"annotations {annotations.folder}")
    asked = _question(annotations, synthetic, question)
    if corpus.votes.weights is not None and (corpus.votes.weights[corpus.votes.rows_of(asked.name)] != 1).any():
        raise ValueError(
            f"The votes of {corpus.name} on {asked.name!r} have weights, but whole votes are drawn; export them without "
            "weights."
        )
    used = check_splits(corpus, splits)
    table = corpus.items[corpus.items["split"].isin(used)]
    items = table["item"].to_numpy()
    human, model = (one.counts(asked.name, items=items).astype(np.int64) for one in (corpus.votes, synthetic))
    both = (human.sum(1) > 0) & (model.sum(1) > 0)
    if not both.any():
        raise ValueError(
            f"No item{' of split ' + ' or '.join(splits) if splits else ''} of {corpus.name} has both human and synthetic "
            f"votes on {asked.name!r}; annotate items with human votes."
        )
    without = {
        "items without synthetic votes": int((model.sum(1) == 0).sum()),
        "items without human votes": int(((human.sum(1) == 0) & (model.sum(1) > 0)).sum()),
    }
    items, human, model = items[both], human[both], model[both]
    drawn = Resamples(speakers_of(items_by_name(table).get("speaker"), None, items, None), n_resamples, seed)
    votes = votes_that_most_have(model.sum(1)) if votes is None else votes
    enough = model.sum(1) >= votes
    if not enough.any():
        raise ValueError(
            f"No item has {votes} synthetic votes; the largest number is {model.sum(1).max()}, so use at most that many."
        )
    few = {f"items with fewer than {votes} synthetic votes": int((~enough).sum())}
    agreement = measure_agreement(human, model, asked.labels, drawn) if (human.sum(1) >= 2).any() else None
    items, human, model, drawn = items[enough], human[enough], model[enough], drawn.select(enough)
    q = human / human.sum(1, keepdims=True)
    options = {"repeats": resamples, "seed": seed}
    curve = measure_curve(model, q, items, votes, drawn, **options)
    ideal = measure_ideal(q, items, votes, drawn, **options)
    # Half of the people that `COVERED` of the items have are compared with the rest, if that is at least one.
    several = votes_that_most_have(human.sum(1))
    rows, people = human.sum(1) >= several, several // 2
    held = (human[rows], model[rows], items[rows], people, votes, drawn.select(rows))
    return Saturation(
        curve,
        ideal,
        find_saturation(curve.mean),
        find_saturation(ideal.mean),
        measure_held_out(*held, **options) if people else None,
        agreement,
        {"items": int(enough.sum()), **few, **without},
        {
            "corpus": corpus.name,
            "corpus_digest": corpus.digest,
            "question": asked.name,
            "labels": list(asked.labels),
            "splits": used,
            "annotations": str(annotations.folder),
            "annotations_sha256": annotations.facts["votes_sha256"],
            "speakers": drawn.cluster_count,
            "resamples": resamples,
            "n_resamples": n_resamples,
            "seed": seed,
        },
    )


def _question(annotations: Annotations, synthetic: VoteTable, name: str) -> Question:
    """The category question to analyse."""
    annotated = [question.name for question in annotations.votes.questions]
    fitting = [each for each in annotated if not _unfit(synthetic.question(each))]
    if not name and len(fitting) != 1:
        raise ValueError(
            f"The annotations answer {', '.join(annotated)}, of which {len(fitting)} have a histogram of single answers; "
            "name the question."
        )
    asked = synthetic.question(name or fitting[0])
    if asked.name not in annotated:
        raise ValueError(f"Question {name!r} was not annotated; {', '.join(annotated)} were.")
    if _unfit(asked):
        raise ValueError(
            f"Question {asked.name!r} is {_unfit(asked)}; saturation compares histograms of single answers, so name another "
            "question."
        )
    return asked


def _unfit(question: Question) -> str:
    return "a scale" if question.is_scale else "multi-select" if question.multiple else ""
