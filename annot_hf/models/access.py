"""What may not be there, or not as it should be: files, models and corpora on the Hub, packages that few need."""

import importlib
import json
import os
import re
import reprlib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from huggingface_hub import is_offline_mode
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# What is downloaded: what this package reads, and no code, which it would not run.
_READ = {
    "model": {
        "allow_patterns": ["*.safetensors", "*.json", "*.txt", "*.model", "*.codes", "*.jinja"],
        "ignore_patterns": "*/*",
    },
    "dataset": {"allow_patterns": ["corpus.json", "*/*.parquet"]},
}
_INSTEAD = {"model": "give a checkpoint folder", "dataset": "give the folder of an exported corpus"}


def not_readable(source: str | os.PathLike[str], error: BaseException, revision: str | None, give: str) -> ValueError:
    """The error to raise where a library could not read `source`, neither a folder nor at hand; `give` ends most messages."""
    name, causes = os.fspath(source), list(_causes(error))

    def is_a(*kinds: type[BaseException]) -> bool:
        return any(isinstance(one, kinds) for one in causes)

    # the first of these is one of the second
    if is_a(GatedRepoError):
        return ValueError(f"{name!r} is gated; ask for access on its page of the Hub, and log in (hf auth login).")
    if is_a(RepositoryNotFoundError):
        return ValueError(
            f"There is neither a folder nor a repository {name!r}; correct the name, or log in (hf auth login) if it is "
            "private."
        )
    if is_a(RevisionNotFoundError):
        return ValueError(f"{name!r} has no revision {revision!r} on the Hub; give a branch, tag or commit of it.")
    asked = repr(name) if revision is None else f"{name!r} at {revision}"
    answered = next((one for one in causes if isinstance(one, HfHubHTTPError)), None)
    cut = is_a(HTTPError) and answered is None
    if (cut or is_a(LocalEntryNotFoundError, OfflineModeIsEnabled)) and not is_a(HFValidationError):
        why = "HF_HUB_OFFLINE is set" if is_offline_mode() else "the Hub cannot be reached"
        return ValueError(f"There is no folder {asked}, it is not in the cache, and {why}; {give}, or go online.")
    if answered is not None:
        said = f"{answered.response.status_code} {answered.server_message or ''}".strip()
        return ValueError(f"The Hub did not give {asked} ({said}); try again later, or {give}.")
    return ValueError(f"There is no checkpoint {asked}; {give}.")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def needs(package: str, extra: str, what: str) -> ModuleType:
    """Import a package that an extra installs; `what`, such as "Adapters need", begins the error if it is not there.

    Raises:
        ValueError: It is not installed; the message names the package and the extra.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{what} the package {error.name}, which is not installed; pip install 'annot-hf[{extra}]'."
        ) from error


def find_folder(
    source: str | os.PathLike[str], kind: Literal["model", "dataset"], *, revision: str | None = None
) -> Path:
    """The folder that `source` names: itself if it is there, else a download of the repository me/mine of the Hub.

    What is in the Hub's cache is not downloaded again. A path that is no repository id is returned as it is.

    Args:
        source: Folder, or owner and name of a repository, which may name the revision too, as me/mine@v2.
        kind: Which kind of repository.
        revision: Branch, tag or commit of the repository; its main branch by default.

    Raises:
        ValueError: There is neither a folder nor a repository that may be read, or not that revision, or the Hub is out of
            reach and has not been read before; or a folder is given a revision.
    """
    found = re.fullmatch(r"(\w[\w.-]*/[\w.-]+)(?:@(.+))?", os.fspath(source), re.ASCII)
    if os.path.exists(source) or not found:
        if revision is not None:
            raise ValueError(f"The revision is {revision!r}, and {source} is no repository of the Hub; leave it out.")
        return Path(source)
    name, said = found.groups()
    if said and revision is not None:
        raise ValueError(f"{source} names a revision, and so does {revision!r}; leave one out.")
    revision = said or revision
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, repo_type=kind, revision=revision, **_READ[kind]))
    except Exception as error:
        # Libraries raise many kinds of errors here.
        raise not_readable(name, error, revision, _INSTEAD[kind]) from error


def spoken(folder: Path) -> str:
    """A folder's path, or the id and the commit of a repository in the Hub's cache, as me/mine@COMMIT."""
    kind, *words = folder.parent.parent.name.split("--")
    if folder.parent.name == "snapshots" and kind in ("models", "datasets") and len(words) > 1:
        return f"{words[0]}/{'--'.join(words[1:])}@{folder.name}"
    return str(folder)


def read_object(path: Path, fix: str = "restore it") -> dict[str, Any]:
    """The object in a JSON file, or a ValueError that says what is there instead, and ends with the fix."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({said(error)}); {fix}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} cannot be read (it holds {reprlib.repr(found)} and no object); {fix}.")
    return found


def said(error: Exception) -> str:
    """An error's message on one line, shortened if it is long."""
    return textwrap.shorten(str(error), 300, placeholder=" ...").removesuffix(".") or type(error).__name__
