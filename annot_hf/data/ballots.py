"""Votes as they are read from an export: one row a vote, what is known of the items, and what is left out and why."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from annot_hf.data.corpus import Finding
from annot_hf.data.questions import nearest
from annot_hf.data.records import cell_text

# What a column is called, in the order of preference; letter case, spaces and signs do not matter.
_ROLES = {
    "item": (
        "item item_id clip clip_id clip_name stimulus stimulus_id utterance utterance_id sample sample_id "
        "instance_id text_id sentence_id comment_id tweet_id post_id segment_id audio_id task_id example_id "
        "example_no example record_id file filename file_name audio audio_file audio_path wav wav_file path "
        "file_path recording id"
    ),
    "rater": (
        "annotator annotator_id rater rater_id coder coder_id judge judge_id worker worker_id labeler labeller "
        "labeler_id evaluator listener listener_id participant participant_id respondent user user_id username "
        "completed_by subject"
    ),
    "value": "value label vote answer rating response choice annotation category class",
    "question": "question question_id attribute dimension variable criterion",
    "text": "text sentence displayed_text transcript transcription content comment tweet body",
    "audio": "audio audio_file audio_path wav wav_file file filename file_name path file_path",
    "speaker": "speaker speaker_id spk spk_id actor actor_id voice talker",
    "group": "conversation conversation_id document document_id dialogue dialog thread group",
    "split": "split partition subset data_split set",
    "start": "start start_s start_sec start_seconds start_time onset",
    "end": "end end_s end_sec end_seconds end_time offset",
}
ROLES = {role: tuple(names.split()) for role, names in _ROLES.items()}
# Words in the names of columns that hold answers, one question each, where no column is called value or alike.
ANSWERS = (
    "emotion emotions sentiment valence arousal activation dominance power pleasure toxicity toxic offensive "
    "offensiveness hate humor humour sarcasm irony stance politeness intensity quality naturalness mos score"
).split()
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".aif", ".au", ".m4a", ".w64", ".caf")
ITEM_FACTS = ("text", "audio", "speaker", "group", "split")


def plain_name(name: str) -> str:
    """A column name in the form clip_name, as which it is known: without letter case, spaces and signs."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return re.sub(r"[\W_]+", "_", unicodedata.normalize("NFKC", name).casefold()).strip("_")


def find_role(role: str, names: Iterable[str], taken: Iterable[str] = ()) -> str | None:
    """The column that plays a role: the first of its usual names that is there and not taken."""
    known = {plain_name(name): name for name in reversed(list(names)) if name not in taken}
    return next((known[usual] for usual in ROLES[role] if usual in known), None)


def pick_column(asked: str, names: Iterable[str], where: str) -> str:
    """The column that the user asked for; its letter case and surrounding spaces do not matter."""
    names = list(names)
    if asked in names:
        return asked
    alike = [name for name in names if plain_name(name) == plain_name(asked)]
    if len(alike) != 1:
        raise ValueError(
            f"{where}: there is no column {asked!r}{nearest(asked, names)}; the columns are {', '.join(names[:20])}."
        )
    return alike[0]


def sound_path(reference: str) -> str:
    """The path in a reference to a clip: of an address or a server's upload folder, without what only that server needs."""
    parts = urlsplit(reference.strip().replace("\\", "/"))
    served = parse_qs(parts.query).get("d", [""])[0]
    path = served or (unquote(parts.path) if parts.scheme and parts.netloc else reference.strip().replace("\\", "/"))
    return re.sub(r"^(?:/?data/upload/(?:\d+/)?|/?data/local-files/|file://|[A-Za-z]:(?=/))", "", path).lstrip("/")


def is_sound(value: Any) -> bool:
    """Whether a value of a record is a reference to a clip."""
    return isinstance(value, str) and len(value) < 4096 and PurePosixPath(sound_path(value)).suffix.lower() in SOUNDS


