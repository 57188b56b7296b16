"""The frame of a kernel: its loops, its memory, and how blocks come in and go out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import llvmlite.ir as ir
import numpy as np

from .vectors import Buffer, Cell, Index, Vector, constant, floats, ints, position

_I8 = ir.IntType(8)
_I16 = ir.IntType(16)
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_F32 = ir.FloatType()
_POINTER = ir.PointerType()


class Kernel:
    """One function ``uint32_t name(const float *x, uint8_t *out, int64_t n_groups)``.

    A group is ``width`` blocks; lane *g* of every vector works on block *g*. The body is written between
    ``groups()`` and ``finish()``. The function returns the largest magnitude of all weights, as the bits of a
    float32: from 0x7F800000 on, a weight is infinite or NaN.

    Args:
        name: the function's name.
        width: lanes of a vector, a power of two.
        block_values: weights of a block.
        block_bytes: bytes that a block becomes.
    """

    def __init__(self, name: str, width: int, block_values: int, block_bytes: int) -> None:
        self.width = width
        self.floats, self.ints = floats(width), ints(width)
        self.block_values = block_values
        self.block_bytes = block_bytes
        self.module = ir.Module(name)
        signature = ir.FunctionType(_I32, [_POINTER, _POINTER, _I64])
        self.function = ir.Function(self.module, signature, name)
        self.function.attributes.add("nounwind")
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self._entry = self.builder.block
        self._x, self._out, self._n_groups = self.function.args
        for pointer in (self._x, self._out):
            pointer.add_attribute("noalias")
        self._n_tables = 0
        self._magnitude = self.cell(Vector(self.builder, constant(0, self.ints)))

    def cell(self, first: Vector) -> Cell:
        """A variable, set to its first value here."""
        cell = Cell(self.builder, self._allocate(first.value.type, 1), first.value.type)
        cell.set(first)
        return cell

    def all_ones(self, n_lanes: int) -> Vector:
        """-1 as int32: every bit is set."""
        return Vector(self.builder, constant(-1, ints(n_lanes)))

    def zeros(self, n_lanes: int) -> Vector:
        """0 as float32."""
        return Vector(self.builder, constant(0.0, floats(n_lanes)))

    def buffer(self, n: int, type_: ir.Type) -> Buffer:
        """Memory for ``n`` vectors."""
        return Buffer(self.builder, self._allocate(type_, n), type_)

    def table(self, numbers: Sequence[np.float32], index: ir.Value, n_lanes: int) -> Vector:
        """``numbers[index]`` in every one of ``n_lanes`` lanes."""
        array = ir.ArrayType(_F32, len(numbers))
        table = ir.GlobalVariable(self.module, array, f"table_{self._n_tables}")
        self._n_tables += 1
        table.linkage, table.global_constant = "internal", True
        table.initializer = ir.Constant(array, [float(number) for number in numbers])
        place = self.builder.gep(table, [index], source_etype=_F32)
        number = self.builder.load(place, typ=_F32)
        nothing = ir.Constant(floats(n_lanes), ir.Undefined)
        vector = self.builder.insert_element(nothing, number, ir.Constant(_I32, 0))
        return Vector(
            self.builder, self.builder.shuffle_vector(vector, nothing, ir.Constant(ints(n_lanes), [0] * n_lanes))
        )

    @contextmanager
    def loop(self, n: Index) -> Iterator[ir.Value]:
        """Repeat the body ``n`` times (at least once); yields the index."""
        builder = self.builder
        before, body, after = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("end")
        builder.branch(body)
        builder.position_at_end(body)
        index = builder.phi(_I64)
        index.add_incoming(ir.Constant(_I64, 0), before)
        yield index
        following = builder.add(index, ir.Constant(_I64, 1))
        index.add_incoming(following, builder.block)
        builder.cbranch(builder.icmp_unsigned("<", following, position(n)), body, after)
        builder.position_at_end(after)

    def repeat(self, n: int, body: Callable[[Index], None], unroll: int) -> None:
        """``body(0)`` to ``body(n - 1)``, in this order, ``unroll`` of them a round."""
        if unroll >= n:
            for i in range(n):
                body(i)
            return
        with self.loop(n // unroll) as part:
            for i in range(unroll):
                body(self.times(part, unroll, i))

    def groups(self) -> AbstractContextManager[ir.Value]:
        """The loop over all groups of blocks."""
        return self.loop(self._n_groups)

    def times(self, index: Index, factor: int, plus: Index = 0) -> ir.Value:
        """``index * factor + plus``, for the index of a buffer."""
        return self.builder.add(self.builder.mul(position(index), ir.Constant(_I64, factor)), position(plus))

    def beside(self, index: Index, block: int, n_beside: int) -> ir.Value:
        """Where weight ``index`` lies when the vectors of ``n_beside`` blocks lie beside each other.

        Args:
            index: of a weight of a super-block.
            block: weights of a block.
            n_beside: blocks that can be read together as vectors of ``n_beside * width`` lanes.
        """
        block_index, within = self._divided(position(index), block)
        round_, side = self._divided(block_index, n_beside)
        return self.times(self.times(round_, block, within), n_beside, side)

    def load_group(self, group: ir.Value, x: Buffer, place: Callable[[ir.Value], ir.Value]) -> None:
        """Read one group of blocks: ``x[place(i)]`` becomes weight *i* of every block."""
        start = self.times(group, self.width * self.block_values)
        with self.loop(self.block_values // self.width) as part:
            rows = []
            for lane in range(self.width):
                first = self.builder.add(start, self.times(part, self.width, lane * self.block_values))
                pointer = self.builder.gep(self._x, [first], source_etype=_F32)
                rows.append(self.builder.load(pointer, typ=self.floats, align=4))
                magnitude = Vector(self.builder, rows[-1]).bits() & 0x7FFFFFFF
                self._magnitude.set((magnitude > self._magnitude.get()).where(magnitude, self._magnitude.get()))
            for i, row in enumerate(self._transposed(rows)):
                x[place(self.times(part, self.width, i))] = Vector(self.builder, row)

    def store_group(self, group: ir.Value, words: Buffer, n_words: int, byte: int = 0) -> None:
        """Write ``words[k]`` (int32) to byte ``byte + 4 * k`` of every block."""
        base = self.times(group, self.width * self.block_bytes, byte)
        flat = words.pointer
        with self.loop(self.width) as lane:
            block = self.builder.add(base, self.times(lane, self.block_bytes))
            with self.loop(n_words) as k:
                place = self.builder.gep(flat, [self.times(k, self.width, lane)], source_etype=_I32)
                target = self.builder.gep(self._out, [self.times(k, 4, block)], source_etype=_I8)
                self.builder.store(self.builder.load(place, typ=_I32), target, align=1)

    def store_halves(self, group: ir.Value, halves: Vector, byte: int) -> None:
        """Write the low 16 bits of every lane to byte ``byte`` of its block."""
        base = self.times(group, self.width * self.block_bytes, byte)
        for lane in range(self.width):
            half = self.builder.trunc(self.builder.extract_element(halves.value, ir.Constant(_I32, lane)), _I16)
            place = self.builder.add(base, ir.Constant(_I64, lane * self.block_bytes))
            self.builder.store(half, self.builder.gep(self._out, [place], source_etype=_I8), align=1)

    def finish(self) -> str:
        """The function as LLVM assembly."""
        largest = self._magnitude.get().value
        lanes = [self.builder.extract_element(largest, ir.Constant(_I32, lane)) for lane in range(self.width)]
        while len(lanes) > 1:
            first, second = lanes.pop(), lanes.pop()
            lanes.append(self.builder.select(self.builder.icmp_unsigned(">", first, second), first, second))
        self.builder.ret(lanes[0])
        return str(self.module)

    def _divided(self, index: ir.Value, divisor: int) -> tuple[ir.Value, ir.Value]:
        by = ir.Constant(_I64, divisor)
        return self.builder.udiv(index, by), self.builder.urem(index, by)

    def _allocate(self, type_: ir.Type, n: int) -> ir.Value:
        with self.builder.goto_block(self._entry):
            pointer = self.builder.alloca(type_, ir.Constant(_I32, n))
            pointer.align = 4 * type_.count
            pointer.type = _POINTER
        return pointer

    def _transposed(self, rows: list[ir.Value]) -> list[ir.Value]:
        """A square of ``width`` vectors on its side: each round deals two halves into each other."""
        half = self.width // 2
        low = ir.Constant(self.ints, [lane // 2 + self.width * (lane % 2) for lane in range(self.width)])
        high = ir.Constant(self.ints, [half + lane // 2 + self.width * (lane % 2) for lane in range(self.width)])
        for _ in range(self.width.bit_length() - 1):
            rows = [
                self.builder.shuffle_vector(rows[i], rows[i + half], mask) for i in range(half) for mask in (low, high)
            ]
        return rows
