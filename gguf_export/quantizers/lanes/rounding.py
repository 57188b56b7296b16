"""The roundings of ggml's C, lane by lane."""

from __future__ import annotations

from .vectors import Vector

SHIFT = 12582912.0
"""1.5 * 2**23: what is added to it is rounded to an integer, ties to even, which stands in the low bits."""

_SHIFT_BITS = 0x4B400000
_EXPONENT_BITS = 0x4B000000
_MIDDLE = 0x00400000
_MANTISSA = 0x007FFFFF


def nearest(value: Vector) -> Vector:
    """``nearest_int`` of ggml-quants.c as int32, its results for NaN and for what is too large included."""
    return ((value + SHIFT).bits() & _MANTISSA) - _MIDDLE


def nearest_within(value: Vector, low: int, high: int) -> Vector:
    """``nearest_int`` of ggml-quants.c, cut to ``low .. high``, as the bits of the float ``SHIFT`` + result.

    As a float minus ``SHIFT`` it is the number as float32, and its low bits are those of the integer (two's
    complement): no conversion is needed. The mask makes a value that is NaN or too large come out as in C,
    where only the low 23 bits of the sum are looked at.
    """
    shifted = ((value + SHIFT).bits() & _MANTISSA) | _EXPONENT_BITS
    shifted = (shifted < _SHIFT_BITS + low).where(_SHIFT_BITS + low, shifted)
    return (shifted > _SHIFT_BITS + high).where(_SHIFT_BITS + high, shifted)


def nearest_float_within(value: Vector, low: int, high: int) -> Vector:
    """``nearest_within`` as float32."""
    return nearest_within(value, low, high).as_float() - SHIFT


def round_half_away(value: Vector) -> Vector:
    """C's ``(int8_t)roundf(x)`` for ``|x| < 128``, as int32; 0 for what is not finite, as x86 converts it."""
    magnitude = abs(value)
    even = (magnitude + SHIFT) - SHIFT
    rounded = (magnitude - even).equals(0.5).where(even + 1.0, even)
    whole = (rounded + SHIFT).bits() - _SHIFT_BITS
    signed = (value < 0.0).where(whole * -1, whole)
    return (magnitude < 256.0).where(signed, 0)


def truncate(value: Vector) -> Vector:
    """C's ``(int8_t)x`` for ``0 <= x < 128``, as int32; 0 for what is not finite, as x86 converts it."""
    nearest_ = (value + SHIFT) - SHIFT
    floor = (nearest_ > value).where(nearest_ - 1.0, nearest_)
    return (abs(value) < 256.0).where((floor + SHIFT).bits() - _SHIFT_BITS, 0)


def to_half(value: Vector) -> Vector:
    """float32 to the bits of float16, ties to even; too large becomes infinite. Not for NaN."""
    bits = value.bits()
    magnitude = bits & 0x7FFFFFFF
    odd = (magnitude >> 13) & 1
    normal = (magnitude - 0x38000000 + 0xFFF + odd) >> 13
    # 0.5 has the spacing of float16's smallest numbers, so that the addition rounds to a multiple of it.
    subnormal = (magnitude.as_float() + 0.5).bits() - 0x3F000000
    half = (magnitude < 0x38800000).where(subnormal, normal)
    half = (magnitude > 0x477FEFFF).where(0x7C00, half)
    return half | ((bits >> 16) & 0x8000)


def from_half(half: Vector) -> Vector:
    """The bits of float16 to float32, exactly. Not for NaN."""
    magnitude = half & 0x7FFF
    normal = (magnitude << 13) + 0x38000000
    subnormal = (magnitude.to_float() * 2.0**-24).bits()
    bits = (magnitude < 0x0400).where(subnormal, normal)
    bits = (magnitude > 0x7BFF).where(0x7F800000, bits)
    return (bits | ((half & 0x8000) << 16)).as_float()