@dataclass
class Ballots:
    """Votes while they are read: four columns of equal length, facts about items, and what is left out by reason.

    Attributes:
        values: The answer as it is written; None is "none of the labels" of a question with several answers.
        multiple: Questions to which a rater may give several answers.
        facts: What is known of each item: text, audio, speaker, group, split, and of a segment start and end (s).
        divided: Clips of which raters marked segments, which are items of their own.
        forms: Answers whose kind is known only when all are read, as item, rater, question and what was filled in.
        wanted: Columns that the user named, by role.
        columns: Which columns of a table were taken for what.
    """

    wanted: Mapping[str, Sequence[str]] = field(default_factory=dict)
    items: list[str] = field(default_factory=list)
    raters: list[str | None] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    values: list[str | None] = field(default_factory=list)
    multiple: set[str] = field(default_factory=set)
    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    divided: set[str] = field(default_factory=set)
    forms: list[tuple[str, str | None, str, dict[str, str]]] = field(default_factory=list)
    left_out: dict[str, Finding] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)

    def vote(self, item: str, rater: str | None, question: str, value: str | None) -> None:
        """Add one vote."""
        self.items.append(item)
        self.raters.append(rater)
        self.questions.append(question)
        self.values.append(value)

    def answer(self, item: str, rater: str | None, question: str, values: list[str]) -> None:
        """Add all answers of one rater on one item; blank ones and labels that are repeated are left out."""
        given, values = len(values), [value for value in values if value.strip()]
        self.leave("answers that are blank", item, votes=0, count=given - len(values))
        distinct = list(dict.fromkeys(values))
        if len(distinct) > 1:
            self.multiple.add(question)
        for value in distinct:
            self.vote(item, rater, question, value)
        further = len(values) - len(distinct)
        self.leave("labels that a rater repeats on an item, such as of several regions", item, further, further)

    def answers(self, item: str, rater: str | None, question: str, values: list[Any]) -> None:
        """Add the answer that is a list: all of it, or "none of the labels" if it is empty."""
        if not values:
            self.multiple.add(question)
            self.vote(item, rater, question, None)
        self.answer(item, rater, question, list(map(cell_text, values)))

    def leave(
        self, reason: str, examples: str | Iterable[str], votes: int = 1, count: int = 1, most: int | None = 3
    ) -> None:
        """Count what is left out, if anything, and keep the first examples, all if `most` is None."""
        if count or votes:
            found = self.left_out.get(reason, Finding(reason, 0))
            names = dict.fromkeys((*found.examples, *([examples] if isinstance(examples, str) else examples)))
            kept = tuple(name for name in names if name)[:most]
            self.left_out[reason] = Finding(reason, found.count + count, found.votes + votes, kept)

    def about(self, where: str, item: str, facts: Mapping[str, Any]) -> None:
        """Record facts about an item; raises if they contradict what another record says of it."""
        known = self.facts.setdefault(item, {})
        for name, value in facts.items():
            said = cell_text(value) if name == "text" else cell_text(value).strip()
            if said and known.setdefault(name, said) != said:
                raise ValueError(
                    f"{where}: item {item!r} has {name} {said!r:.60}, and {known[name]!r:.60} before; give each item one "
                    f"{name}, and two items two names."
                )

    def segment(self, clip: str, start: Any, end: Any, item: str = "") -> str:
        """The item of a clip from `start` to `end` (s), to 10 ms; its facts are those of the clip, and so is `item`, if given.

        Raises:
            ValueError: That is no stretch of time.
        """
        low, high = round(float(start), 2), round(float(end), 2)
        if not 0 <= low <= high < float("inf"):
            raise ValueError(f"a region of {clip!r} goes from {start} to {end} s; correct its times")
        times = {"start": f"{low:.2f}", "end": f"{high:.2f}"}
        if item:
            self.facts[item] |= times
            return item
        self.divided.add(clip)
        item = f"{clip}#{low:.2f}-{high:.2f}"
        self.facts.setdefault(item, self.facts[clip] | times)
        return item

    def place(self, where: str, own: Any, record: Mapping[str, Any], further: Mapping[str, Any] | None = None) -> str:
        """The item of a tool's record, by the column of the user, its clip or its own name; its facts are recorded.

        `record` is what was shown to raters, `further` what else is stated of it.
        """
        fields = {**(further or {}), **record}
        facts = {}
        for role in ITEM_FACTS:
            if named := self.wanted.get(role):
                facts[role] = fields.get(named[0])
            elif role != "audio" and (name := find_role(role, fields)) is not None:
                facts[role] = fields[name]
        if not facts.get("audio"):
            facts["audio"] = next((value for value in fields.values() if is_sound(value)), None)
        if facts["audio"]:
            facts["audio"] = sound_path(cell_text(facts["audio"]))
        if is_sound(facts.get("text")):
            del facts["text"]
        named = self.wanted.get("item")
        own = fields.get(named[0]) if named else facts["audio"] or own
        item = cell_text(own).strip()
        if not item:
            raise ValueError(f"{where} has no name of its item; name the field that holds it as --item.")
        self.about(where, item, {name: value for name, value in facts.items() if not isinstance(value, list | dict)})
        return item
