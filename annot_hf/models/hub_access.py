"""Why a checkpoint or a corpus cannot be read from the Hub, in one sentence."""

import os
from collections.abc import Iterator

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
