"""Put a model's embedding and head where the memory plan wants them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lowvram_ft.training.engines.protocol import LoadPlan
from lowvram_ft.training.processes.ddp import own_card
from lowvram_ft.training.vocabulary.head_loss import head_nll, head_nlls
from lowvram_ft.training.vocabulary.tables import DeviceTable, HostTable, Nf4Table, Table


class _OverTable(nn.Module):  # type: ignore[misc]
    """A module over a frozen `Table` that no trainer, optimizer or checkpoint sees."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.table = table

    @property
    def weight(self) -> torch.Tensor:
        """A stand-in of the table's shape, type and device, for libraries that ask: one NaN, which takes no memory.

        Whoever computes with it sees that at once.
        """
        nan = torch.full((1, 1), torch.nan, dtype=self.table.dtype, device=self.table.device)
        return nan.expand(self.table.shape)


class TableEmbedding(_OverTable):
    """An embedding over a `Table`: token ids of shape [B, T] to rows of shape [B, T, H]."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Look up."""
        return self.table.gather(input_ids)


class TableHead(_OverTable):
    """An output head over a `Table`. A loss is `nll`, which keeps no logits; ``forward`` makes them, for answers."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits, shape [..., V]."""
        states = hidden.to(self.table.dtype)
        return torch.cat([states @ rows.T for _, rows in self.table.slices()], dim=-1)

    def nll(self, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Summed negative log-likelihood; see `head_nll`."""
        return head_nll(hidden, labels, self.table)

    def nlls(self, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The negative log-likelihood of each label; see `head_nlls`."""
        return head_nlls(hidden, labels, self.table)


def moves_vocabulary(plan: LoadPlan) -> bool:
    """Whether a plan wants embedding or head elsewhere than the loader puts them."""
    return plan.offload_embedding or plan.nf4_embedding or plan.head != "device"


def has_table_head(model: Any) -> bool:
    """Whether a ``peft.PeftModel``'s head is a `TableHead`, whose loss is its own."""
    return isinstance(model.get_base_model().get_output_embeddings(), TableHead)


def device_map(plan: LoadPlan) -> dict[str, Any]:
    """Where the loader puts a decoder's modules: what is to be moved or quantized never stands on the card in 16 bits.

    The names are those of Llama, Qwen2 and Qwen3 in transformers.
    """
    card = own_card()
    if not moves_vocabulary(plan):
        return {"": card}
    embedding = "cpu" if plan.offload_embedding or plan.nf4_embedding else card
    head = "cpu" if plan.head != "device" else card
    rest = dict.fromkeys(("model.layers", "model.norm", "model.rotary_emb"), card)
    return {"model.embed_tokens": embedding, **rest, "lm_head": head}


def place_vocabulary(model: Any, plan: LoadPlan, device: torch.device) -> None:
    """Replace a model's embedding and head by tables, where the plan wants them elsewhere.

    Where the two are tied there is one table: NF4 if the plan has an NF4 embedding or head, else on the host if it has
    either there.

    Args:
        model: a causal language model of transformers, without an adapter yet.
        plan: how it is loaded.
        device: that computes.
    """
    if not moves_vocabulary(plan):
        return
    from accelerate.hooks import remove_hook_from_module

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    for module in (embedding, head):  # a loader that put it on the host hooked it, to bring all of it over each time
        remove_hook_from_module(module)
    if model.config.tie_word_embeddings:
        quantized = plan.nf4_embedding or plan.head == "nf4"
        shared = _table(embedding.weight, "nf4" if quantized else "host", device)
        model.set_input_embeddings(TableEmbedding(shared))
        model.lm_head = TableHead(shared)
        return
    if plan.nf4_embedding or plan.offload_embedding:
        kept = "nf4" if plan.nf4_embedding else "host"
        model.set_input_embeddings(TableEmbedding(_table(embedding.weight, kept, device)))
    if plan.head != "device":
        model.lm_head = TableHead(_table(head.weight, plan.head, device))


def _table(weight: torch.Tensor, where: str, device: torch.device) -> Table:
    if where == "nf4":
        return Nf4Table(weight, device)
    return HostTable(weight, device) if where == "host" else DeviceTable(weight)
