"""Read a label of the question from a reply; nothing is imputed."""

import re
import unicodedata
from collections.abc import Container, Sequence
from typing import Literal

from annot_hf.data.questions import Question

Kind = Literal["label", "refusal", "off-list", "echo", "empty"]
Parsing = Literal["strict", "published"]

# an answer may be announced, quoted, emphasised and end in a full stop; it may not be argued for
_FRAME = re.compile(
    r"^(?:(?:the\s+)?(?:final\s+)?(?:answer|label|emotion|response)\s*(?::|=|\bis\b)\s*)?(?P<core>.*?)$",
    re.IGNORECASE | re.DOTALL,
)
# no minus: "-1" is a label of its own
_EDGES = " \t\r\n\"'`*_.,;:!?()[]{}<>“”‘’«»„。、，！？：；「」『』"
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am)\s+(?:sorry|unable|not able)|i\s+(?:can(?:'t|not| not)|could(?:n't| not)|won't|will not)|unable to|"
    r"cannot\s+(?:answer|determine|assist|help|process|hear)|as an ai|not (?:able|allowed) to|no audio)\b",
    re.IGNORECASE,
)
# Consecutive characters that the prompt contains too.
_ECHO = 40
# Characters of an answer that are read, and of a reply that are kept.
LONGEST_REPLY = 10_000
# What models write around their thoughts: tags, tokens such as <|begin_of_thought|>, and those of Mistral, Kimi, gpt-oss and
# Gemma, the last two also as they are left when a server drops tokens.
_TAG = r"(?:(?:seed:)?think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad)"
_TOKEN = r"[^|<>]{0,20}(?:think|thought|reason)[^|<>]{0,20}\|>"
_THOUGHTS_BEGIN = re.compile(
    rf"<{_TAG}\b[^<>]{{0,40}}>|<\|{_TOKEN}|\[think\]|◁think▷|<\|channel\|?>|\Athought\n(?=\s*\S)", re.IGNORECASE
)
_THOUGHTS_END = re.compile(
    rf"</\s?{_TAG}\s?>|<\|(?=[^|<>]{{0,40}}(?:/|end)){_TOKEN}|\[/think\]|◁/think▷|<channel\|>|"
    r"<\|channel\|>\s?final\s?<\|message\|>|assistantfinal",
    re.IGNORECASE,
)
# around an answer: tokens that begin or end a turn, and a tag that says what it is
_TOKENS = re.compile(r"\A(?:\s*<\|\w{1,40}\|>)+|(?:<\|?\w{1,40}\|>\s*|</s>\s*)+\Z")
_ANSWER = re.compile(r"\s*<answer>(?P<core>[^<>]*)</answer>\s*", re.IGNORECASE)
# before an answer: the mark of a list, as the prompt lists the labels; "-1" is a label of its own
_LISTED = re.compile(r"(?P<mark>[-+•·–—]|#{1,6}|(?P<number>\d{1,3})[.)])[*_]*\s+")


def parse_reply(
    reply: str | None, labels: Sequence[str], *, prompt: str = "", parsing: Parsing = "strict", cut: bool = False
) -> tuple[Kind, int]:
    """Classify a reply, and return the index of its label, or -1 if it has none.

    "strict": the reply is one label, whatever its case, perhaps announced ("Answer: joy"), listed ("- joy", "1. joy"),
    quoted, emphasised or closed with a full stop. One that names two labels, negates one, or argues is "off-list".
    "published": the rule of arXiv 2601.14620: an exact match, or else the first label, in the order of the question, that
    the reply contains; of a reply that was cut off only an exact match, as it may be thoughts without their end.

    By either rule, the answer is what stands after any thoughts; where they never end, the reply is "empty". One that repeats
    40 characters of the prompt or more is an "echo", unless it is a label. `cut` says that it stopped at the limit of tokens:
    the beginning of another label is then no label.

    Example:
        >>> parse_reply("**Unhappy.**", ["happy", "unhappy"])
        ('label', 1)
        >>> parse_reply("not happy", ["happy", "unhappy"])
        ('off-list', -1)
        >>> parse_reply("<think>joy? no.</think> - anger", ["anger", "joy"])
        ('label', 0)
    """
    reply = _after_thoughts(reply or "")
    if not reply.strip(_EDGES):
        return "empty", -1
    known = {_plain(label): index for index, label in enumerate(labels)}
    core = _FRAME.match(reply.strip(_EDGES))["core"]
    for text in (reply, core, _unlisted(core, known)):
        found = known.get(_plain(text))
        if found is not None:
            longer = any(label != _plain(text) and label.startswith(_plain(text)) for label in known)
            return ("off-list", -1) if cut and longer else ("label", found)
    whole = _plain(reply)
    contained = next((index for label, index in known.items() if label in whole), None)
    if parsing == "published" and contained is not None and not cut:
        return "label", contained
    if _repeats(whole, _plain(prompt)):
        return "echo", -1
    if _REFUSAL.search(unicodedata.normalize("NFKC", reply).replace("’", "'")):
        return "refusal", -1
    return "off-list", -1


def check_labels(question: Question) -> None:
    """Raise a ValueError unless a reply can name each label of a question, and tell it from the others."""
    seen: dict[str, str] = {}
    for label in question.labels:
        plain, of = _plain(label), f"of question {question.name!r}"
        if not plain:
            raise ValueError(f"Label {label!r} {of} is punctuation only, which no reply can name; rename it.")
        if plain in seen:
            raise ValueError(
                f"Labels {seen[plain]!r} and {label!r} {of} differ in case or punctuation only, which a reply cannot tell "
                "apart; rename one."
            )
        seen[plain] = label


def _plain(text: str) -> str:
    """The text without differences in case, width, white space and surrounding punctuation."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().strip(_EDGES).split())


def _after_thoughts(reply: str) -> str:
    """The answer after the thoughts in a reply; "" if they do not end."""
    begin = 0
    for end in _THOUGHTS_END.finditer(reply):
        begin = end.end()
    answer = reply[begin:]
    if _THOUGHTS_BEGIN.search(answer):
        return ""
    answer = _TOKENS.sub("", answer[:LONGEST_REPLY])
    tagged = _ANSWER.fullmatch(answer)
    return tagged["core"] if tagged else answer


def _unlisted(core: str, known: Container[str]) -> str:
    """A reply without a list marker in front, unless marker and label may be a label together: "- 1", "1. 2"."""
    listed = _LISTED.match(core)
    if listed is None:
        return core
    rest = core[listed.end() :]
    return core if _plain(listed["mark"] + rest) in known or listed["number"] in known else rest


def _repeats(reply: str, prompt: str) -> bool:
    """Whether the prompt contains `_ECHO` consecutive characters of the reply."""
    if not prompt or len(reply) < _ECHO:
        return False
    return any(reply[start : start + _ECHO] in prompt for start in range(len(reply) - _ECHO + 1))
