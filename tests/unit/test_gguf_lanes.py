"""The fast quantizers against ggml's own, byte by byte; the roundings against numpy and the C library."""

import ctypes
import ctypes.util
import functools
import importlib.util
import platform
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_export.errors import ExportError, MissingLibraryError, UnsupportedError
from gguf_export.quantizers import block_quantizers, ggml
from gguf_export.quantizers.block_quantizers import QuantizerWarning, check_rows, row_quantizer
from gguf_export.quantizers.ggml import BLOCK_TYPES
from gguf_export.quantizers.lanes import kernels, rounding, scale_alone, scale_and_minimum
from gguf_export.quantizers.lanes.kernel import Kernel
from gguf_export.quantizers.lanes.kernels import KERNELS, WIDTH
from gguf_export.quantizers.lanes.machine import Machine, assembly, compile_kernel

F32 = np.float32
ON_X86 = platform.machine() in ("x86_64", "AMD64")


def runnable_machines():
    """Levels of x86 that this CPU can run, from SSE2 to AVX-512; elsewhere this CPU alone."""
    if not ON_X86:
        return [Machine()]
    has = llvm.get_host_cpu_features()
    levels = [("x86-64", "sse2"), ("haswell", "avx2"), ("skylake-avx512", "avx512f")]
    return [Machine(cpu) for cpu, feature in levels if has.get(feature)]


MACHINES = [
    Machine("haswell", "", "x86_64-unknown-linux-gnu"),
    Machine("znver4", "", "x86_64-unknown-linux-gnu"),
    Machine("apple-m1", "", "arm64-apple-darwin"),
]
FUSED = ("vfm", "vfnm", "fmla", "fmls", "fmadd", "fmsub", "fnmadd", "fnmsub")


@functools.cache
def code_of(name):
    return KERNELS[name].code()


HAS_FMA = not ON_X86 or llvm.get_host_cpu_features().get("fma")
FAULTS = ["one bit", "contracted"] if HAS_FMA else ["one bit"]


@pytest.fixture(scope="module")
def encoders():
    return {name: row_quantizer(name, "lanes")._encode for name in KERNELS}


def expected_bytes(name, rows):
    block_type = BLOCK_TYPES[name]
    out = np.empty((rows.shape[0], rows.shape[1] // block_type.block_values * block_type.block_bytes), np.uint8)
    ggml.encode(block_type, rows, out)
    return out


def lanes_bytes(encode, rows):
    out = np.empty((rows.shape[0], rows.shape[1] // encode.spec.block_values * encode.spec.block_bytes), np.uint8)
    assert encode(rows, out) == np.abs(rows).max()
    return out


def is_fused(text):
    lines = [line.split()[0] for line in text.splitlines() if line.startswith("\t") and line.split()]
    return any(line.startswith(FUSED) for line in lines)


@pytest.mark.parametrize("name", KERNELS)
def test_a_million_weights_of_every_kind_become_the_bytes_of_ggml(name, encoders):
    n_values = 0
    for kind, rows in check_rows(n_values=320 * 256, seed=1):
        assert np.array_equal(lanes_bytes(encoders[name], rows), expected_bytes(name, rows)), kind
        n_values += rows.size
    assert n_values >= 10**6


@pytest.mark.parametrize("machine", runnable_machines(), ids=lambda machine: machine.cpu or "native")
@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "Q8_0"])
def test_other_instruction_sets_write_the_same_bytes(name, machine):
    spec = KERNELS[name]
    encode = kernels.LanesEncoder(spec, compile_kernel(spec.function, code_of(name), machine))
    for kind, rows in check_rows(n_values=33 * 256, seed=2):
        assert np.array_equal(lanes_bytes(encode, rows), expected_bytes(name, rows)), kind


@pytest.mark.parametrize(("width", "beside"), [(4, 4), (8, 1)])
@pytest.mark.parametrize(
    ("name", "write"), [("Q4_K", scale_and_minimum.q4_k), ("Q6_K", scale_alone.q6_k)], ids=["Q4_K", "Q6_K"]
)
def test_how_many_lanes_work_side_by_side_changes_nothing(name, write, width, beside):
    compiled = compile_kernel(KERNELS[name].function, write(width, beside))
    for kind, rows in check_rows(n_values=16 * 256, seed=5):
        expected = expected_bytes(name, rows)
        found = np.empty_like(expected)
        compiled.function(rows.ctypes.data, found.ctypes.data, 16 // width)
        assert np.array_equal(found, expected), kind


def test_instruction_sets_differ():
    """Else the test above compiles the same code again and again."""
    machines = [Machine(cpu, "", MACHINES[0].triple) for cpu in ("x86-64", "haswell", "skylake-avx512")]
    texts = [assembly(code_of("Q8_0"), machine) for machine in machines]
    assert [("ymm" in text, "zmm" in text) for text in texts] == [(False, False), (True, False), (True, True)]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.cpu)
@pytest.mark.parametrize("name", ["Q4_K", "Q6_K"])
def test_no_cpu_gets_fused_multiply_and_add(name, machine):
    assert not is_fused(assembly(code_of(name), machine))


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.cpu)
def test_fused_multiply_and_add_is_seen_where_it_is_allowed(machine):
    assert is_fused(assembly(contracted(code_of("Q4_0")), machine))


def contracted(code):
    """What a compiler with ``-ffp-contract=fast`` is allowed to make of the kernel."""
    for operation in ("fmul", "fadd", "fsub"):
        code = code.replace(f" {operation} ", f" {operation} contract ")
    return code


@pytest.mark.parametrize("n_blocks", [1, WIDTH - 1, WIDTH, WIDTH + 1, 2 * WIDTH + 3])
@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "Q5_0"])
def test_any_number_of_blocks(name, n_blocks, encoders):
    rows = np.random.default_rng(n_blocks).standard_normal((1, n_blocks * KERNELS[name].block_values)).astype(F32)
    assert np.array_equal(lanes_bytes(encoders[name], rows), expected_bytes(name, rows))


