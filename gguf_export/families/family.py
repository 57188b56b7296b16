"""What a model family is made of. A new one is a file beside this that fills in `Family`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..checkpoints.weights import Checkpoint
from ..errors import BrokenFileError

Shapes = dict[str, tuple[int, ...]]
"""The shape of each matrix, rows first, by its name in the GGUF without ``blk.N.`` and ``.weight``."""


def head_dim(checkpoint: Checkpoint) -> int:
    """How many dimensions a head has."""
    explicit = checkpoint.config.get("head_dim")
    if explicit is not None:
        return int(explicit)
    return integer(checkpoint, "hidden_size") // integer(checkpoint, "num_attention_heads")


def integer(checkpoint: Checkpoint, key: str) -> int:
    """A setting that has to be there.

    Raises:
        BrokenFileError: it is missing, or not a number.
    """
    value = checkpoint.config.get(key)
    if not isinstance(value, int):
        raise BrokenFileError(
            f"{checkpoint.folder / 'config.json'}: {key} is missing (got {value!r}); fetch the file again"
        )
    return value


def dense_feed_forward(checkpoint: Checkpoint) -> Shapes:
    """Gate, up and down of a feed-forward without experts."""
    hidden, inner = integer(checkpoint, "hidden_size"), integer(checkpoint, "intermediate_size")
    return {"ffn_gate": (inner, hidden), "ffn_up": (inner, hidden), "ffn_down": (hidden, inner)}


def _nothing(_: Any, __: Checkpoint) -> None:
    """No setting of its own."""


def _no_problems(_: Mapping[str, Any]) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Family:
    """What one model family needs.

    Attributes:
        name: as a reader knows it.
        architectures: the names of its class in ``config.json``.
        gguf_arch: its name in a GGUF.
        interleaved_rope: llama.cpp rotates neighbouring pairs, so the rows of q and k are reordered.
        feed_forward: the matrices of a layer's feed-forward.
        add_settings: writes the settings that only this family has to a ``gguf.GGUFWriter``.
        problems: the settings of a ``config.json`` that are not covered, by name.
    """

    name: str
    architectures: tuple[str, ...]
    gguf_arch: str
    interleaved_rope: bool = False
    feed_forward: Callable[[Checkpoint], Shapes] = dense_feed_forward
    add_settings: Callable[[Any, Checkpoint], None] = _nothing
    problems: Callable[[Mapping[str, Any]], tuple[str, ...]] = _no_problems
