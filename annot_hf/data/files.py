"""Files and folders: names that may not be trusted, what may be overwritten, and writing whole or not at all."""

import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

# A folder has this file while it is written.
FOLDER_LOCK = ".lock"
# The line that a README.md of ours has.
CARD_MARK = "<!-- Written by annot-hf, which would write it anew; remove this line if you edit it. -->"


def imitates_parent(name: str) -> bool:
    """Whether a part of the path is `..` in signs that only look like full stops, such as U+2024, U+2025 and U+FF0E."""
    return ".." in unicodedata.normalize("NFKC", name).split("/") and ".." not in name.split("/")


def check_name(name: str, root: str | os.PathLike) -> None:
    """Raise unless `name`, from files that are not trusted, is a plain relative path, which need not exist."""
    text = os.fspath(name) if isinstance(name, str | os.PathLike) else ""
    # Full-width and two-dot look-alikes become what they imitate.
    plain = unicodedata.normalize("NFKC", text)
    rules = {
        "is not a file name": not plain.strip() or os.path.normpath(plain) == ".",
        "has control characters": any(unicodedata.category(character) == "Cc" for character in text),
        "has a backslash": "\\" in plain,
        "starts with a drive or a URL scheme": re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", plain) or "::" in plain,
        "is not relative": plain.startswith(("/", "~")),
        f"writes '..' in look-alikes ({ascii(text)[1:-1]})": imitates_parent(text),
        "leads to a parent folder": ".." in plain.split("/"),
    }
    for rule, broken in rules.items():
        if broken:
            raise ValueError(f"The path {name!r} {rule}; it must be a plain relative path inside {os.fspath(root)}.")


def resolve_inside(root: str | os.PathLike, name: str, *, follow_links: bool = False) -> Path:
    """The file `name` under `root`; raises when the name leads elsewhere, by a link unless links are followed."""
    check_name(name, root)
    base = Path(os.path.realpath(root))
    path = Path(os.path.realpath(base / name))
    # In the Hub's cache, `snapshots/REVISION/x` links to `blobs/DIGEST` of the same repository.
    blobs = [above.parents[1] / "blobs" for above in (base, *base.parents) if above.parent.name == "snapshots"]
    if follow_links or any(path.is_relative_to(folder) for folder in (base, *blobs)):
        return path
    raise ValueError(
        f"The path {name!r} is a link out of {os.fspath(root)}, to {path}; if that is meant, export with follow_links "
        "(--follow-links)."
    )


@contextmanager
def replace_folder(out: str | os.PathLike, *, marker: str, kind: str, entries: Sequence[str]) -> Iterator[Path]:
    """Write a folder in one step: yields a temporary sibling that replaces `out` when the block succeeds.

    An earlier one must have the entry `kind` in its JSON file `marker` and nothing but `entries`. Remains of a killed process
    are removed; if only the earlier folder is left, it is restored.
    """
    out = Path(out).resolve()
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; pass a new folder.")
    _clear_leftovers(out, marker, kind)
    if out.is_dir() and any(out.iterdir()):
        foreign = sorted(entry.name for entry in out.iterdir() if entry.name not in (*entries, FOLDER_LOCK))
        if foreign or _marker_entries(out / marker).get("kind") != kind:
            what = f"it holds {', '.join(foreign[:3])}" if foreign else f"it has no {marker} of that kind"
            raise ValueError(f"{out} is not an earlier {kind} ({what}) and is left alone; pass a new or empty folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    place = {"prefix": f".{out.name}.", "dir": out.parent, "ignore_cleanup_errors": True}
    with tempfile.TemporaryDirectory(**place) as name, FileLock(Path(name) / FOLDER_LOCK):
        fresh, old = Path(name), Path(f"{name}.old")
        fresh.chmod(0o755)
        yield fresh
        if out.exists():
            out.rename(old)
        try:
            fresh.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
        (out / FOLDER_LOCK).unlink(missing_ok=True)
    shutil.rmtree(old, ignore_errors=True)


def _marker_entries(path: Path) -> dict[str, Any]:
    """The entries of a JSON file; none if it is absent, damaged or not an object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _clear_leftovers(out: Path, marker: str, kind: str) -> None:
    """Remove what a killed process left next to `out`: a folder with a lock file, or the folder that was being replaced."""
    names = f".{glob.escape(out.name)}.????????"
    for left in out.parent.glob(names):
        if (left / FOLDER_LOCK).is_file():
            try:
                with FileLock(left / FOLDER_LOCK, blocking=False):
                    shutil.rmtree(left, ignore_errors=True)
            except Timeout:
                raise ValueError(f"Another process is writing {out}; wait for it, or pass another folder.") from None
    for left in out.parent.glob(f"{names}.old"):
        if _marker_entries(left / marker).get("kind") != kind:
            continue
        if out.exists():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.rename(out)


def check_own(folder: str | os.PathLike, names: Sequence[str], *, marker: str, keys: Sequence[str]) -> None:
    """Raise unless files and folders of these names are absent, empty, or ours: then the JSON file `marker` has the keys."""
    folder = Path(folder)
    paths = {name: folder / name for name in names}
    taken = [name for name, path in paths.items() if path.exists() and (path.is_dir() or path.stat().st_size)]
    if taken and not set(keys) <= _marker_entries(folder / marker).keys():
        raise ValueError(
            f"{folder} holds {taken[0]}, which this package did not write and which would be overwritten; name another "
            "folder, or move it away."
        )


def replace_file(path: Path, write: Callable[[Path], Any]) -> str:
    """Let `write` fill a temporary sibling that then replaces `path` in one step; returns its SHA-256."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        write(partial)
        digest = file_sha256(partial)
        partial.chmod(0o644)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return digest


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; a ValueError if it is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8.") from None


def is_own_card(path: Path) -> bool:
    """Whether a README.md is ours to write anew: a person who edits it removes its mark."""
    return path.is_file() and CARD_MARK in path.read_text(encoding="utf-8", errors="replace")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
