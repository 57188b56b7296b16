"""Arithmetic on many blocks at once, written down as LLVM code.

A kernel is a Python function that runs once, at compile time: every operator on a ``Vector`` appends one
instruction that works on all lanes side by side. No instruction carries a fast-math flag, so that no
compiler may reorder, contract or approximate what was written: each lane computes, to the bit, what a scalar
program with the same operations in the same order computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import llvmlite.ir as ir
import numpy as np

_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_F32 = ir.FloatType()
Index: TypeAlias = ir.Value | int
"""A position that is known while the kernel is written down, or computed when it runs."""


def floats(n_lanes: int) -> ir.Type:
    """The type of ``n_lanes`` float32."""
    return ir.VectorType(_F32, n_lanes)


def ints(n_lanes: int) -> ir.Type:
    """The type of ``n_lanes`` int32."""
    return ir.VectorType(_I32, n_lanes)


def constant(number: float, type_: ir.Type) -> ir.Value:
    """The same number in every lane, rounded to float32 or wrapped to int32."""
    if type_.element == _F32:
        return ir.Constant(type_, [float(np.float32(number))] * type_.count)
    return ir.Constant(type_, [int(np.uint32(int(number) & 0xFFFFFFFF).view(np.int32))] * type_.count)


@dataclass(frozen=True)
class Vector:
    """float32 or int32 values side by side, or the truth values of a comparison.

    Comparisons are false where a side is NaN, as in C. Shifts are those of unsigned numbers.
    """

    builder: ir.IRBuilder
    value: ir.Value

    @property
    def is_float(self) -> bool:
        """Whether the lanes are float32."""
        return bool(self.value.type.element == _F32)

    @property
    def n_lanes(self) -> int:
        """How many lanes it has."""
        return int(self.value.type.count)

    def __add__(self, other: Vector | float) -> Vector:
        return self._apply("fadd" if self.is_float else "add", other)

    def __sub__(self, other: Vector | float) -> Vector:
        return self._apply("fsub" if self.is_float else "sub", other)

    def __mul__(self, other: Vector | float) -> Vector:
        return self._apply("fmul" if self.is_float else "mul", other)

    def __truediv__(self, other: Vector | float) -> Vector:
        return self._apply("fdiv", other)

    def __and__(self, other: Vector | int) -> Vector:
        return self._apply("and_", other)

    def __or__(self, other: Vector | int) -> Vector:
        return self._apply("or_", other)

    def __lshift__(self, n_bits: int) -> Vector:
        return self._apply("shl", n_bits)

    def __rshift__(self, n_bits: int) -> Vector:
        return self._apply("lshr", n_bits)

    def __lt__(self, other: Vector | float) -> Vector:
        return self._compare("<", other)

    def __gt__(self, other: Vector | float) -> Vector:
        return self._compare(">", other)

    def equals(self, other: Vector | float) -> Vector:
        """Where both sides are the same number (+0 and -0 are)."""
        return self._compare("==", other)

    def differs(self, other: Vector | float) -> Vector:
        """C's ``!=``: true where a side is NaN."""
        if not self.is_float:
            return self._compare("!=", other)
        return Vector(self.builder, self.builder.fcmp_unordered("!=", self.value, self._lift(other)))

    def __neg__(self) -> Vector:
        return Vector(self.builder, self.builder.fneg(self.value))

    def __abs__(self) -> Vector:
        return (self.bits() & 0x7FFFFFFF).as_float()

    def where(self, yes: Vector | float, no: Vector | float) -> Vector:
        """``yes`` in the lanes where this comparison holds, ``no`` in the others; one of them is a vector."""
        known = yes if isinstance(yes, Vector) else no
        assert isinstance(known, Vector)
        chosen = self.builder.select(self.value, known._lift(yes), known._lift(no))
        return Vector(self.builder, chosen)

    def bits(self) -> Vector:
        """The same bits as int32."""
        return Vector(self.builder, self.builder.bitcast(self.value, ints(self.n_lanes)))

    def as_float(self) -> Vector:
        """The same bits as float32."""
        return Vector(self.builder, self.builder.bitcast(self.value, floats(self.n_lanes)))

    def to_float(self) -> Vector:
        """The same numbers as float32; exact below 2**24."""
        return Vector(self.builder, self.builder.sitofp(self.value, floats(self.n_lanes)))

    def sqrt(self) -> Vector:
        """The square root, correctly rounded."""
        name, type_ = f"llvm.sqrt.v{self.n_lanes}f32", self.value.type
        function = self.builder.module.globals.get(name)
        if function is None:
            function = ir.Function(self.builder.module, ir.FunctionType(type_, [type_]), name)
        return Vector(self.builder, self.builder.call(function, [self.value]))

    def _lift(self, other: Vector | float) -> ir.Value:
        if isinstance(other, Vector):
            return other.value
        return constant(other, self.value.type)

    def _apply(self, operation: str, other: Vector | float) -> Vector:
        return Vector(self.builder, getattr(self.builder, operation)(self.value, self._lift(other)))

    def _compare(self, sign: str, other: Vector | float) -> Vector:
        compare = self.builder.fcmp_ordered if self.is_float else self.builder.icmp_signed
        return Vector(self.builder, compare(sign, self.value, self._lift(other)))


@dataclass(frozen=True)
class Cell:
    """A variable of the kernel that holds one vector."""

    builder: ir.IRBuilder
    pointer: ir.Value
    type: ir.Type

    def get(self) -> Vector:
        """Its value."""
        return Vector(self.builder, self.builder.load(self.pointer, typ=self.type))

    def set(self, value: Vector) -> None:
        """Change it."""
        self.builder.store(value.value, self.pointer)

    def add(self, value: Vector) -> None:
        """Add to it."""
        self.set(self.get() + value)


@dataclass(frozen=True)
class Buffer:
    """``n`` vectors in the kernel's own memory, by a constant or a computed index."""

    builder: ir.IRBuilder
    pointer: ir.Value
    type: ir.Type

    def seen_as(self, type_: ir.Type) -> Buffer:
        """The same memory as vectors of another type."""
        return Buffer(self.builder, self.pointer, type_)

    def __getitem__(self, index: Index) -> Vector:
        return Vector(self.builder, self.builder.load(self._at(index), typ=self.type))

    def __setitem__(self, index: Index, value: Vector) -> None:
        self.builder.store(value.value, self._at(index))

    def _at(self, index: Index) -> ir.Value:
        return self.builder.gep(self.pointer, [position(index)], source_etype=self.type)


def position(index: Index) -> ir.Value:
    """An index as an int64 of the kernel."""
    return ir.Constant(_I64, index) if isinstance(index, int) else index


def word_of(numbers: Sequence[Vector]) -> Vector:
    """Four bytes as one little-endian int32."""
    first, second, third, fourth = numbers
    return first | (second << 8) | (third << 16) | (fourth << 24)
