"""Whose votes a run learns from and is validated by: people's, synthetic ones, or both (arXiv 2601.14620).

The paper scores each kind of votes against a test distribution of its own; here the reference of a test is always that of the
people who voted, and a system that is to do without them does so all the way: it learns from synthetic votes, and the epoch
that is kept is the best by synthetic votes. A combined system knows people's votes and is validated by them alone.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from annot_hf.data.annotations import Annotations, check_corpus, read_annotations
from annot_hf.data.export import ExportedCorpus
from annot_hf.data.sources import SYNTHETIC, answers_to, combine_votes, is_synthetic
from annot_hf.data.targets import Targets
from annot_hf.data.votes import VoteTable
from annot_hf.training.recipe import Recipe


def vote_views(recipe: Recipe, corpus: ExportedCorpus) -> tuple[dict[str, ExportedCorpus], dict[str, Any]]:
    """The corpus with the votes that training and validation see.

    Args:
        recipe: Names the annotations and the kind of votes.
        corpus: The export, or a view of it under other splits.

    Returns:
        "train" and "validation" -> the corpus with their votes, and what a reader must know of it; nothing to know where
        the votes are those of the export.

    Raises:
        ValueError: The annotations are of another corpus or of other labels, or lack votes that the recipe needs; or the
            export itself holds synthetic votes.
    """
    own = int(is_synthetic(corpus.votes).sum())
    if own:
        raise ValueError(
            f"{corpus.name} itself holds {own} votes of source {SYNTHETIC!r}, and the votes of an export are what systems are "
            "measured against; export people's votes only, and keep the others in a folder of annotations."
        )
    kind = recipe.kind_of_votes
    if kind == "human":
        return dict.fromkeys(("train", "validation"), corpus), {}
    found = read_annotations(recipe.annotations)
    check_corpus(found, corpus)
    synthetic = answers_to(found.votes, corpus.votes.questions, f"annotations {found.folder}")
    _check_needed(recipe, corpus, synthetic, found)
    about = {"votes": kind, "annotations": found.facts["votes_sha256"]}
    if kind == "synthetic":
        return dict.fromkeys(("train", "validation"), replace(corpus, votes=synthetic)), about
    combined = combine_votes(corpus.votes, synthetic, recipe.synthetic_weight)
    about["synthetic_weight"] = recipe.synthetic_weight
    return {"train": replace(corpus, votes=combined), "validation": corpus}, about


def count_votes(votes: VoteTable, targets: Targets) -> dict[str, int]:
    """How many human and synthetic votes on its questions are behind targets."""
    kept = votes.select(items=targets.items, questions=[question.name for question in targets.questions])
    synthetic = is_synthetic(kept)
    return {"human": int((~synthetic).sum()), "synthetic": int(synthetic.sum())}


def _check_needed(recipe: Recipe, corpus: ExportedCorpus, synthetic: VoteTable, found: Annotations) -> None:
    """There are synthetic votes wherever nothing else stands in for them."""
    asked = tuple(recipe.question) or corpus.default_questions
    if recipe.synthetic_weight != 1 and corpus.votes.question(asked[0]).is_scale:
        raise ValueError(
            f"synthetic_weight is {recipe.synthetic_weight} and question {asked[0]!r} a scale, whose ratings are drawn and "
            "not weighed; set synthetic_weight to 1."
        )
    only = recipe.kind_of_votes == "synthetic"
    splits = ("train", "validation") if only else ("train",)
    for name in (*asked, *((*recipe.scales, *recipe.auxiliary) if only else ())):
        for split in splits:
            if not _voted(corpus, synthetic, name, split).any():
                raise ValueError(
                    f"The annotations {found.folder} have no vote on {name!r} for an item of split {split!r}, and votes is "
                    f"{recipe.kind_of_votes}; annotate that split, or set votes to human."
                )


def _voted(corpus: ExportedCorpus, votes: VoteTable, question: str, split: str) -> np.ndarray:
    """Which items of a split have a vote on the question."""
    items: Sequence[str] = corpus.items.loc[corpus.items["split"] == split, "item"]
    on = np.unique(votes.item_codes[votes.rows_of(question)])
    return pd.Index(items).isin(votes.items[on])
