"""How a report opens: the verdict, three numbers, and the items on which people disagree most."""

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from annot_hf.data.audio import wav_bytes
from annot_hf.data.predictions import Predictions
from annot_hf.evaluation.ceiling import CEILING
from annot_hf.evaluation.evaluate import CONSENSUS, MODEL, Evaluation
from annot_hf.evaluation.speakers import weakest_subset
from annot_hf.models.measures import entropy
from annot_hf.report.tables import Cell, Table, capital, counted, ends, number, say, worded, words, worth_texts

# How many items are shown, and how many labels of each.
SHOWN, MOST_LABELS = 3, 6
# Longer texts are cut here (characters).
LONGEST_TEXT = 400
# Larger clips stay out of the page (bytes).
LARGEST_CLIP = 4_000_000
# What the rater heads' distribution is held against, as `held_against` names it.
_SIMPLER = ("alone", "grid")


@dataclass(frozen=True)
class BigNumber:
    """A number for everybody: its `title`, value and interval, and what it is `about`; then what the `others` have."""

    title: str
    value: str
    interval: str
    about: str
    bad: bool = False
    others: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Share:
    """What people and systems give a label or grid cell: `shares` of 1 in the order of the series."""

    label: str
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Example:
    """An item with the votes and each system's prediction.

    Attributes:
        item: Its name.
        votes: How many votes it has, in words.
        text: Its text, perhaps cut; empty without.
        audio: Its clip for the page, `{"kind", "base64"}`, or None.
        unheard: Why there is no audio; empty if the page has none at all.
        rows: The largest labels in the order of the support, or all cells of a grid.
        grids: Of every series the shares of a grid over two questions, the highest answer to the first question on top.
    """

    item: str
    votes: str
    text: str
    audio: Mapping[str, str] | None
    unheard: str
    rows: tuple[Share, ...]
    grids: tuple[tuple[tuple[float, ...], ...], ...]


