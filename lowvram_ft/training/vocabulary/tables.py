"""Where a table of one row a token (the embedding, the head) is kept while training, and how its rows are read.

A head of 152,064 x 3,584 is 1.02 GiB in 16 bits: more than a quarter of a 4 GiB card, for a product that takes a few
milliseconds. `HostTable` keeps it in host memory and brings it over in slices while the slice before is at work;
`Nf4Table` keeps it on the card at 4.13 bits a value. `DeviceTable` is the plain one. All three give the same slices, so
that what is computed from them is bit for bit the same wherever 16-bit rows are kept.

Nothing here is a parameter: the tables are frozen, and no trainer, optimizer or checkpoint is to see them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

SLICE_ROWS = 4096
"""Rows of a slice: 28 MiB in 16 bits at a hidden size of 3,584."""
NF4_BLOCK = 64
"""Weights that share an absmax (bitsandbytes ``quantize_4bit``)."""
_ABSMAX_BLOCK = 256


class Table(Protocol):
    """A frozen table of shape [V, H], read on one device.

    Attributes:
        shape: (V, H).
        dtype: of the rows that are read.
        device: on which they are read.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device

    def slices(self) -> Iterator[tuple[int, torch.Tensor]]:
        """All rows, in order: the first row's number and the rows, shape [<= SLICE_ROWS, H]. Good until the next."""
        ...

    def gather(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows by number: ``ids`` of any shape [...], on ``device``; the rows, shape [..., H]."""
        ...


class DeviceTable:
    """A table in 16 or 32 bits on the device that computes.

    Args:
        weight: shape [V, H].
    """

    def __init__(self, weight: torch.Tensor) -> None:
        self._weight = weight.detach()
        self.shape, self.dtype, self.device = (weight.shape[0], weight.shape[1]), weight.dtype, weight.device

    def slices(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Views; see `Table.slices`."""
        for start in range(0, self.shape[0], SLICE_ROWS):
            yield start, self._weight[start : start + SLICE_ROWS]

    def gather(self, ids: torch.Tensor) -> torch.Tensor:
        """See `Table.gather`."""
        return torch.nn.functional.embedding(ids, self._weight)


class HostTable:
    """A table in host memory, in its own type. On a card, slices come through two buffers on a stream of their own.

    Args:
        weight: shape [V, H].
        device: that computes.
    """

    def __init__(self, weight: torch.Tensor, device: torch.device) -> None:
        kept = weight.detach().to("cpu")
        self._weight = kept.pin_memory() if device.type == "cuda" else kept
        self.shape, self.dtype, self.device = (weight.shape[0], weight.shape[1]), weight.dtype, device

    def slices(self) -> Iterator[tuple[int, torch.Tensor]]:
        """See `Table.slices`: while one is at work, the next one is on its way."""
        if self.device.type != "cuda":
            for start in range(0, self.shape[0], SLICE_ROWS):
                yield start, self._weight[start : start + SLICE_ROWS].to(self.device)
            return
        yield from self._streamed()

    def _streamed(self) -> Iterator[tuple[int, torch.Tensor]]:
        copies, here = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        buffers = [torch.empty((SLICE_ROWS, self.shape[1]), dtype=self.dtype, device=self.device) for _ in range(2)]
        arrived = [torch.cuda.Event() for _ in buffers]
        copies.wait_stream(here)  # the buffers' memory may still be in use by earlier work

        def fetch(start: int) -> None:
            rows, place = self._weight[start : start + SLICE_ROWS], start // SLICE_ROWS % 2
            with torch.cuda.stream(copies):
                buffers[place][: len(rows)].copy_(rows, non_blocking=True)
                arrived[place].record(copies)

        fetch(0)
        for start in range(0, self.shape[0], SLICE_ROWS):
            copies.wait_stream(here)  # what is about to be overwritten has been read
            if start + SLICE_ROWS < self.shape[0]:
                fetch(start + SLICE_ROWS)
            place = start // SLICE_ROWS % 2
            here.wait_event(arrived[place])
            yield start, buffers[place][: min(SLICE_ROWS, self.shape[0] - start)]
        for buffer in buffers:
            buffer.record_stream(copies)

    def gather(self, ids: torch.Tensor) -> torch.Tensor:
        """See `Table.gather`: looked up on the host, and brought over."""
        return torch.nn.functional.embedding(ids.to("cpu"), self._weight).to(self.device)


class Nf4Table:
    """A table in NF4 with double quantization on the device: 4 + 8/64 + 32/(64*256) bits a value.

    Source: Dettmers et al., QLoRA (2023), section 3; bitsandbytes ``functional.quantize_4bit``, whose numbers it holds.

    Args:
        weight: shape [V, H], H divisible by `NF4_BLOCK`, so that a row is whole blocks.
        device: that computes.

    Raises:
        ValueError: H is not divisible.
    """

    def __init__(self, weight: torch.Tensor, device: torch.device) -> None:
        from bitsandbytes import functional

        rows, width = weight.shape
        if width % NF4_BLOCK:
            raise ValueError(f"hidden_size: must be divisible by {NF4_BLOCK} for an NF4 table (got {width})")
        packed, absmax = [], []
        for start in range(0, rows, SLICE_ROWS):  # a slice at a time: nothing of the table's size in 16 bits is needed
            part = weight.detach()[start : start + SLICE_ROWS].to(device).contiguous()
            values, state = functional.quantize_4bit(part, blocksize=NF4_BLOCK, quant_type="nf4")
            packed.append(values.view(len(part), -1))
            absmax.append(state.absmax)
            self._code = state.code
        self._packed = torch.cat(packed)
        scales = torch.cat(absmax)
        self._offset = scales.mean()
        self._scales, nested = functional.quantize_blockwise(scales - self._offset, blocksize=_ABSMAX_BLOCK)
        self._nested, self._nested_code = nested.absmax, nested.code
        self.shape, self.dtype, self.device = (rows, width), weight.dtype, device

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        kept = (self._packed, self._scales, self._nested, self._nested_code, self._code, self._offset)
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)

    def slices(self) -> Iterator[tuple[int, torch.Tensor]]:
        """See `Table.slices`: each is written out in the table's type."""
        for start in range(0, self.shape[0], SLICE_ROWS):
            numbers = torch.arange(start, min(start + SLICE_ROWS, self.shape[0]), device=self.device)
            yield start, self._rows(self._packed[start : start + SLICE_ROWS], numbers)

    def gather(self, ids: torch.Tensor) -> torch.Tensor:
        """See `Table.gather`."""
        flat = ids.reshape(-1)
        return self._rows(self._packed[flat], flat).view(*ids.shape, self.shape[1])

    def _rows(self, packed: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Rows from their packed values, shape [n, H/2], and numbers, shape [n]."""
        from bitsandbytes import functional

        blocks = self.shape[1] // NF4_BLOCK
        places = (numbers[:, None] * blocks + torch.arange(blocks, device=self.device)).reshape(-1)
        scales = self._nested_code[self._scales[places].long()] * self._nested[places // _ABSMAX_BLOCK] + self._offset
        state = functional.QuantState(
            absmax=scales,
            shape=torch.Size((len(numbers), self.shape[1])),
            code=self._code,
            blocksize=NF4_BLOCK,
            quant_type="nf4",
            dtype=self.dtype,
        )
        rows: torch.Tensor = functional.dequantize_4bit(packed.reshape(-1, 1), state)
        return rows
