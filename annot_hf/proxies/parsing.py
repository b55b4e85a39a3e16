"""From a reply to a label of the question: strictly, and nothing is imputed."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

Kind = Literal["label", "refusal", "off-list", "echo", "empty"]
Parsing = Literal["strict", "published"]

# an answer may be announced, quoted, emphasised and closed with a full stop; it may not be argued for
_FRAME = re.compile(
    r"^(?:(?:the\s+)?(?:final\s+)?(?:answer|label|emotion|response)\s*(?::|=|\bis\b)\s*)?(?P<core>.*?)$",
    re.IGNORECASE | re.DOTALL,
)
_EDGES = " \t\r\n\"'`*_.,;:!?()[]{}<>“”‘’«»„。、，！？：；「」『』"  # no minus: "-1" is a label of its own
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am)\s+(?:sorry|unable|not able)|i\s+(?:can(?:'t|not| not)|could(?:n't| not)|won't|will not)|unable to|"
    r"cannot\s+(?:answer|determine|assist|help|process|hear)|as an ai|not (?:able|allowed) to|no audio)\b",
    re.IGNORECASE,
)
_ECHO = 40  # characters in a row that stand in the prompt too


def parse_reply(
    reply: str | None, labels: Sequence[str], *, prompt: str = "", parsing: Parsing = "strict", cut: bool = False
) -> tuple[Kind, int]:
    """What kind of reply it is, and the index of its label, -1 if it is none.

    "strict": the reply is one label, whatever its case, perhaps announced ("Answer: joy"), quoted, emphasised or closed
    with a full stop. Anything else is no vote: a reply that names two labels, negates one, or argues is "off-list", so that a
    label inside another's name ("happy" in "unhappy") is never taken for it.
    "published": the rule of arXiv 2601.14620: an exact match, or else the first label, in the order of the question, that
    the reply contains.

    Args:
        reply: What the model wrote.
        labels: Labels of the question.
        prompt: What it was asked; a reply that repeats 40 characters of it or more is an "echo", unless it is a label.
        parsing: Which rule.
        cut: Whether the reply ended for want of tokens: what is the beginning of another label is then no label.

    Returns:
        Kind, and label index or -1.

    Example:
        >>> parse_reply("**Unhappy.**", ["happy", "unhappy"])
        ('label', 1)
        >>> parse_reply("not happy", ["happy", "unhappy"])
        ('off-list', -1)
    """
    if reply is None or not reply.strip(_EDGES):
        return "empty", -1
    known = {_plain(label): index for index, label in enumerate(labels)}
    core = _FRAME.match(reply.strip(_EDGES))["core"]
    for text in (reply, core):
        found = known.get(_plain(text))
        if found is not None:
            longer = any(label != _plain(text) and label.startswith(_plain(text)) for label in known)
            return ("off-list", -1) if cut and longer else ("label", found)
    whole = _plain(reply)
    contained = next((index for label, index in known.items() if label in whole), None)
    if parsing == "published" and contained is not None:
        return "label", contained
    if _repeats(whole, _plain(prompt)):
        return "echo", -1
    if _REFUSAL.search(unicodedata.normalize("NFKC", reply).replace("’", "'")):
        return "refusal", -1
    return "off-list", -1


def ambiguous_labels(labels: Sequence[str]) -> tuple[str, str] | None:
    """Two labels that a reply could not tell apart, since only case or punctuation differs; None if there are none."""
    seen: dict[str, str] = {}
    for label in labels:
        if not _plain(label):
            return label, ""
        if _plain(label) in seen:
            return seen[_plain(label)], label
        seen[_plain(label)] = label
    return None


def _plain(text: str) -> str:
    """Case, width, white space and the punctuation around it make no difference."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().strip(_EDGES).split())


def _repeats(reply: str, prompt: str) -> bool:
    """Whether `_ECHO` characters in a row of the reply stand in the prompt."""
    if not prompt or len(reply) < _ECHO:
        return False
    return any(reply[start : start + _ECHO] in prompt for start in range(len(reply) - _ECHO + 1))
