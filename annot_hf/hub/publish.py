"""Publish a model, a corpus, a Space or a metric: what may leave of a folder, in one commit that makes it complete."""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from accelerate import PartialState
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from annot_hf import __version__
from annot_hf.hub.cards import write_model_card
from annot_hf.hub.contents import ALLOWED, MARKERS, Contents, address_card, gather
from annot_hf.models.access import said
from annot_hf.training.checkpoints import read_facts
from annot_hf.training.recipe import Run
from annot_hf.training.train import TrainingResult, train

# Files from this size up (bytes) go ahead of the commit, so that one that was sent is not sent again.
_LARGE = 1_000_000
# The Hub's name of a kind, where it has another.
_REPO_TYPES = {"metric": "space"}
# What its client raises: it was refused, it was cut off, or the file or the token cannot be read.
_FAILURES = (HfHubHTTPError, HTTPError, OSError, RuntimeError)


@dataclass(frozen=True)
class Published:
    """What `publish` did, or would do.

    Attributes:
        sizes: The size of each file of the publication (bytes), by its name in the repository.
        unchanged: Names of those that the repository held already.
        removed: Names of files of an earlier publication that are removed.
        left: Names of files of the folder that stay here.
        notes: What was changed in copies, or left out of them.
        url: Address of the repository; empty for a dry run.
        commit: The commit; empty if nothing had changed, or for a dry run.
    """

    kind: str
    sizes: dict[str, int]
    unchanged: tuple[str, ...]
    removed: tuple[str, ...]
    left: tuple[str, ...]
    notes: tuple[str, ...]
    url: str = ""
    commit: str = ""

    def rows(self) -> list[tuple[str, str, str]]:
        """Rows to print: (what, how large, remark)."""
        there = set(self.unchanged)
        rows = [(name, _size(size), "there already" if name in there else "") for name, size in self.sizes.items()]
        rows += [(name, "", "removed, as it is no longer part of it") for name in self.removed]
        rows.append(("in all", _size(sum(self.sizes.values())), f"{len(self.sizes):,} files"))
        stays = f"{', '.join(self.left[:3])}{', ...' if len(self.left) > 3 else ''}"
        rows += [("stays here", f"{len(self.left):,} files", stays)] if self.left else []
        return rows


def _size(size: int) -> str:
    """A number of bytes in words."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def publish(
    folder: str | os.PathLike[str],
    repository: str,
    *,
    kind: str = "",
    private: bool = True,
    dry_run: bool = False,
    keep_raters: bool = False,
    license: str = "",
    branch: str | None = None,
    report: str | os.PathLike[str] | None = None,
) -> Published:
    """Put what may leave of a folder into a repository of the Hub, which is created if there is none.

    Files that the repository holds already are not sent again. Large ones go first; one commit at the end makes the
    publication complete, so that a repository never holds half of it. If it is cut off, the same call continues.

    Args:
        folder: Checkpoint folder, exported corpus, or folder of a Space or of a module for `evaluate.load`.
        repository: Its id, such as "me/mine".
        kind: "model", "dataset", "space" or "metric"; found by what is in the folder by default.
        private: Whether a repository that is created is private. True refuses one that is there and public.
        dry_run: Only say what would go up; the Hub is not asked.
        keep_raters: Leave rater ids as they are; by default they are replaced by others (see `pseudonyms`).
        license: For a corpus whose script states nothing: the licence under which its owner passes on clips and texts. Without
            it, votes alone go up.
        branch: Branch to commit to, which must be there; the main one by default.
        report: Folder of the report of a model, whose results go into its card first (see `write_model_card`); a model without
            a card gets one.

    Raises:
        ValueError: The folder is not fit to be published (see `gather`), or the Hub cannot be reached or refuses.
    """
    folder = Path(folder)
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ValueError(f"{repository!r} is no id of a repository ({error}); give one such as me/mine.") from error
    if report is not None or ("corpus" in read_facts(folder) and not (folder / "README.md").exists()):
        write_model_card(folder, report)
    with tempfile.TemporaryDirectory() as scratch:
        contents = gather(folder, kind, Path(scratch), keep_raters=keep_raters, license=license)
        _check_module(contents, repository)
        if not dry_run:
            repository = open_repository(repository, contents.kind, private=private, sdk=contents.sdk)
        contents = address_card(contents, repository, branch, Path(scratch))
        sizes = {name: path.stat().st_size for name, path in contents.files.items()}
        about = {"kind": contents.kind, "sizes": sizes, "left": contents.left, "notes": contents.notes}
        if dry_run:
            return Published(**about, unchanged=(), removed=())
        place = _REPO_TYPES.get(contents.kind, contents.kind)
        if not private and HfApi().repo_info(repository, repo_type=place).private:
            stays = f"{repository} was there before and stays private; its settings on the Hub make it public"
            about["notes"] = (*contents.notes, stays)
        return _upload(contents, repository, branch, about)


def _check_module(contents: Contents, repository: str) -> None:
    """A metric's module has the name of its repository, or `evaluate.load` does not find it."""
    module = f"{repository.rsplit('/', 1)[-1]}.py"
    if contents.kind == "metric" and module not in contents.files:
        raise ValueError(
            f"evaluate.load({repository!r}) would read {module}, and there is none in the folder; name the repository after "
            "the module."
        )