corners = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1.17549435e-38, 3.4e38, -3.4e38, 6.1e-5, 65504.0])
weights = st.one_of(corners, st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(-8, 8).map(float))


@settings(max_examples=60, deadline=None)
@given(values=st.lists(weights, min_size=1, max_size=64), shuffle=st.integers(0, 2**32 - 1))
def test_blocks_of_few_and_odd_values(values, shuffle):
    rows = np.random.default_rng(shuffle).choice(np.array(values, F32), (1, WIDTH * 256))
    for name in ("Q4_K", "Q6_K"):
        encode = row_quantizer(name, "lanes")._encode
        assert np.array_equal(lanes_bytes(encode, rows), expected_bytes(name, rows))


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_threads_change_nothing(name):
    rows = np.random.default_rng(3).standard_normal((301, 2816)).astype(F32)
    with ThreadPoolExecutor(3) as executor:
        assert np.array_equal(row_quantizer(name)(rows, executor), row_quantizer(name, "ggml")(rows))


def test_the_choice_is_visible():
    assert (row_quantizer("Q4_K").quantizer, row_quantizer("Q4_K").reason) == ("lanes", "")
    assert (row_quantizer("Q4_K", "ggml").quantizer, row_quantizer("Q4_K", "ggml").reason) == ("ggml", "asked for")
    assert row_quantizer("Q5_1").quantizer == "ggml"
    with pytest.raises(UnsupportedError, match="Q5_1: the fast quantizer cannot be used"):
        row_quantizer("Q5_1", "lanes")
    with pytest.raises(UnsupportedError, match="unknown type 'Q2_K'"):
        row_quantizer("Q2_K")


@pytest.mark.parametrize("quantizer", ["lanes", "ggml"])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 16 * 256, -1])
def test_weights_that_are_not_finite_are_refused(quantizer, value, place):
    rows = np.full((17, 256), 0.5, F32)
    row_quantizer("Q4_K", quantizer)(rows)
    rows.flat[place] = value
    for name in ("Q4_K", "Q6_K", "Q8_0"):
        with pytest.raises(ExportError, match=f"{name}: weights that are infinite or NaN"):
            row_quantizer(name, quantizer)(rows)


