"""A model or a corpus by its folder or by its id on the Hub."""

import os
import re
from pathlib import Path
from typing import Literal

from annot_hf.models.hub_access import not_readable

# What is downloaded: what this package reads, and no code, which it would not run.
_READ = {
    "model": {
        "allow_patterns": ["*.safetensors", "*.json", "*.txt", "*.model", "*.codes", "*.jinja"],
        "ignore_patterns": "*/*",
    },
    "dataset": {"allow_patterns": ["corpus.json", "*/*.parquet"]},
}
_INSTEAD = {"model": "give a checkpoint folder", "dataset": "give the folder of an exported corpus"}


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
