"""A base model that stays on its hub: only its small files are stored, and weights are read by range.

For an export on a disk that has no room for the base. ``link_model`` makes a folder with everything of a model but its
weights, and ``remote_weights.json``, which says where those are; `Checkpoint.open` takes such a folder like any
other. Each byte of a weight is fetched once, in pieces of up to 16 MiB, when the export comes to it.

The protocol is that of huggingface.co (https://huggingface.co/docs/hub/api): ``/api/models/ID/revision/REVISION`` lists
the files of a commit, ``/ID/resolve/COMMIT/FILE`` has one of them, usually behind a redirect to a signed address.
Environment variables are those of ``huggingface_hub``: HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HOME, HF_HUB_OFFLINE.

What a whole download has and this has not: the checksum of each file. What protects the bytes is TLS, the commit in
each address, and the size of each file, which has to be the same in every answer.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from ..errors import BrokenFileError, DownloadError, UnsupportedError
from ..files import read_json
from .fetching import Fetcher
from .sources import Bytes

POINTER: Final = "remote_weights.json"
_SMALL_FILES: Final = ("*.json", "*.jinja", "tokenizer*", "merges.txt", "vocab.txt", "LICENSE*")
_MAX_SMALL_BYTES: Final = 64 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file on a hub, read by range: a `sources.ByteSource`.

    Attributes:
        url: its address at one commit.
        size: its size in bytes.
        fetcher: what fetches.
    """

    url: str
    size: int
    fetcher: Fetcher

    def read(self, offset: int, n_bytes: int, what: str, end: int = 0) -> Bytes:
        """See `sources.ByteSource.read`."""
        if offset + n_bytes > self.size:
            raise BrokenFileError(f"{self}: {what}: lies behind the end of the file ({self.size} bytes)")
        return self.fetcher.read(self.url, offset, n_bytes, what, min(max(end, offset + n_bytes), self.size), self.size)

    def __str__(self) -> str:
        return self.url


def link_model(model: str, folder: Path, *, revision: str = "main") -> Path:
    """Make a folder that stands for a model on the hub, without its weights.

    Args:
        model: its id, ``OWNER/NAME``.
        folder: the folder to write; files of an earlier link are replaced.
        revision: a branch, a tag or a commit.

    Returns:
        ``folder``.

    Raises:
        DownloadError: the hub cannot be reached, has no such model, or wants a token for it.
        UnsupportedError: the model has no safetensors weights.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise DownloadError(f"{model}: HF_HUB_OFFLINE is set; unset it, or give a local folder")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model):
        raise UnsupportedError(f"{model}: not a hub id; give OWNER/NAME")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    fetcher = Fetcher(endpoint, token())
    about = _json(fetcher.whole(f"{endpoint}/api/models/{model}/revision/{quote(revision, safe='')}", model), model)
    try:
        commit, names = str(about["sha"]), [str(entry["rfilename"]) for entry in about["siblings"]]
    except (KeyError, TypeError) as error:
        raise DownloadError(f"{endpoint}: {model}: an answer without {error}; is HF_ENDPOINT a hub?") from error
    # Only what lies at the top: subfolders hold other forms of the same model.
    names = [name for name in names if "/" not in name]
    weights = [name for name in names if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", name)]
    if not weights:
        raise UnsupportedError(f"{model}: has no safetensors weights on the hub; use a model that has")
    folder.mkdir(parents=True, exist_ok=True)
    address = f"{endpoint}/{model}/resolve/{commit}"
    for name in names:
        if any(fnmatch.fnmatch(name, pattern) for pattern in _SMALL_FILES):
            content = fetcher.whole(f"{address}/{quote(name)}", f"{model}: {name}", _MAX_SMALL_BYTES)
            (folder / name).write_bytes(content)
    pointers = {
        name: {"url": f"{address}/{quote(name)}", "size": fetcher.size(f"{address}/{quote(name)}", f"{model}: {name}")}
        for name in weights
    }
    pointer = {"model": model, "commit": commit, "endpoint": endpoint, "files": pointers}
    (folder / POINTER).write_text(json.dumps(pointer, indent=2) + "\n", encoding="utf-8")
    return folder


def remote_files(folder: Path) -> dict[str, RemoteFile]:
    """The weights that a linked folder points to, by their names; none where it is no linked folder.

    Raises:
        BrokenFileError: the pointer is damaged.
    """
    path = folder / POINTER
    if not path.is_file():
        return {}
    content = read_json(path, "a linked folder needs it")
    try:
        fetcher = Fetcher(str(content["endpoint"]), token())
        return {
            name: RemoteFile(str(entry["url"]), int(entry["size"]), fetcher) for name, entry in content["files"].items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BrokenFileError(f"{path}: damaged ({error!r}); link the model again") from error


def linked_bytes(folder: Path) -> int:
    """How many bytes of weights a linked folder points to."""
    return sum(file.size for file in remote_files(folder).values())


def token(environment: Mapping[str, str] = os.environ) -> str | None:
    """The user's hub token, where ``huggingface_hub`` keeps it; never printed."""
    if given := environment.get("HF_TOKEN", "").strip():
        return given
    home = Path(environment.get("HF_HOME") or Path(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    path = Path(environment.get("HF_TOKEN_PATH") or home / "token").expanduser()
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _json(content: bytes, model: str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise DownloadError(f"{model}: the hub's answer is not JSON ({error}); is HF_ENDPOINT a hub?") from error
    return value if isinstance(value, dict) else {}