@dataclass(frozen=True)
class Opening:
    """The opening of a page; `series` are the votes and the systems of the examples, `axes` the two questions of a grid."""

    verdict: str
    numbers: tuple[BigNumber, ...]
    examples: tuple[Example, ...] = ()
    series: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    silent: str = ""

    @property
    def top(self) -> float:
        """The largest share of all examples."""
        return max(share for one in self.examples for row in one.rows for share in row.shares)

    def tables(self) -> list[Table]:
        """The examples as a table, for pages without bars: the largest shares of every series."""
        columns = (*words()["examples"]["columns"], *map(capital, self.series))
        rows = []
        for one in self.examples:
            cells = [Cell(one.item, f"({one.votes})"), one.text]
            for place in range(len(self.series)):
                ranked = sorted(one.rows, key=lambda row: -row.shares[place])[:3]
                parts = (f"{row.label} {100 * row.shares[place]:.0f} %" for row in ranked if row.shares[place] >= 0.005)
                cells.append("; ".join(parts))
            rows.append(cells)
        return [worded("examples", rows, columns=columns)] if rows else []

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without audio."""
        shown = []
        for one in self.examples:
            shares = {row.label: dict(zip(self.series, row.shares, strict=True)) for row in one.rows}
            shown.append({"item": one.item, "votes": one.votes, "text": one.text, "shares": shares})
        return {"numbers": [asdict(one) for one in self.numbers], "most_divided": shown}


def open_report(
    found: Evaluation,
    helped: Evaluation | None,
    runs: Mapping[str, Predictions],
    about: pd.DataFrame | None,
    *,
    listen: bool = False,
) -> Opening:
    """The opening of a page on these runs, a single one by the name of "model".

    Args:
        found: Their evaluation, with subsets.
        helped: What holds a model of raters against its controls, if any.
        runs: The predictions behind it.
        about: The items by name, with `text` and `audio` if they have any.
        listen: Put the clips of the examples into the page, unless they are too large or not on this machine.
    """
    columns = () if about is None else about.columns
    noun = "clip" if "audio" in columns else "text" if "text" in columns else "item"
    questions = found.reference.targets.questions
    alone = found.systems == (MODEL,)
    return Opening(
        verdict=report_verdict(found, helped, noun) if alone else comparison_verdict(found, noun),
        numbers=big_numbers(found, noun),
        examples=_choose_examples(found, runs, about, listen=listen),
        series=("votes", *(["prediction"] if alone else found.systems)),
        axes=tuple(question.name for question in questions) if len(questions) == 2 else (),
        silent="" if listen or "audio" not in columns else say("examples.silent"),
    )


def state_of(entry: Mapping[str, float | None] | None) -> str:
    """What an interval says of a gain: "wins", "loses", "unshown" if it includes 0, "unknown" without one."""
    if entry is None or entry["low"] is None:
        return "unknown"
    return "wins" if entry["low"] > 0 else "loses" if entry["high"] < 0 else "unshown"


def report_verdict(found: Evaluation, helped: Evaluation | None, noun: str) -> str:
    """One sentence on a single run, what loses first, then what the data do not show; `helped` has its controls."""
    clauses = [_against_marginal(MODEL, found, noun)]
    own = found.rater_gain(MODEL, CONSENSUS) if found.counts["rater_votes_own_head"] else None
    if own is not None:
        clauses.append(_on_raters(own, found, helped, noun))
    for name in _SIMPLER if helped is not None else ():
        if name in helped.systems and helped.better("gap_closed", MODEL, name) == name:
            clauses.append(("loses", say(f"verdict.{name}_wins", more=helped.difference("gap_closed", name, MODEL))))
    return _sentence(clauses, found, noun)


def comparison_verdict(found: Evaluation, noun: str) -> str:
    """One sentence on several runs: those that lose to the marginal first, then whether the leading run is the best."""
    clauses = [_against_marginal(name, found, noun, who=say("verdict.who", run=name)) for name in found.systems]
    clauses = [(state, text) for state, text in clauses if state in ("loses", "unshown", "unknown loss")]
    first, others = leader(found), {}
    for name in found.systems:
        if name != first:
            more = found.difference("gap_closed", first, name)
            others.setdefault(state_of(more), []).append((name, more))
    for state, several in others.items():
        text = say(f"verdict.runs_{state}", one=first, others=several, evidence=_evidence(found, noun))
        clauses.append((state, text))
    return _sentence(clauses, found, noun)


def leader(found: Evaluation) -> str:
    """The system that closes most of the gap, the first of equals."""
    gaps = {name: found.at("gap_closed", name)["value"] for name in found.systems}
    return max(gaps, key=lambda name: -np.inf if gaps[name] is None else gaps[name])


def _evidence(found: Evaluation, noun: str) -> str:
    """What intervals rest on, such as "12 speakers"."""
    speakers = found.counts["speakers"]
    return counted(speakers, "speaker") if speakers else counted(found.counts["n_evaluated"], noun)


def _against_marginal(system: str, found: Evaluation, noun: str, who: str = "") -> tuple[str, str]:
    """What a system shows against the marginal, by the gap that it closes, and the clause on it."""
    gap = found.at("gap_closed", system)
    state = "no_gap" if gap["value"] is None else state_of(gap)
    who = who or say("verdict.who", run="")
    text = say(f"verdict.model_{state}", gap=gap, who=who, evidence=_evidence(found, noun))
    return _with_loss(state, gap), text


def _with_loss(state: str, gain: Mapping[str, float | None]) -> str:
    """The state, "unknown loss" of a loss without an interval."""
    return "unknown loss" if state == "unknown" and gain["value"] < 0 else state


def _on_raters(
    own: Mapping[str, float | None], found: Evaluation, helped: Evaluation | None, noun: str
) -> tuple[str, str]:
    """What the gain of the raters' own heads over the consensus shows, and the clause on it."""
    scale = found.reference.targets.questions[0].is_scale
    state, shuffled = state_of(own), None
    if helped is not None and "shuffled" in helped.systems:
        pair = ("shuffled", f"shuffled, {CONSENSUS}")
        shuffled = helped.rater_gain(*pair)
        if state == "wins" and state_of(helped.rater_gain(MODEL, f"{MODEL}, {CONSENSUS}", beyond=pair)) != "wins":
            state = "shuffled"
    gains = {
        name: "" if gain is None else say("verdict.gain", gain=gain, scale=scale)
        for name, gain in (("own", own), ("shuffled", shuffled))
    }
    about = {"found": found, "evidence": _evidence(found, noun), "gain": own, "scale": scale}
    return _with_loss(state, own), say(f"verdict.raters_{state}", **about, **gains)


