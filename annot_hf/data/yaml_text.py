"""Strict YAML, in which a repeated key is an error; and what no output may contain: secrets, and control characters."""

import re
from typing import Any

import yaml

# A token of the Hub, a key of a server, user:password in an address.
SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-(?:[A-Za-z0-9]{20,}|(?:proj|ant|svcacct|or)-[\w-]{20,})|(?<=://)[^/@\s]+(?=@)"
)


def printable(text: str) -> str:
    """Text with a space for each control character, such as those that reverse the reading direction."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


class _Loader(yaml.SafeLoader):
    """The safe loader; it would silently keep the last of equal keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; raises on repeated keys."""
        lines: dict[tuple[str, Any], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                said = (key.tag, key.value)
                if said in lines:
                    where = f"given in line {lines[said]} and again in line {key.start_mark.line + 1}"
                    raise yaml.YAMLError(f"the key {key.value!r} is {where}; remove one")
                lines[said] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def read_yaml(text: str, name: str) -> Any:
    """Parse a YAML text.

    Args:
        text: The text.
        name: Its name in errors.

    Raises:
        ValueError: It is not YAML, repeats a key, or is nested too deeply.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise ValueError(f"{name} is not YAML: {error.problem or error.context}{line}.") from None
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply to be read; write it with fewer levels.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{name} is not YAML: {str(error).splitlines()[0]}.") from None
