"""Quantizing a GGUF with llama.cpp's own library, in a child process.

The call is one long C function: in a child, Ctrl-C ends it at once and a crash of the library is an error
message, not the end of the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from .child import run_child
from .errors import ExportError, UnsupportedError
from .workers import cpu_count


@dataclass(frozen=True)
class QuantType:
    """A type of GGUF file.

    Attributes:
        name: as llama.cpp spells it.
        ftype: its number (``enum llama_ftype`` in ``llama.h``).
        bits_per_weight: on average over a model, rounded up; for the disk check.
        rounding: the exact type that it stores, where it stores one.
    """

    name: str
    ftype: int
    bits_per_weight: float
    rounding: str | None = None


QUANT_TYPES: Final[Mapping[str, QuantType]] = MappingProxyType(
    {
        quant.name: quant
        for quant in (
            QuantType("F32", 0, 32, "f32"),
            QuantType("F16", 1, 16, "f16"),
            QuantType("BF16", 32, 16, "bf16"),
            QuantType("Q8_0", 7, 8.5),
            QuantType("Q6_K", 18, 7.0),
            QuantType("Q5_K_M", 17, 6.5),
            QuantType("Q4_K_M", 15, 6.0),
            QuantType("Q4_K_S", 14, 5.5),
        )
    }
)


def quant_type(name: str) -> QuantType:
    """Look a type up by name, in capitals or not.

    Raises:
        UnsupportedError: it is not covered.
    """
    try:
        return QUANT_TYPES[name.upper()]
    except KeyError as error:
        known = ", ".join(QUANT_TYPES)
        raise UnsupportedError(
            f"quant: unknown type {name!r}; use one of {known}; any other of llama.cpp's is made of an F16 file: "
            f"llama-quantize model-F16.gguf model.gguf {name.upper()}"
        ) from error


def quantize(source: Path, out: Path, quant: str, *, n_threads: int | None = None) -> None:
    """Write ``source`` (F32, F16 or BF16) as ``out`` in another type.

    Args:
        source: the GGUF to read.
        out: the GGUF to write; a temporary name, since it is not whole until this returns.
        quant: one of ``QUANT_TYPES``.
        n_threads: threads to use; as many as this process may use by default.

    Raises:
        UnsupportedError: the type is not covered.
        ExportError: llama.cpp refused the file, or its library crashed.
    """
    request = {
        "task": "quantize",
        "source": str(source),
        "out": str(out),
        "ftype": quant_type(quant).ftype,
        "n_threads": n_threads or cpu_count(),
    }
    result = run_child(request)
    if result.problem is not None:
        raise ExportError(f"{source}: llama.cpp could not quantize it to {quant} ({result.problem})")