def _sentence(clauses: Sequence[tuple[str, str]], found: Evaluation, noun: str) -> str:
    """One sentence of clauses, each with its state: what loses, what is not shown, what wins; another without intervals."""
    ranks = {"loses": 0, "shuffled": 0, "unknown loss": 0, "wins": 2}
    ordered = sorted(clauses, key=lambda clause: ranks.get(clause[0], 1))
    text = ""
    known = [clause for clause in ordered if not clause[0].startswith("unknown")]
    for place, (state, clause) in enumerate(known):
        turn = place and ranks.get(state, 1) == 2 > ranks.get(known[place - 1][0], 1)
        text += (", but " if turn else ", and " if place else "") + clause
    unknown = "; ".join(clause for state, clause in ordered if state.startswith("unknown"))
    if unknown:
        unknown = say("verdict.nothing", counts=found.counts, noun=noun) + unknown
    return " ".join(f"{part[:1].upper()}{part[1:]}." for part in (text, unknown) if part)


def big_numbers(found: Evaluation, noun: str) -> tuple[BigNumber, ...]:
    """How much of the gap is closed, how many raters the leading system is worth, and where it fails, as far as known.

    Without rater equivalence, the second number is the lowest CCC of a scale, or the accuracy.
    """
    first, numbers = leader(found), []
    others = [name for name in found.systems if name != first]

    def add(kind: str, texts: Mapping[str, tuple[str, str]], *, bad: bool = False, **told: Any) -> None:
        title = say(f"numbers.{kind}", bad=bad) + say("numbers.of", run=first if others else "")
        about = say(f"numbers.{kind}_about", found=found, noun=noun, **told)
        rest = tuple((name, "{} ({})".format(*texts[name]) if texts[name][1] else texts[name][0]) for name in others)
        numbers.append(BigNumber(title, *texts[first], about, bad, rest))

    gaps = {name: found.at("gap_closed", name) for name in found.systems}
    if gaps[first]["value"] is not None:
        limit = found.at("gap_closed", CEILING)
        add("gap", {name: _per_cent(gap) for name, gap in gaps.items()}, bad=_is_bad(gaps[first]), limit=limit)
    worst = weakest_subset(found.subsets, first)
    if found.equivalence is not None:
        worths = {name: worth_texts(found.equivalence.systems[name]["worth"]) for name in found.systems}
        value, most = worths[first][0], found.equivalence.raters[-1]
        worths = {name: (one, _throughout(one, between)) for name, (one, between) in worths.items()}
        add("worth", worths, bad=value.startswith("<"), most=most if value.startswith(">") else 0)
    if found.equivalence is None or worst is None:
        if found.reference.targets.questions[0].is_scale:
            names = [f"ccc_{question.name}" for question in found.reference.targets.questions]
            lowest, *rest = sorted(names, key=lambda name: found.at(name, first)["value"])
            told = [(name.removeprefix("ccc_"), _decimals(found.at(name, first))) for name in rest]
            texts = {name: _decimals(found.at(lowest, name)) for name in found.systems}
            add("ccc", texts, question=lowest.removeprefix("ccc_"), rest=told)
        else:
            add("accuracy", {name: _decimals(found.at("accuracy", name)) for name in found.systems})
    if worst is not None:
        gaps = worst["gap_closed"]
        add("fails", {name: _per_cent(gap) for name, gap in gaps.items()}, bad=_is_bad(gaps[first]), worst=worst)
    return tuple(numbers)


