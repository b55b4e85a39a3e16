"""What is told of a corpus: the page of `annot-hf corpus --report`, and the card of an export with its agreement."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from annot_hf.data.corpus import CorpusReport
from annot_hf.data.export import ExportedCorpus, read_export, read_export_facts, write_card
from annot_hf.data.files import is_own_card
from annot_hf.data.folds import Fold, describe_splits
from annot_hf.evaluation.agreement import agreement
from annot_hf.evaluation.agreement_study import about_items
from annot_hf.evaluation.resampling import Interval
from annot_hf.report.figures import BLUE, canvas, legend, plot_split_shares, plot_votes
from annot_hf.report.pages import Section, write_study
from annot_hf.report.tables import Cell, Table, capital, counted, number, say, worded

# Ratings are drawn in so many steps of their scale.
_BARS_OF_A_SCALE = 10


def save_corpus_page(corpus: ExportedCorpus, out: str | os.PathLike) -> Path:
    """Write import.html, .md and .json of an export, with plots; returns the path of the page.

    The page has the label files, votes in and out with the reason of each that is left out, all findings, the answers to each
    question, and the splits with the speakers, sessions and raters that they share. Files of these names that are not from an
    earlier call raise a ValueError.
    """
    facts, told = read_export_facts(corpus.folder), CorpusReport.from_dict(corpus.report)
    splits = describe_splits(corpus.items, corpus.votes)
    split_hash = Fold(0, 0, corpus.items["split"].to_numpy()).digest(corpus.items["item"])
    missing = facts.get("label_files_missing", [])
    files = [(name, "yes", digest[:12]) for name, digest in facts["label_files"].items()]
    files += [(name, "no", "") for name in missing]
    balance = [(one.reason, f"\u2212{one.votes:,}") for one in told.findings if one.votes]
    balance = [("in the files", told.votes + told.votes_left_out), *balance, ("in the export", told.votes)]
    found = [
        (Cell(one.reason, "" if one.expected else "unexpected"), one.count, one.votes, "; ".join(one.examples))
        for one in told.findings
    ]
    opening = [worded("corpus_balance", balance)]
    opening += [worded("corpus_findings", found)] if found else []
    opening += [worded("corpus_files", files)] if files else []
    rows = [(split, *map(int, row)) for split, row in splits.iterrows()]
    columns = ("Split", *map(capital, splits.columns))
    shares = [Section([worded("corpus_splits", rows, columns=columns, split_hash=split_hash)])]
    answers = {}
    for place, name in enumerate(told.questions):
        section, answers[name] = _question_section(corpus, name, place)
        shares.append(section)
    each = np.bincount(corpus.votes.annotator_codes[corpus.votes.annotator_codes >= 0])
    if len(each):
        shares.append(Section((), {"rater_votes": lambda: plot_rater_votes(each)}))
    asked = Section([worded("corpus_questions", [_question_row(corpus, name) for name in told.questions])])
    stated = {key: corpus.origin[key] for key in ("version", "license", "homepage", "citation", "access")}
    return write_study(
        Path(out),
        "import",
        title=say("corpus_page.title", corpus=corpus.name, version=corpus.origin["version"]),
        summary=say("corpus_page.summary", told=told, missing=missing),
        sections=[Section(opening), asked, *shares],
        notes=[say("corpus_page.unexpected")],
        details={"corpus": corpus.folder.name, "digest": corpus.digest, "splits": split_hash} | stated,
        data={
            "report": told.to_dict(),
            "label_files": facts["label_files"],
            "label_files_missing": missing,
            "answers": answers,
            "splits": splits.to_dict("index"),
            "split_hash": split_hash,
        },
    )


def _question_row(corpus: ExportedCorpus, name: str) -> tuple[Cell | str | int, ...]:
    """Answers, items, votes, raters, and how many votes an item and a rater have."""
    question, votes = corpus.votes.question(name), corpus.votes
    answers = f"{question.low:g} to {question.high:g}" if question.is_scale else f"{len(question.labels)} labels"
    row = corpus.report["questions"][name]
    if question.shares:
        return name, answers, row["items"], say("corpus_page.shares"), "", "", ""
    codes = votes.annotator_codes[votes.rows_of(name)]
    each = np.bincount(codes[codes >= 0])
    each = each[each > 0]
    an_item = f"{row['fewest']:,} / {row['median']:g} / {row['most']:,}"
    a_rater = f"{each.min():,} / {np.median(each):g} / {each.max():,}" if len(each) else say("corpus_page.unnamed")
    return name, answers, row["items"], row["votes"], len(each), an_item, a_rater


def _question_section(corpus: ExportedCorpus, name: str, place: int) -> tuple[Section, dict[str, Any]]:
    """The answers to a question, in all and by split, as a table and plots; and the numbers."""
    question, votes = corpus.votes.question(name), corpus.votes
    voted = corpus.items[corpus.items["item"].isin(votes.items[votes.item_codes[votes.rows_of(name)]])]
    per_item = pd.Series(votes.item_codes[votes.rows_of(name)]).value_counts()
    sizes = {int(size): int(count) for size, count in per_item.value_counts().items()}
    if question.is_scale:
        support, mean, shares, table, numbers = _scale_answers(corpus, name)
    else:
        counts = votes.counts(name, items=list(voted["item"]))
        support, total = question.labels, counts.sum(axis=0)
        mean, split_of = total / total.sum(), voted["split"].to_numpy()
        shares = {split: counts[split_of == split].sum(axis=0) for split in corpus.report["splits"]}
        shares = {split: one / one.sum() for split, one in shares.items() if one.any()}
        rows = [
            (
                label,
                "" if question.shares else int(total[k]),
                *(number(100 * one[k], 1) for one in (mean, *shares.values())),
            )
            for k, label in enumerate(support)
        ]
        columns = ("Label", "Votes", "Share, %", *(f"{split}, %" for split in shares))
        table = worded("corpus_labels", rows, columns=columns, question=name)
        numbers = {"votes": dict(zip(support, total.tolist(), strict=True))}
        numbers |= {"shares": {split: dict(zip(support, one.tolist(), strict=True)) for split, one in shares.items()}}
    figures = {f"answers_{place}": partial(plot_votes, support, mean, {} if question.shares else sizes)}
    if len(shares) > 1:
        figures[f"split_shares_{place}"] = partial(plot_split_shares, support, shares)
    return Section([table], figures, name), numbers


def _scale_answers(
    corpus: ExportedCorpus, name: str
) -> tuple[list[str], np.ndarray, dict[str, np.ndarray], Table, dict[str, dict[str, float]]]:
    """Steps of a scale, the share of the ratings in each, in all and by split, and a table of means with its numbers."""
    question, votes = corpus.votes.question(name), corpus.votes
    rows = votes.rows_of(name)
    ratings = votes.ratings[rows]
    split_of = corpus.items.set_index("item")["split"].reindex(votes.items).to_numpy()[votes.item_codes[rows]]
    values = np.unique(ratings)
    if len(values) <= _BARS_OF_A_SCALE:
        support, step = [f"{value:g}" for value in values], np.searchsorted(values, ratings)
    else:
        edges = np.linspace(question.low, question.high, _BARS_OF_A_SCALE + 1)
        support = [f"{low:g} to {high:g}" for low, high in zip(edges[:-1], edges[1:], strict=True)]
        step = np.clip(np.searchsorted(edges, ratings, side="right") - 1, 0, _BARS_OF_A_SCALE - 1)
    shares, numbers = {}, {}
    for split in (None, *corpus.report["splits"]):
        part = np.ones(len(ratings), dtype=bool) if split is None else split_of == split
        if not part.any():
            continue
        place, one = split or "all", ratings[part]
        shares[place] = np.bincount(step[part], minlength=len(support)) / len(one)
        numbers[place] = {"ratings": len(one), "mean": one.mean(), "deviation": one.std()}
        numbers[place] |= {"lowest": one.min(), "median": np.median(one), "highest": one.max()}
    told = [(split, one["ratings"], *(number(one[key], 2) for key in list(one)[1:])) for split, one in numbers.items()]
    return support, shares.pop("all"), shares, worded("corpus_ratings", told, question=name), numbers


def plot_rater_votes(each: np.ndarray) -> Figure:
    """Votes of each named rater, most first, and the median."""
    figure, axis = canvas(6.4, 2.8)
    order = np.sort(each)[::-1]
    axis.fill_between(
        np.arange(len(order) + 1), [*order, order[-1]], step="post", color=BLUE, alpha=0.35, label="votes"
    )
    axis.axhline(np.median(order), color=BLUE, linestyle="--", linewidth=1.2, label=f"median: {np.median(order):g}")
    axis.set(xlabel=f"{counted(len(order), 'rater')}, most votes first", ylabel="votes", xlim=(0, len(order)))
    axis.set_ylim(bottom=0)
    legend(figure, axis, 2, grid="both")
    return figure


def write_dataset_card(corpus: str | Path | ExportedCorpus) -> Path:
    """Write README.md of an exported corpus, or of the folder of one, from its tables, and how far its raters agree.

    One that somebody else wrote or edited stays as it is. `export_corpus` writes it without the agreement.

    Returns:
        The path of README.md.

    Raises:
        ValueError: The folder is not an exported corpus.
    """
    folder = corpus.folder if isinstance(corpus, ExportedCorpus) else Path(corpus)
    facts, path = read_export_facts(folder), folder / "README.md"
    if path.is_file() and not is_own_card(path):
        return path
    corpus, rows = corpus if isinstance(corpus, ExportedCorpus) else read_export(folder), []
    votes, (_, resamples) = corpus.votes, about_items(corpus.votes, corpus.items)
    for name in (question.name for question in votes.questions if not question.shares):
        found = agreement(votes, name, resamples=resamples)
        numbers = (found.alpha, found.pairwise, found.cohen_kappa)
        rows.append((name, f"{found.pairable_items:,}", *(_with_interval(number) for number in numbers)))
    return write_card(folder, facts, agreed=rows)


def _with_interval(number: Interval) -> str:
    """A value and its interval."""
    if number.value is None:
        return "\u2013"
    return f"{number.value:.3f}" + ("" if number.low is None else f" ({number.low:.3f} to {number.high:.3f})")
