"""LoRA adapters as PEFT saves them, one or a chain of them, and what they make of each base weight.

LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685, equation 3): ``W' = W + scale * B @ A`` with
``scale = alpha / r``, or ``alpha / sqrt(r)`` for rsLoRA (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ..checkpoints.weights import Checkpoint, Float32, Tensor, TensorInfo, read_rows, slabs
from ..errors import UnsupportedError
from .changes import Change, LowRank, Replaced, TokenRows
from .files import EMBEDDING, HEAD, AdapterFile

MERGE_THERE = (
    "merge it where it was trained (model.merge_and_unload, save model and tokenizer), then export that folder as the "
    "base, without an adapter"
)
"""What to do with an adapter of a vocabulary that has grown."""

_HALF_ULP = 2.0**-8  # of bfloat16: the most that rounding to 16 bits changes a value by, as a share of it


@dataclass(frozen=True)
class Adapter:
    """One LoRA adapter, or several that were trained one on top of the other.

    Attributes:
        files: the adapters, first trained first.
    """

    files: tuple[AdapterFile, ...]

    @classmethod
    def load(cls, folders: Path | Sequence[Path]) -> Adapter:
        """Read the headers of one adapter folder, or of a chain of them, first trained first.

        Raises:
            BrokenFileError: a file is missing, truncated or damaged, or a factor lacks its partner.
            UnsupportedError: an adapter is of a kind that is not covered, or none was given.
        """
        several = [folders] if isinstance(folders, str | Path) else list(folders)
        if not several:
            raise UnsupportedError("adapter: an empty list; give a folder that PEFT saved, or none at all")
        return cls(tuple(AdapterFile.read(Path(folder)) for folder in several))

    def changes(self, name: str) -> bool:
        """Whether a base tensor is changed at all."""
        return any(name in file.changes for file in self.files)

    def apply(self, name: str, values: Float32, rows: slice | None = None) -> Float32:
        """What the adapters make of rows of a base tensor. Several threads may call it at a time.

        The adapters of a chain are applied one after the other, all in float32.

        Args:
            name: the base tensor's name.
            values: its rows, float32 ``[rows, ...]``; may be overwritten.
            rows: which rows these are; all of them when ``None``.

        Returns:
            float32 of the same shape, not rounded.

        Raises:
            BrokenFileError: reading fails.
        """
        return _apply(self.files, name, values, rows)

    def check_fits(self, checkpoint: Checkpoint) -> None:
        """Check that every tensor of the adapters has its place in the base.

        Raises:
            UnsupportedError: an adapter was trained on another model.
        """
        for position, file in enumerate(self.files):
            for name, changes in file.changes.items():
                for change in changes:
                    _check_shape(file, name, change, checkpoint)
            for name, info in file.saved_base.items():
                _check_saved_base(self.files[:position], file, name, info, checkpoint)

    def fitted(self, checkpoint: Checkpoint) -> Checkpoint:
        """The base as the adapters need it: with a head of its own where training gave it one.

        A tied embedding and head share one tensor. LoRA on one of the two, or ``modules_to_save`` for one, changes
        only that one: after training they differ, and a file with one tensor for both would be another model. The
        base's tensor is then named twice, and each name gets the change that belongs to it.

        Returns:
            ``checkpoint``, or a copy of it that is not tied.

        Raises:
            UnsupportedError: PEFT would tie some of the changes and not others.
            BrokenFileError: reading fails.
        """
        tied = bool(checkpoint.config.get("tie_word_embeddings")) or HEAD not in checkpoint.tensors
        if not tied or EMBEDDING not in checkpoint.tensors or not self._unties():
            return checkpoint
        for file in self.files:
            if _has_tokens(file, EMBEDDING) and not _has_tokens(file, HEAD):
                raise UnsupportedError(
                    f"{file.folder}: trainable_token_indices of a tied embedding beside another change of only the "
                    "embedding or the head is not covered; merge with PEFT's merge_and_unload and export the merged "
                    "folder without an adapter"
                )
        # First, as in the files of transformers, which are sorted by name.
        tensors = {HEAD: checkpoint.tensors[EMBEDDING]}
        tensors |= {name: info for name, info in checkpoint.tensors.items() if name != HEAD}
        config = {**checkpoint.config, "tie_word_embeddings": False}
        return replace(checkpoint, config=MappingProxyType(config), tensors=MappingProxyType(tensors))

    def _unties(self) -> bool:
        """Whether a tied embedding and head differ after training."""
        return any(not _same_on_both(file.changes) for file in self.files)


def _apply(files: Sequence[AdapterFile], name: str, values: Float32, rows: slice | None) -> Float32:
    changes = [change for file in files for change in file.changes.get(name, ())]
    if changes and not values.flags.writeable:
        values = values.copy()
    for change in changes:
        values = change.apply(values, rows)
    return values


def _same_on_both(changes: Mapping[str, tuple[Change, ...]]) -> bool:
    """Whether an adapter changes the embedding and the head alike, so that they can stay tied.

    PEFT ties the two in these cases: rows named by ``trainable_token_indices`` (the head follows the embedding, and
    is saved only where it does not), and ``ensure_weight_tying``, with which both are saved with the same values.
    """
    embedding, head = changes.get(EMBEDDING, ()), changes.get(HEAD, ())
    if not head:
        return all(isinstance(change, TokenRows) for change in embedding)
    return len(embedding) == len(head) and all(_equal(mine, its) for mine, its in zip(embedding, head, strict=True))


def _has_tokens(file: AdapterFile, name: str) -> bool:
    return any(isinstance(change, TokenRows) for change in file.changes.get(name, ()))


def _equal(embedding: Change, head: Change) -> bool:
    if isinstance(embedding, LowRank) and isinstance(head, LowRank):
        return embedding.equals_transposed(head)
    if isinstance(embedding, Replaced) and isinstance(head, Replaced):
        same = embedding.shape == head.shape
        return same and all(
            np.array_equal(read_rows(embedding.info, rows), read_rows(head.info, rows)) for rows in slabs(head.info)
        )
    return False


def _check_shape(file: AdapterFile, name: str, change: Change, checkpoint: Checkpoint) -> None:
    info = _base_of(checkpoint, name)
    if isinstance(change, TokenRows):
        fits = info is not None and len(info.shape) == 2 and info.shape[1] == change.info.shape[1]
        fits = fits and info is not None and all(0 <= index < info.shape[0] for index in change.indices)
        wanted = f"rows up to {max(change.indices, default=0)} of {change.info.shape[1]} columns"
    else:
        fits, wanted = info is not None and info.shape == change.shape, str(list(change.shape))
    if not fits and info is not None and name in (EMBEDDING, HEAD):
        changed = change.info.shape if isinstance(change, TokenRows) else change.shape
        if changed[1:] == info.shape[1:]:
            n_rows = 1 + max(change.indices) if isinstance(change, TokenRows) else changed[0]
            _refuse_other_vocabulary(file, name, n_rows, info.shape[0], checkpoint)
    if not fits:
        got = "no such tensor" if info is None else f"shape {list(info.shape)}"
        raise UnsupportedError(
            f"{file.folder}: adapter of another base model: {name}: {got} in {checkpoint.folder}, "
            f"the adapter changes {wanted} ({_named_base(file)}); give the base that it was trained on"
        )


def _refuse_other_vocabulary(file: AdapterFile, name: str, n_rows: int, n_base: int, checkpoint: Checkpoint) -> None:
    raise UnsupportedError(
        f"{file.folder}: was trained with a vocabulary of another size: {name} has {n_rows} rows there, {n_base} in "
        f"{checkpoint.folder} ({_named_base(file)}); give the base that it was trained on; where tokens were added for "
        f"training, {MERGE_THERE}"
    )


def _named_base(file: AdapterFile) -> str:
    return f"it names {file.base_model_name} as its base" if file.base_model_name else "it names no base"


def _base_of(checkpoint: Checkpoint, name: str) -> Tensor | None:
    """Where a base tensor lies; a tied head is the embedding."""
    if name == HEAD and name not in checkpoint.tensors:
        name = EMBEDDING
    return checkpoint.tensors.get(name)


def _check_saved_base(
    earlier: Sequence[AdapterFile], file: AdapterFile, name: str, info: TensorInfo, checkpoint: Checkpoint
) -> None:
    """Check a base weight that PEFT stored: it has to be the base's, or what earlier adapters made of it."""
    base = _base_of(checkpoint, name)
    if base is not None and base.shape[0] != info.shape[0] and base.shape[1:] == info.shape[1:]:
        _refuse_other_vocabulary(file, name, info.shape[0], base.shape[0], checkpoint)
    same = base is not None and base.shape == info.shape
    source = name if name in checkpoint.tensors else EMBEDDING
    for rows in slabs(info) if same else ():
        saved, values = read_rows(info, rows), checkpoint.read(source, rows)
        close = _close(saved, values) or _close(saved, _apply(earlier, name, values, rows))
        if not close:
            same = False
            break
    if not same:
        raise UnsupportedError(
            f"{file.folder}: {name}: the adapter carries its own copy of a base weight, and it differs from the base "
            f"(shape {list(info.shape)}); give the base that it was trained on, with its resized vocabulary, or train "
            "embeddings with modules_to_save"
        )


def _close(saved: Float32, values: Float32) -> bool:
    """Whether two copies of a weight differ by no more than a rounding to 16 bits."""
    return bool((np.abs(saved - values) <= _HALF_ULP * np.abs(values) + 1e-7).all())
