"""Names fit for others: hub ids instead of paths of this machine, files as the hub calls them."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lowvram_ft.errors import ModelError, UsageError
from lowvram_ft.models import EMBEDDED, named_by_path

EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""What the embedded model was made of."""
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LOCAL = re.compile(
    r"""(?<![\w.:/])(?:
        /(?:home|Users|root|tmp|mnt|media|work|workspace|content|kaggle|data|opt|srv|var|private|scratch|gpfs)/[^\s"'`]+
        | ~[\w-]*/[^\s"'`]+
        | [A-Za-z]:[\\/]{1,2}[^\s"'`/\\][^\s"'`]*
        | \\\\[\w.-]+\\[^\s"'`]+
        | file://[^\s"'`]+
    )""",
    re.VERBOSE,
)
_ALONE = re.compile(r"(?:/[^/\s]+)+/?")
"""A text that is nothing but an absolute path."""


def require_repo_id(text: str) -> str:
    """A repository's name as the hub takes it.

    Raises:
        UsageError: it is none.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # its __init__ has no __all__

    try:
        validate_repo_id(text)
    except HFValidationError as error:
        raise UsageError(f"{text}: is no name of a repository; give OWNER/NAME") from error
    if not REPO_ID.fullmatch(text):
        raise UsageError(f"{text}: names no owner; give OWNER/NAME, where OWNER is you or your organization")
    return text


def public_base(named: str, instead: str | None = None) -> str:
    """The hub id of a base model.

    Args:
        named: what an adapter or a run calls it: a hub id, a path in the hub's cache or the kit's, another folder.
        instead: the hub id that the user gives.

    Raises:
        ModelError: it is a folder of which nobody says what it is.
    """
    if instead is not None:
        return require_repo_id(instead)
    found = named_by_path(named) or named
    if found == EMBEDDED:
        return EMBEDDED_HUB_ID
    if REPO_ID.fullmatch(found) and not Path(found).is_dir():
        return found
    raise ModelError(
        f"base model: a folder of this machine, which means nothing to others (got {named!r}); say what it is on the "
        "hub: --base OWNER/NAME"
    )


def local_path_in(text: str) -> str | None:
    """A path of somebody's machine that a text spells out; None where there is none."""
    found = _LOCAL.search(text)
    if found:
        return found.group(0)
    home = str(Path.home())
    if len(home) > 1 and home in text:
        return home
    return text if _ALONE.fullmatch(text.strip()) and text.strip().count("/") > 1 else None


def local_path_inside(value: Any) -> str | None:
    """The same of every text in a JSON value."""
    if isinstance(value, str):
        return local_path_in(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for part in parts if (found := local_path_inside(part))), None)


def withheld(key: str, value: Any, public: Collection[str]) -> Any:
    """A setting of a recipe as others may see it: without paths, addresses and names of private data.

    Args:
        key: ``section.key``.
        value: as JSON.
        public: hub ids that may be named.
    """
    if isinstance(value, list):
        return [withheld(key, each, public) for each in value]
    if not isinstance(value, str) or value in public:
        return value
    kind, colon, rest = value.partition(":")
    if colon and rest and re.fullmatch(r"[a-z_]+", kind) and kind != "http" and kind != "https":
        return f"{kind}:PLACEHOLDER"
    private = key in _PRIVATE or any(sign in value for sign in "/\\~:")
    return "PLACEHOLDER" if private else value


_PRIVATE = frozenset(
    {
        "model.adapter",
        "data.path",
        "data.hub_id",
        "eval.repos",
        "export.imatrix",
        "export.ollama",
        "preference.pairs",
        "preference.url",
    }
)
"""Settings that name somebody's files, machines or data sets."""


def stem_of(repo_id: str) -> str:
    """What the files of a repository are called: its name, without the ``-GGUF`` that such repositories end with."""
    return re.sub(r"[-_.]gguf$", "", repo_id.partition("/")[2], flags=re.IGNORECASE)
