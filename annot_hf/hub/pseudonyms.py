"""Other names for raters, which only the holder of a key can lead back."""

import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from huggingface_hub import constants

KEY_FILE = "annot-hf.key"


def pseudonyms(raters: Iterable[str], corpus: str) -> dict[str, str]:
    """A new name for each rater of a corpus: an HMAC-SHA256 of its name, the same in every publication from this machine.

    The key is drawn once and stays in the file annot-hf.key of HF_HOME. Without it, nobody can try names. A rater's name in a
    model is that in its corpus, and differs from that of a namesake in another corpus.
    """
    key, found = _salt(), {}
    for rater in raters:
        digest = hmac.digest(key, json.dumps([corpus, rater]).encode(), "sha256")
        found[rater] = f"rater-{digest.hex()[:16]}"
    return found


def _salt() -> bytes:
    """The key of this user, which is written on first use."""
    path = Path(constants.HF_HOME) / KEY_FILE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Readable for the user alone, and whole before it has its name.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="ascii") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            with suppress(FileExistsError):
                os.link(file.name, path)
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ValueError(f"{path}, the key of rater ids, is damaged; restore it, or remove it and accept new ids.")
    return key