def open_repository(repository: str, kind: str, *, private: bool = True, sdk: str | None = None) -> str:
    """The full id of a repository that may be written to, which is created if there is none.

    Raises:
        ValueError: Nobody is logged in, the repository is another's, holds something else, or is public and `private` is True.
    """
    api, repo_type = HfApi(), _REPO_TYPES.get(kind, kind)
    try:
        me = api.whoami()
        owner, _, name = repository.rpartition("/")
        mine = [me["name"], *(one["name"] for one in me.get("orgs", ()) if one.get("roleInOrg") != "read")]
        if (owner or me["name"]) not in mine:
            raise ValueError(
                f"{repository} belongs to somebody else, as you are logged in as {me['name']}; publish to {me['name']}/{name}."
            )
        repository = f"{owner or me['name']}/{name}"
        if api.repo_exists(repository, repo_type=repo_type):
            about = api.repo_info(repository, repo_type=repo_type)
            if private and not about.private:
                raise ValueError(
                    f"The repository {repository} is public; pass --public (hub_private_repo=false of a run) if what you "
                    "publish may be, or name another."
                )
            held = {one.rfilename for one in about.siblings or ()} - {".gitattributes", "README.md"}
            if held and MARKERS[kind] not in held:
                raise ValueError(f"The repository {repository} holds something else ({min(held)}); name another.")
        else:
            api.create_repo(repository, repo_type=repo_type, private=private, exist_ok=True, space_sdk=sdk)
    except _FAILURES as error:
        raise _refused(error, repository) from error
    return repository


def _upload(contents: Contents, repository: str, branch: str | None, about: dict[str, Any]) -> Published:
    """Send what the repository does not hold yet, and commit."""
    api, place = HfApi(), {"repo_type": _REPO_TYPES.get(contents.kind, contents.kind), "revision": branch}
    sent: list[str] = []
    try:
        parent = api.repo_info(repository, **place).sha
        listed = api.list_repo_tree(repository, recursive=True, **place)
        tree = {one.path: one for one in listed if isinstance(one, RepoFile)}
        adding = [CommitOperationAdd(name, path) for name, path in contents.files.items()]
        changed = [one for one in adding if one.path_in_repo not in tree or not _is(tree[one.path_in_repo], one)]
        old = [name for name in tree if name not in contents.files]
        gone = [name for name in old if any(fnmatch(name, rule) for rule in ALLOWED[contents.kind])]
        unchanged = contents.files.keys() - {one.path_in_repo for one in changed}
        url = f"{api.endpoint}/{constants.REPO_TYPES_URL_PREFIXES.get(place['repo_type'], '')}{repository}"
        done = {"unchanged": tuple(sorted(unchanged)), "removed": tuple(gone), "url": url}
        if not changed and not gone:
            return Published(**about, **done)
        for one in sorted(changed, key=lambda one: -one.upload_info.size):
            if one.upload_info.size < _LARGE:
                break
            api.preupload_lfs_files(repository, [one], **place)
            # the library lets go of a file that was sent; one of plain text waits for the commit
            sent += [] if one.path_or_fileobj else [one.path_in_repo]
        commit = api.create_commit(
            repository,
            [*changed, *map(CommitOperationDelete, gone)],
            commit_message=f"Publish with annot-hf {__version__}",
            parent_commit=parent,
            **place,
        )
    except _FAILURES as error:
        raise _refused(error, repository, sent) from error
    return Published(**about, **done, commit=commit.oid)


def _is(held: RepoFile, file: CommitOperationAdd) -> bool:
    """Whether the repository holds a file with this content."""
    if held.lfs is not None:
        return held.lfs.sha256 == file.upload_info.sha256.hex()
    if held.size != file.upload_info.size:
        return False
    with file.as_file() as content:
        return held.blob_id == hashlib.sha1(b"blob %d\0" % held.size + content.read()).hexdigest()


def _refused(error: BaseException, repository: str, sent: Sequence[str] = ()) -> ValueError:
    """Why the Hub did not take a publication, in a sentence."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return ValueError(f"The Hub does not know who publishes {repository}; log in (hf auth login), or set HF_TOKEN.")
    if status == 403:
        return ValueError(
            f"The Hub does not let you write to {repository} ({_told(error)}); use a token that may write."
        )
    if status == 412:
        return ValueError(f"{repository} was changed by somebody else meanwhile; publish again.")
    if status is not None and status < 500:
        return ValueError(f"The Hub did not take {repository} ({status}: {_told(error)}); nothing is published.")
    if is_offline_mode():
        return ValueError(f"{repository} cannot be reached, as HF_HUB_OFFLINE is set; unset it to publish.")
    kept = f"{len(sent)} large files were sent and are kept" if sent else "nothing was sent"
    while error.__cause__ is not None:
        error = error.__cause__
    return ValueError(
        f"The connection to the Hub failed ({said(error)}); {kept}, and nothing is published: the same command continues."
    )


def _told(error: HfHubHTTPError) -> str:
    return said(ValueError(error.server_message or error))


def train_and_push(run: Run, *, resume: bool = False) -> TrainingResult:
    """`train`, write the model's card, and `publish` the model of a recipe with push_to_hub.

    Whether it may be published is known before training starts.

    Raises:
        ValueError: As `train` and `publish`; a trained model stays in its folder.
    """
    asked, main = run.training, PartialState().is_main_process
    repository = asked.hub_model_id or Path(asked.output_dir).absolute().name
    private = asked.hub_private_repo is not False
    if run.pushes and main:
        repository = open_repository(repository, "model", private=private)
    result = train(run.unpushed, resume=resume)
    if main:
        write_model_card(result.model)
    if run.pushes and main:
        try:
            publish(result.model, repository, private=private, branch=asked.hub_revision)
        except ValueError as error:
            fix = f"annot-hf publish {result.model} {repository}"
            raise ValueError(f"{result.model} is trained and not published: {error} Publish it with {fix}.") from error
    return result