def _is_bad(gap: Mapping[str, float | None]) -> bool:
    """Whether it is not shown that any of the gap is closed."""
    return (gap["value"] if gap["low"] is None else gap["low"]) <= 0


def _per_cent(entry: Mapping[str, float | None]) -> tuple[str, str]:
    return f"{number(entry['value'], 0)} %", ends(entry, 1, " %")


def _decimals(entry: Mapping[str, float | None]) -> tuple[str, str]:
    return number(entry["value"], 2), ends(entry, 3)


def _throughout(value: str, between: str) -> str:
    return say("numbers.throughout", value=value) if between == f"{value} to {value}" else between


def _choose_examples(
    found: Evaluation, runs: Mapping[str, Predictions], about: pd.DataFrame | None, *, listen: bool
) -> tuple[Example, ...]:
    """The items on which people disagree most: the highest entropy of the votes, of equal ones those with more votes."""
    reference, targets = found.reference, found.reference.targets
    rows = np.lexsort((-reference.votes, -entropy(reference.q).round(9)))[:SHOWN]
    items = reference.items[rows]
    probs = [one.select(items).in_order(targets.support).probs for one in runs.values()]
    series = np.stack([reference.q[rows], *(one / one.sum(axis=1, keepdims=True) for one in probs)], axis=1)
    grid = len(targets.questions) == 2
    examples = []
    for item, votes, shares in zip(items, reference.votes[rows], series, strict=True):
        facts = about.loc[item].to_dict() if about is not None and item in about.index else {}
        text = "" if pd.isna(facts.get("text")) else str(facts["text"])
        text = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT].rstrip()} …"
        audio, unheard = _heard(facts.get("audio")) if listen else (None, "")
        labels = _largest_shares(targets.support, shares, shares.shape[1] if grid else MOST_LABELS)
        grids = tuple(map(_grid_rows, shares)) if grid else ()
        examples.append(Example(str(item), counted(votes, "vote"), text, audio, unheard, labels, grids))
    return tuple(examples)


def _heard(audio: Any) -> tuple[dict[str, str] | None, str]:
    """The audio of an item, a file, a segment of one or what a dataset has embedded, for the page; or None, and why not."""
    embedded = isinstance(audio, Mapping)
    # Missing values are None or NaN.
    if not embedded and not isinstance(audio, str | os.PathLike):
        return None, say("examples.no_clip")
    path, content = (Path(audio["path"] or ""), audio["bytes"]) if embedded else (Path(audio), None)
    if content is None and not path.is_file():
        return None, say("examples.not_here")
    if content is None and embedded:
        content, path = wav_bytes(audio), Path("segment.wav")
    size = path.stat().st_size if content is None else len(content)
    if size > LARGEST_CLIP:
        return None, say("examples.too_large", size=size)
    content = path.read_bytes() if content is None else content
    suffix = path.suffix.lower().removeprefix(".")
    # What a system calls its files differs, so it is not asked.
    kind = {"mp3": "mpeg", "opus": "ogg"}.get(suffix, suffix or "wav")
    return {"kind": f"audio/{kind}", "base64": base64.b64encode(content).decode("ascii")}, ""


def _largest_shares(support: Sequence[str], shares: np.ndarray, most: int) -> tuple[Share, ...]:
    """The `most` largest labels of `shares` `(series, K)` in the order of the support, and what the others have together."""
    kept = np.sort(np.argsort(-shares.sum(axis=0), kind="stable")[:most])
    rows = [Share(str(support[k]), tuple(shares[:, k].tolist())) for k in kept]
    left = len(support) - len(kept)
    if left:
        rest = np.maximum(1 - shares[:, kept].sum(axis=1), 0)
        rows.append(Share(say("examples.others", count=left), tuple(rest.tolist())))
    return tuple(rows)


def _grid_rows(probs: np.ndarray) -> tuple[tuple[float, ...], ...]:
    bins = round(len(probs) ** 0.5)
    return tuple(map(tuple, probs.reshape(bins, bins)[::-1].tolist()))
