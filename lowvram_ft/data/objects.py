"""Objects as they stand in a file or on the hub, one at a time: nothing is ever held as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowvram_ft.data.jsonl import parse_line, require_file
from lowvram_ft.errors import DataError, MachineError
from lowvram_ft.recipe import DataSection


@dataclass(frozen=True)
class Raw:
    """One object, not parsed yet where it is a line of a file: parsing is work for whoever has a core to spare.

    Attributes:
        file: the file or data set.
        number: of the line, from 1, or of the row, from 0.
        content: the line, or the object.
    """

    file: str
    number: int
    content: bytes | Mapping[str, Any]

    @property
    def where(self) -> str:
        """Where it stands, for people."""
        return f"{self.file}:{self.number}" if isinstance(self.content, bytes) else f"{self.file} row {self.number}"

    def value(self) -> tuple[Mapping[str, Any] | None, str]:
        """The object; None with the reason where the line is none."""
        return parse_line(self.content) if isinstance(self.content, bytes) else (self.content, "")


def raw_objects(section: DataSection, files: Sequence[Path], hub_id: str | None) -> Iterator[Raw]:
    """What a section names: its ``path``, else ``files``, else a data set of the hub; at most ``max_read``.

    Raises:
        DataError: a file is missing, or a split of a data set.
        MachineError: the hub cannot be reached.
    """
    if section.path is not None:
        found = _from_files([Path(section.path)])
    elif files:
        found = _from_files(files)
    elif section.hub_id or hub_id:
        found = _from_hub(section.hub_id or str(hub_id), section.split)
    else:
        raise DataError(f'data.path: {section.source} comes from a file; set data.path = "{section.source}.jsonl"')
    for number, raw in enumerate(found):
        if section.max_read is not None and number >= section.max_read:
            return
        yield raw


def fingerprint_of_source(section: DataSection, files: Sequence[Path], hub_id: str | None) -> str:
    """Changes when what a section names changes: a digest of the files, or the revision on the hub.

    Raises:
        DataError: a file is missing.
        MachineError: the hub cannot be reached.
    """
    import hashlib

    paths = [Path(section.path)] if section.path is not None else list(files)
    if paths:
        digest = hashlib.sha256()
        for path in paths:
            require_file(path)
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()
    name = section.hub_id or str(hub_id)
    folder = Path(name)
    if folder.is_dir():
        listing = sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*.*"))
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    return _revision(name)


def _from_files(paths: Sequence[Path]) -> Iterator[Raw]:
    for path in paths:
        require_file(path)
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield Raw(str(path), number, line)


def _from_hub(hub_id: str, split: str) -> Iterator[Raw]:
    """Rows of a data set on the hub, or in a local folder of its layout, streamed: one shard is open at a time."""
    import httpx
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        splits = load_dataset(hub_id, streaming=True)
        if split not in splits:
            raise DataError(f"data.split: {hub_id} has no split {split} (splits: {', '.join(splits)}); use one of them")
        for number, value in enumerate(splits[split]):
            yield Raw(f"{hub_id}[{split}]", number, value)
    except (DatasetsError, HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        raise _not_there(hub_id, error) from error


def _revision(hub_id: str) -> str:
    """Commit of a data set on the hub; where the hub is off limits, that of the copy on this machine."""
    import httpx
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        reference = Path(constants.HF_HUB_CACHE) / f"datasets--{hub_id.replace('/', '--')}" / "refs" / "main"
        return reference.read_text().strip() if reference.is_file() else "offline"
    try:
        return str(HfApi().dataset_info(hub_id).sha)
    except RepositoryNotFoundError:
        return "unknown"  # reading it says so, and more
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        raise _not_there(hub_id, error) from error


def _not_there(hub_id: str, error: Exception) -> MachineError:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return MachineError(
            f"{hub_id}: cannot be loaded, since HF_HUB_OFFLINE is set; unset it, or set data.path to a JSONL file"
        )
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return MachineError(
        f"{hub_id}: cannot be loaded ({reason}); check the name and the network, or set data.path to a JSONL file"
    )
