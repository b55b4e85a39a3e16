"""ConvAbuse: turns of people who talk to chatbots, each rated by some of eight named raters for abuse.

The file has one row per response. Five fields together identify a turn (conversation, the two previous turns, the agent's
turn, the user's turn). The severity answers two questions: `severity`, an ordinal scale from 1 (not abusive) down to -3 (very
strongly abusive), and `severity_class`, the same five values as labels; `abusive` asks whether it is below 0, as LeWiDi 2023.
"""

import hashlib
from functools import cached_property

import numpy as np
import pandas as pd

from annot_hf.data.corpus import VoteCorpus, split_by_group
from annot_hf.data.encoding import csv_frame, refuse_row
from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable

KEY = ("conv_id", "prev_agent", "prev_user", "agent", "user")
SEVERITIES = {
    1: "not abusive",
    0: "ambiguous",
    -1: "mildly abusive",
    -2: "strongly abusive",
    -3: "very strongly abusive",
}
FLAGS = {
    "type": ("ableism", "homophobic", "intellectual", "racist", "sexist", "sex_harassment", "transphobic"),
    "target": ("generalised", "individual", "system"),
    "direction": ("explicit", "implicit"),
}
# Upstream marks an absent turn with this.
NOTHING = "_"
FILE = "ConvAbuseEMNLPfull.csv"


class ConvAbuse(VoteCorpus):
    """Reader of the full release, one row per response, plain or gzip."""

    name = "convabuse"
    version = "1.0.0"
    license = "cc-by-4.0"
    language = "en"
    shareable = "everything"
    homepage = "https://github.com/amandacurry/convabuse"
    access = "Free under CC BY 4.0. The turns are real and contain abusive language."
    citation = (
        "Cercas Curry, Abercrombie, Rieser: ConvAbuse: Data, Analysis, and Benchmarks for Nuanced Abuse Detection in "
        "Conversational AI. EMNLP 2021, 7388-7403. https://aclanthology.org/2021.emnlp-main.587"
    )
    questions = (
        Question.category("severity_class", SEVERITIES.values()),
        Question.scale("severity", -3, 1),
        Question.category("abusive", ["not abusive", "abusive"]),
        *(Question.category(name, labels, multiple=True) for name, labels in FLAGS.items()),
    )
    default_questions = ("severity_class",)

    def read_items(self) -> pd.DataFrame:
        """One row per turn; `text` is the user's turn and then, line by line, the previous turns, the latest first."""
        turns = self._responses.drop_duplicates("item").reset_index(drop=True)
        items = turns[["item", "bot", *KEY[1:]]].rename(columns={"user": "turn"})
        items.insert(1, "conversation", turns["conv_id"])
        items.insert(1, "text", [render(*turn) for turn in turns[list(KEY[1:])].to_numpy()])
        items = items.rename(columns={"turn": "user"})
        self.note(
            f"turns whose words are upstream's sign {NOTHING!r} for nothing, kept",
            list(turns["item"][turns["user"] == NOTHING]),
            expected=True,
        )
        return items.assign(split=split_by_group(items["conversation"]))

    def read_votes(self) -> VoteTable:
        """The severity as a class and as a number, and the kind of abuse in turns found abusive."""
        table = self._responses
        flags = table[[f"is_abuse.{level}" for level in SEVERITIES]].to_numpy() == "1"
        rated = flags.sum(axis=1) == 1
        self.note(
            "responses without exactly one severity",
            list("row " + table["row"][~rated].astype(str)),
            votes=3 * int((~rated).sum()),
        )
        level = np.array(list(SEVERITIES))[flags.argmax(axis=1)]
        self._note_repeats(table[rated], level[rated])
        self.note("severities that are a vote on a class, on a scale and on abusive", int(rated.sum()), expected=True)
        severity = pd.Series(level[rated])
        abusive = pd.Series(np.where(severity < 0, "abusive", "not abusive"))
        by_label = {"severity_class": severity.map(SEVERITIES), "severity": severity, "abusive": abusive}
        tables = [self._votes(name, table[rated], value) for name, value in by_label.items()]
        for name, labels in FLAGS.items():
            chosen = table[[f"{name}.{label}" for label in labels]].to_numpy() == "1"
            several, abusive = chosen.sum(axis=1), rated & (level < 0)
            self.note(f"{name}: flags of turns not called abusive, kept", int(several[~abusive].sum()), expected=True)
            none = abusive & (several == 0)
            self.note(f"{name}: no flag on a turn called abusive, a vote for none", int(none.sum()), expected=True)
            row, label = np.nonzero(np.column_stack([chosen, none]))
            value = np.array([*labels, None], dtype=object)[label]
            if len(row):
                tables.append(self._votes(name, table.iloc[row], value))
        return VoteTable.concat(tables)

    def _votes(self, question: str, rows: pd.DataFrame, value: pd.Series | np.ndarray) -> VoteTable:
        """Votes on one question; a rater who was shown a turn again votes again."""
        asked = next(one for one in self.questions if one.name == question)
        return VoteTable.from_columns(
            asked, item=rows["item"], annotator=rows["annotator_id"], value=value, duplicates="keep", where=FILE
        )

    def _note_repeats(self, table: pd.DataFrame, level: np.ndarray) -> None:
        """Note the turns that raters saw again, a test of their consistency."""
        first = table.assign(level=level).groupby(["item", "annotator_id"])["level"].transform("first")
        repeated = table.duplicated(["item", "annotator_id"])
        self.note("responses of a rater to a turn rated before, kept", int(repeated.sum()), expected=True)
        others = int((repeated & (first != level)).sum())
        self.note("of these, with another severity than the first", others, expected=True)

    @cached_property
    def _responses(self) -> pd.DataFrame:
        """The file as text, with the turn's name as `item`."""
        path = self.label_file(*(f"{folder}{FILE}{zipped}" for folder in ("", "1_full/") for zipped in ("", ".gz")))
        marks = [f"is_abuse.{level}" for level in SEVERITIES]
        marks += [f"{name}.{label}" for name, labels in FLAGS.items() for label in labels]
        table = csv_frame(path, ["annotator_id", *KEY, "bot", *marks])
        for name in marks:
            refuse_row(path, table["row"], name, table[name], ~table[name].isin(["0", "1"]), "must be 0 or 1")
        unnamed = table["annotator_id"].str.strip() == ""
        refuse_row(path, table["row"], "annotator_id", table["annotator_id"], unnamed, "must name the rater")
        names = {key: item_name(*key) for key in set(zip(*(table[field] for field in KEY), strict=True))}
        table["item"] = [names[key] for key in zip(*(table[field] for field in KEY), strict=True)]
        return table


def item_name(*key: str) -> str:
    """The conversation and ten hexadecimal digits of a digest of the five fields, so that the name of a turn is stable."""
    digest = hashlib.sha256("\x1f".join(key).encode()).hexdigest()
    return f"{key[0]}-{digest[:10]}"


def render(prev_agent: str, prev_user: str, agent: str, user: str) -> str:
    r"""The turn with its context, the latest turn first, so that truncation removes the oldest.

    Example:
        >>> render("_", "hi", "Hello. Who are you?", "nobody")
        'user: nobody\nagent: Hello. Who are you?\nuser: hi'
    """
    before = (("agent", agent), ("user", prev_user), ("agent", prev_agent))
    return "\n".join([f"user: {user}", *(f"{who}: {said}" for who, said in before if said != NOTHING)])
