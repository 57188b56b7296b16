"""The ``general.*`` keys of a GGUF: what the model is called, whose it is, and how it wants to be sampled.

Keys and their order are those of ``gguf.Metadata.set_gguf_meta_model``, which llama.cpp's converter calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from .errors import UnsupportedError
from .files import read_json

METADATA_KEYS: Final = (
    "name",
    "author",
    "version",
    "organization",
    "finetune",
    "basename",
    "description",
    "quantized_by",
    "size_label",
    "license",
    "license.name",
    "license.link",
    "url",
    "repo_url",
    "source.url",
    "source.repo_url",
)
"""What a caller can set, in the order of the file."""

BASE_MODEL_KEYS: Final = (
    "base_model.0.name",
    "base_model.0.organization",
    "base_model.0.repo_url",
)
"""The same, of the model that was fine-tuned; they come after the others, with their count."""

_SAMPLING: Final = (
    ("top_k", "top_k", int),
    ("top_p", "top_p", float),
    ("min_p", "min_p", float),
    ("xtc_probability", "xtc_probability", float),
    ("xtc_threshold", "xtc_threshold", float),
    ("temp", "temperature", float),
    ("penalty_last_n", "penalty_last_n", int),
    ("penalty_repeat", "repetition_penalty", float),
    ("mirostat", "mirostat", int),
    ("mirostat_tau", "mirostat_tau", float),
    ("mirostat_eta", "mirostat_eta", float),
)
"""Key of the file, key of ``generation_config.json``, and type."""


def require_known_keys(metadata: Mapping[str, str]) -> None:
    """Check the names of keys.

    Raises:
        UnsupportedError: one is not known.
    """
    for key in metadata:
        if key not in METADATA_KEYS + BASE_MODEL_KEYS:
            known = ", ".join(METADATA_KEYS + BASE_MODEL_KEYS)
            raise UnsupportedError(f"metadata: unknown key {key!r}; use one of {known}")


def add_general_keys(writer: Any, folder: Path, size_label: str, metadata: Mapping[str, str]) -> None:
    """Write them to a ``gguf.GGUFWriter``.

    llama.cpp takes the sampling settings for its own defaults, so those of the base's
    ``generation_config.json`` come with it.

    Args:
        writer: the writer.
        folder: the base's folder.
        size_label: how large the model is, as ``gguf.size_label`` says it.
        metadata: ``METADATA_KEYS`` and ``BASE_MODEL_KEYS`` that the caller sets.

    Raises:
        BrokenFileError: ``generation_config.json`` is damaged.
    """
    import gguf

    writer.add_type(gguf.GGUFType.MODEL)
    path = Path(folder) / "generation_config.json"
    settings = read_json(path, "it says how to sample") if path.is_file() else {}
    for key, source, kind in _SAMPLING:
        value = settings.get(source)
        if isinstance(value, int | float) and not isinstance(value, bool):
            add = writer.add_int32 if kind is int else writer.add_float32
            add(f"general.sampling.{key}", kind(value))
    values = {
        "name": Path(folder).absolute().name,
        "size_label": size_label,
        **metadata,
    }
    for key in METADATA_KEYS:
        if key in values:
            writer.add_string(f"general.{key}", values[key])
    if any(key in metadata for key in BASE_MODEL_KEYS):
        writer.add_base_model_count(1)
    for key in BASE_MODEL_KEYS:
        if key in metadata:
            writer.add_string(f"general.{key}", metadata[key])