@pytest.mark.parametrize("quantizer", ["lanes", "ggml"])
def test_weights_too_large_for_the_scales_are_refused_as_ggml_refuses_them(quantizer):
    for name, block_type in BLOCK_TYPES.items():
        if name not in KERNELS:
            continue
        for largest, fits in ((1e5, True), (1e38, False)):
            rows = np.linspace(-largest, largest, 256, dtype=F32)[None]
            data = expected_bytes(name, rows)
            # ggml's Q6_K makes zeros of such weights and finds nothing wrong with them.
            assert ggml_says_valid(block_type.number, data) is (fits or name == "Q6_K")
            assert fits or name != "Q6_K" or not data.any()
            if fits:
                assert np.array_equal(row_quantizer(name, quantizer)(rows), data)
            else:
                with pytest.raises(ExportError, match="too large for the float16 scales"):
                    row_quantizer(name, quantizer)(rows)


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_scales_of_small_weights_are_never_too_large(name):
    """The check of the scales is left out for them."""
    for kind, rows in check_rows(n_values=64 * 256, seed=4):
        largest = np.abs(rows).max()
        if largest:
            rows = (rows.astype(np.float64) / largest * block_quantizers._SURELY_FITS).astype(F32)  # noqa: PLW2901
        assert not row_quantizer(name)._has_infinite_scales(expected_bytes(name, rows)), kind
    rows = np.linspace(-1e38, 1e38, 256, dtype=F32)[None]
    assert name == "Q6_K" or row_quantizer(name)._has_infinite_scales(expected_bytes(name, rows))


def ggml_says_valid(number, data):
    folder = Path(importlib.util.find_spec("llama_cpp").submodule_search_locations[0]) / "lib"
    path = next(path for path in folder.iterdir() if path.name in ggml._FILE_NAMES)
    validate = ctypes.CDLL(str(path)).ggml_validate_row_data
    validate.restype, validate.argtypes = ctypes.c_bool, (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
    return validate(number, data.ctypes.data, data.size)


def test_columns_must_be_whole_blocks():
    with pytest.raises(UnsupportedError, match=r"Q4_K: rows must be a multiple of 256 \(got 576\)"):
        row_quantizer("Q4_K")(np.zeros((2, 576), F32))
    with pytest.raises(ValueError, match="expected contiguous uint8"):
        row_quantizer("Q8_0")(np.zeros((2, 64), F32), out=np.zeros((2, 67), np.uint8))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_quantizer_with_other_bytes_is_not_used(fault, monkeypatch):
    sound = row_quantizer("Q4_K", "lanes")._encode

    def one_bit(values, out):
        largest = sound(values, out)
        out.flat[-1] ^= 1
        return largest

    spec = KERNELS["Q4_K"]
    faulty = {
        "one bit": one_bit,
        "contracted": kernels.LanesEncoder(spec, compile_kernel(spec.function, contracted(code_of("Q4_K")))),
    }[fault]
    monkeypatch.setattr(kernels, "lanes_encoder", lambda name: faulty)
    with pytest.warns(QuantizerWarning, match="Q4_K: quantizing with ggml's slow code: its bytes differ"):
        quantizer = row_quantizer.__wrapped__("Q4_K")
    assert quantizer.quantizer == "ggml"
    rows = np.random.default_rng(0).standard_normal((4, 512)).astype(F32)
    assert np.array_equal(quantizer(rows), expected_bytes("Q4_K", rows))


def test_a_compiler_that_fails_is_not_used(monkeypatch):
    def fails(name):
        raise RuntimeError("LLVM IR parsing error")

    monkeypatch.setattr(kernels, "lanes_encoder", fails)
    with pytest.warns(QuantizerWarning, match="does not compile it here: LLVM IR parsing error"):
        assert row_quantizer.__wrapped__("Q6_K").quantizer == "ggml"


def without(monkeypatch, package):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else real(name, *rest))


def test_without_llvmlite_ggml_is_used_and_nobody_is_warned(monkeypatch):
    without(monkeypatch, "llvmlite")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantizer = row_quantizer.__wrapped__("Q4_K")
    assert (quantizer.quantizer, quantizer.reason) == ("ggml", "llvmlite is not installed")


def test_without_llama_cpp_python_there_is_nothing_to_check_against(monkeypatch):
    without(monkeypatch, "llama_cpp")
    with pytest.raises(MissingLibraryError, match="pip install llama-cpp-python"):
        ggml.quantize_chunk.__wrapped__()


