"""The hub's own client: its token, and its errors in the kit's words. The token itself is never told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lowvram_ft import __version__
from lowvram_ft.errors import LowvramError, MachineError, ModelError, UsageError, cannot_write, is_disk_full

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LOGIN = "run: hf auth login, or set HF_TOKEN"
TOKENS = "https://huggingface.co/settings/tokens"
_AGAIN = "check the network, then run the same command again: what arrived is not sent again"


def open_api() -> HfApi:
    """The client, with the user's token where there is one.

    Raises:
        UsageError: the token cannot be sent in a header.
    """
    from huggingface_hub import HfApi

    token()
    return HfApi(library_name="lowvram-ft", library_version=__version__)


def token() -> str | None:
    """The user's token, from where ``huggingface_hub`` keeps it; None where there is none. To be told to nobody.

    Raises:
        UsageError: it cannot be sent in a header: httpx would print it in its error.
    """
    from huggingface_hub import get_token

    found = get_token()
    if found is not None and not (found.isascii() and found.isprintable() and " " not in found):
        raise UsageError(f"HF_TOKEN: holds characters that no token has; {LOGIN} anew")
    return found


def require_token() -> None:
    """Refuse to write without one.

    Raises:
        UsageError: there is none.
        MachineError: the client is told to stay offline.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise MachineError("hub: HF_HUB_OFFLINE is set, and a push needs the hub; unset it, or add --dry-run")
    if token() is None:
        raise UsageError(f"hub: no token, and a push needs one that may write; make one at {TOKENS}, then {LOGIN}")


@contextmanager
def errors_of(repo_id: str, place: str, *, writing: bool) -> Iterator[None]:
    """The client's errors as the kit's.

    Args:
        repo_id: the repository, for messages.
        place: the folder that files are written to, for messages.
        writing: whether something is sent.

    Raises:
        UsageError: the hub refuses the token, or what it may do.
        ModelError: there is no such repository or revision, or it is gated.
        MachineError: the hub cannot be reached, or the disk is full.
        LowvramError: the hub refuses what was sent.
    """
    try:
        yield
    except (LowvramError, KeyboardInterrupt):
        raise
    except Exception as error:
        told = _told(repo_id, place, error, writing)
        if told is None:
            raise
        # the client's own error may quote an address that is signed, or what was sent
        raise told from None


def _told(repo_id: str, place: str, error: BaseException, writing: bool) -> LowvramError | None:
    import httpx
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    chain = list(_chain(error))
    if found := next((each for each in chain if is_disk_full(each)), None):
        return cannot_write(place, found)
    answered = next((each for each in chain if isinstance(each, HfHubHTTPError)), None)
    if isinstance(answered, GatedRepoError):
        return ModelError(f"{repo_id}: needs its licence accepted on the hub; then {LOGIN}")
    if isinstance(answered, RevisionNotFoundError):
        return ModelError(f"{repo_id}: has no such revision; give a branch, a tag or a commit after @")
    if isinstance(answered, EntryNotFoundError):
        return ModelError(f"{repo_id}: a file is not there ({reason_of(answered)}); look at the repository's files")
    refused = answered.response.status_code if answered is not None and answered.response is not None else None
    if refused == 401 and (writing or not isinstance(answered, RepositoryNotFoundError)):
        return UsageError(f"{repo_id}: the hub does not take this token (401); make one at {TOKENS}, then {LOGIN}")
    if isinstance(answered, RepositoryNotFoundError):
        return ModelError(f"{repo_id}: no such repository on the hub, or a private one; check the name, or {LOGIN}")
    if answered is not None and refused is not None:
        return _refused(repo_id, refused, reason_of(answered), writing)
    if constants.HF_HUB_OFFLINE or any(isinstance(each, OfflineModeIsEnabled) for each in chain):
        return MachineError(f"{repo_id}: HF_HUB_OFFLINE is set; unset it, or give a local folder")
    if any(isinstance(each, LocalEntryNotFoundError | httpx.HTTPError | ConnectionError) for each in chain):
        return MachineError(f"{repo_id}: the hub cannot be reached ({reason_of(chain[-1])}); {_AGAIN}")
    if writing and isinstance(error, RuntimeError):  # of the client's uploads: LFS wraps its errors, xet has its own
        return MachineError(f"{repo_id}: the upload broke off ({reason_of(chain[-1])}); {_AGAIN}")
    return None


def _refused(repo_id: str, status: int, reason: str, writing: bool) -> LowvramError:
    """The error for an answer of the hub that says no."""
    if status == 403:
        owner = repo_id.partition("/")[0]
        what = f"may not write to {owner}" if writing else "may not read this"
        return UsageError(f"{repo_id}: the token {what} (403: {reason}); make one that may at {TOKENS}, then {LOGIN}")
    if status in (409, 412):
        return LowvramError(f"{repo_id}: was changed by somebody else meanwhile ({status}); run the same command again")
    if status == 429:
        return MachineError(f"{repo_id}: the hub takes no more requests now ({reason}); wait, and run it again")
    if status >= 500:
        return MachineError(f"{repo_id}: the hub has a fault ({status}: {reason}); {_AGAIN}")
    return LowvramError(f"{repo_id}: the hub refuses it ({status}: {reason}); mend that, or try --dry-run for a look")


def reason_of(error: BaseException) -> str:
    """An error in one line, without the token and without the signed part of addresses."""
    from huggingface_hub import get_token

    text = str(getattr(error, "server_message", None) or "") or str(error).strip() or type(error).__name__
    line = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    secret = get_token()
    if secret:
        line = line.replace(secret, "…")
    line = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\")]*", r"\1", line)
    line = re.sub(r"\s*\(Request ID: [^)]*\)", "", line)
    return line[:300].rstrip(".:")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
