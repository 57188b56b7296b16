"""From LLVM assembly to a function in memory, for the CPU at hand or a named one."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm


@dataclass(frozen=True)
class Machine:
    """What to compile for.

    Attributes:
        cpu: LLVM's name of it (``"haswell"``); the one at hand where it is empty.
        features: LLVM's list of what it can (``"+avx2,-fma"``); of the CPU at hand, what it reports.
        triple: LLVM's name of the system; this one where it is empty.
    """

    cpu: str = ""
    features: str = ""
    triple: str = ""


@dataclass(frozen=True)
class Compiled:
    """A kernel as machine code.

    Attributes:
        function: called with two addresses and a count; ctypes lets other threads run meanwhile.
        engine: what keeps the code in memory.
    """

    function: Callable[[int, int, int], int]
    engine: Any


def compile_kernel(name: str, code: str, machine: Machine | None = None) -> Compiled:
    """Compile the function ``name`` of a module in LLVM assembly, for the CPU at hand by default."""
    module, target = _optimized(code, machine or Machine())
    engine = llvm.create_mcjit_compiler(module, target)
    engine.finalize_object()
    signature = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    return Compiled(signature(engine.get_function_address(name)), engine)


def assembly(code: str, machine: Machine | None = None) -> str:
    """The instructions that a module in LLVM assembly becomes; the machine may be another one than this."""
    module, target = _optimized(code, machine or Machine())
    return str(target.emit_assembly(module))


def _optimized(code: str, machine: Machine) -> tuple[Any, Any]:
    if machine.triple:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        chosen = llvm.Target.from_triple(machine.triple)
    else:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        chosen = llvm.Target.from_default_triple()
    cpu, features = machine.cpu, machine.features
    if not cpu:
        cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    target = chosen.create_target_machine(cpu=cpu, features=features, opt=2, jit=not machine.triple)
    module = llvm.parse_assembly(code)
    module.triple = target.triple
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    options.loop_unrolling = options.loop_vectorization = options.slp_vectorization = False
    builder = llvm.create_pass_builder(target, options)
    builder.getModulePassManager().run(module, builder)
    return module, target