def test_llvmlite_is_imported_when_it_is_used():
    program = "import sys, gguf_export, gguf_export.quantizers.block_quantizers; print('llvmlite' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def applied(name, function, values):
    """``function`` of every value, computed by a kernel of its own."""
    kernel = Kernel(name, WIDTH, WIDTH, 4 * WIDTH)
    x, words = kernel.buffer(WIDTH, kernel.floats), kernel.buffer(WIDTH, kernel.ints)
    with kernel.groups() as group:
        kernel.load_group(group, x, lambda i: i)
        for i in range(WIDTH):
            words[i] = function(x[i])
        kernel.store_group(group, words, WIDTH)
    compiled = compile_kernel(name, kernel.finish())
    values = np.ascontiguousarray(values)
    assert values.size % WIDTH**2 == 0
    out = np.empty(values.size, np.uint32)
    compiled.function(values.ctypes.data, out.ctypes.data, values.size // WIDTH**2)
    return out


def many_floats():
    """Every sign, exponent and high mantissa bit, with low bits that round up, down and to even."""
    high = np.arange(1 << 16, dtype=np.uint32) << 16
    low = np.array([0, 1, 0x0FFF, 0x1000, 0x1001, 0x2000, 0x3000, 0x5000, 0x7FFF, 0x8000, 0xF000, 0xFFFF], np.uint32)
    values = (high[:, None] | low).ravel().view(F32)
    return np.where(np.isnan(values), F32(0), values)


def test_float16_is_rounded_as_numpy_rounds_it():
    values = many_floats()
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).view(np.uint16)
    assert np.array_equal(applied("half", rounding.to_half, values), expected)


def test_every_float16_is_widened_as_numpy_widens_it():
    halves = np.arange(1 << 16, dtype=np.uint32)
    found = applied("widen", lambda x: rounding.from_half(x.bits()).bits(), halves.view(F32)).view(F32)
    expected = halves.astype(np.uint16).view(np.float16).astype(F32)
    numbers = ~np.isnan(expected)
    assert np.array_equal(found[numbers].view(np.uint32), expected[numbers].view(np.uint32))


def test_roundings_to_integers_are_those_of_c():
    rng = np.random.default_rng(0)
    ties = np.arange(-128, 128, 0.5, dtype=F32)
    below, above = np.nextafter(ties, F32(-np.inf)), np.nextafter(ties, F32(np.inf))
    values = np.concatenate([ties, below, above, rng.uniform(-127, 127, 2560 - 3 * ties.size).astype(F32)])
    values = values[np.abs(values) < 127.5][: 9 * 256]
    as_int = {}
    for name, function in (("away", rounding.round_half_away), ("even", rounding.nearest)):
        as_int[name] = applied(name, function, values).view(np.int32)
    library = ctypes.CDLL(ctypes.util.find_library("m"))
    library.roundf.restype, library.roundf.argtypes = ctypes.c_float, (ctypes.c_float,)
    assert np.array_equal(as_int["away"], [int(library.roundf(value)) for value in values])
    assert np.array_equal(as_int["even"], np.rint(values).astype(np.int32))
    positive = np.abs(values)
    assert np.array_equal(applied("down", rounding.truncate, positive).view(np.int32), positive.astype(np.int32))


def test_what_is_no_integer_comes_out_as_in_ggml():
    values = np.full(256, 1e30, F32)
    values[:6] = np.nan, np.inf, -np.inf, -1e30, 4194303.0, -4194304.0
    shifted = (values + F32(12582912.0)).view(np.int32)
    assert np.array_equal(applied("odd", rounding.nearest, values).view(np.int32), (shifted & 0x7FFFFF) - 0x400000)
    assert (applied("away", rounding.round_half_away, values)[:4] == 0).all()


def test_comparisons_with_nan_are_those_of_c():
    values = np.full(256, np.nan, F32)
    values[128:] = 1.0

    def code(x):
        zero = x.bits() & 0
        less, differs = (x < 2.0).where(1, zero), x.differs(1.0).where(2, zero)
        return less | differs | (abs(x) > 0.5).where(4, zero)

    assert set(applied("nan", code, values)[:128]) == {2}
    assert set(applied("nan", code, values)[128:]) == {1 | 4}


def test_kernels_and_block_types_have_the_sizes_of_gguf():
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    for name, spec in KERNELS.items():
        assert (spec.block_values, spec.block_bytes) == (BLOCK_TYPES[name].block_values, BLOCK_TYPES[name].block_bytes)
    for name, block_type in BLOCK_TYPES.items():
        assert GGMLQuantizationType[name] == block_type.number
        assert GGML_QUANT_SIZES[GGMLQuantizationType[name]] == (block_type.block_values, block_type.block_bytes)
