"""What a model that trains really holds on its device, by the names of the plan's terms; and what is over the plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lowvram_ft.training.vocabulary.placement import TableEmbedding, TableHead
from lowvram_ft.training.vocabulary.tables import DeviceTable, HostTable, Nf4Table, Table

TOLERANCE = 0.05
"""The share by which a term may be over its plan without a word."""
SMALL_BYTES = 4 << 20
"""Less than this over is nobody's concern."""


@dataclass(frozen=True)
class Overrun:
    """A term of the plan that turned out larger.

    Attributes:
        term: its name, or `PEAK`.
        planned: bytes.
        measured: bytes.
    """

    term: str
    planned: int
    measured: int

    @property
    def words(self) -> str:
        """The same for a reader."""
        share = 100 * (self.measured / self.planned - 1) if self.planned else float("inf")
        mib = 1 << 20
        return f"{self.term}: {self.measured / mib:,.0f} MiB, {share:.0f} % over the plan's {self.planned / mib:,.0f}"


def overruns(planned: Mapping[str, int], measured: Mapping[str, int]) -> list[Overrun]:
    """What is over its plan by more than `TOLERANCE`, the largest excess first; only what both know is compared."""
    found = [
        Overrun(name, planned[name], n_bytes)
        for name, n_bytes in measured.items()
        if name in planned and n_bytes > planned[name] * (1 + TOLERANCE) and n_bytes - planned[name] > SMALL_BYTES
    ]
    return sorted(found, key=lambda one: one.planned - one.measured)


def weights_bytes(model: Any, device: torch.device) -> dict[str, int]:
    """Bytes of a model's weights on a device, by term.

    Args:
        model: a ``peft.PeftModel``.
        device: only what is there counts.
    """
    found = dict.fromkeys(("decoder weights", "norms and biases", "embedding", "head", "LoRA weights"), 0)
    seen: set[int] = set()
    for name, parameter in model.named_parameters():  # a tied weight comes once
        found[_term_of(name)] += _on(device, _with_statistics(parameter), seen)
    for module in model.modules():
        if isinstance(module, TableEmbedding | TableHead):
            term = "embedding" if isinstance(module, TableEmbedding) else "head"
            found[term] += _on(device, _table_tensors(module.table), seen)
    return found


def gradients_bytes(model: Any) -> int:
    """Bytes of the gradients that are there."""
    return sum(_size(p.grad) for p in model.parameters() if p.grad is not None)


def optimizer_bytes(optimizer: Any, device: torch.device) -> int:
    """Bytes of an optimizer's state on a device; steps that torch keeps on the host are not in it."""
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
    tensors = [value for state in inner.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    return _on(device, tensors, set())


def _term_of(name: str) -> str:
    if "lora_" in name:
        return "LoRA weights"
    if "embed_tokens" in name:
        return "embedding"
    if "lm_head" in name:
        return "head"
    return "decoder weights" if "_proj" in name and name.endswith("weight") else "norms and biases"


def _with_statistics(parameter: Any) -> list[torch.Tensor]:
    """A parameter's tensor, and for a 4-bit one all that undoes it (bitsandbytes ``QuantState``)."""
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return [parameter.data]
    nested = [state.state2.absmax, state.state2.code, state.offset] if state.nested else []
    return [parameter.data, state.absmax, state.code, *nested]


def _table_tensors(table: Table) -> list[torch.Tensor]:
    if isinstance(table, Nf4Table | HostTable | DeviceTable):
        return [value for value in vars(table).values() if isinstance(value, torch.Tensor)]
    return []


def _on(device: torch.device, tensors: Iterable[torch.Tensor], seen: set[int]) -> int:
    """Bytes of the tensors on a device, each piece of memory once.

    The table of 16 or 256 values that all 4-bit tensors share is counted with each: a plan does the same.
    """
    total = 0
    for tensor in tensors:
        if tensor.device.type != device.type or (tensor.numel() > 256 and tensor.data_ptr() in seen):
            continue
        seen.add(tensor.data_ptr())
        total += _size(tensor)
    return total


def _size(tensor: torch.Tensor) -> int:
    return int(tensor.numel() * tensor.element_size())
