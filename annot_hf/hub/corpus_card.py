"""The card of a corpus: what `export_corpus` says of it, and how far its raters agree."""

from pathlib import Path

from annot_hf.data.export import ExportedCorpus, read_export, read_export_facts, write_card
from annot_hf.data.files import is_own_card
from annot_hf.evaluation.agreement import agreement
from annot_hf.evaluation.agreement_study import about_items
from annot_hf.evaluation.resampling import Interval


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
