"""The same bytes as PEFT's merge, llama.cpp's converter and llama.cpp's quantizer make one after the other.

The oracle is fetched once (see tests/official_route.py); where it cannot be, these tests are skipped with the reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gguf_export import QUANT_TYPES, export
from tests.gguf_models import make_adapter, make_tiny_model
from tests.official_route import Conversion, OracleUnavailable, convert, llama_cpp_source, peft_merge, quantize

PROJECTIONS = ["q_proj", "v_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "target_modules": PROJECTIONS},
    "patterns": {
        "rank_pattern": {"q_proj": 4, r".*\.1\.mlp\.up_proj": 2},
        "alpha_pattern": {"down_proj": 5, "layers.0.self_attn.v_proj": 64},
    },
    "embedding": {"target_modules": [*PROJECTIONS, "embed_tokens"]},
    "modules-to-save": {"target_modules": PROJECTIONS, "modules_to_save": ["embed_tokens", "norm", "o_proj"]},
}
FAMILIES = ("llama", "qwen2", "qwen3")
QUANTS = ("Q4_K_M", "Q8_0", "F16")


@dataclass(frozen=True)
class Case:
    """A base, its adapters, and the model that PEFT merged from them."""

    folder: Path
    base: Path
    adapters: tuple[Path, ...]
    merged: Path

    @classmethod
    def make(
        cls, folder: Path, base: Path, adapters: Sequence[Path], dtype: str = "float32", *, separate_head: bool = False
    ) -> Case:
        # The converter makes general.name of the folder's name.
        merged = peft_merge(base, adapters, folder / "merged", dtype, separate_head=separate_head)
        return cls(folder, base, tuple(adapters), merged)

    def conversion(self, outtype: str) -> Conversion:
        return Conversion(str(self.merged), str(self.folder / f"official.{outtype}.gguf"), outtype)

    def official(self, quant: str, outtype: str) -> str:
        """SHA-256 of the file that the official route makes, converted to ``outtype`` before it is quantized."""
        path = Path(self.conversion(outtype).out)
        if QUANT_TYPES[quant].rounding is None:
            path = quantize(path, self.folder / f"official.{quant}.gguf", QUANT_TYPES[quant].ftype)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def ours(self, quant: str, rounding: Any = "bf16") -> str:
        out = self.folder / f"ours.{quant}.gguf"
        return export(self.base, self.adapters, out, quant=quant, rounding=rounding, metadata={"name": "Merged"}).sha256


@pytest.fixture(scope="module", autouse=True)
def _oracle() -> None:
    try:
        llama_cpp_source()
    except OracleUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool, str], Case]:
    """Every family, tied and untied, with every kind of adapter; all of them converted in one go."""
    root, cases = tmp_path_factory.mktemp("official"), {}
    for family in FAMILIES:
        for tied in (True, False):
            base = make_tiny_model(root / f"{family}-{tied}", family, tied, dtype="bfloat16")
            for name, settings in ADAPTERS.items():
                folder = root / f"{family}-{tied}-{name}"
                adapter = make_adapter(base, folder / "adapter", seed=len(cases), **settings)
                separate = tied and name == "embedding"
                cases[family, tied, name] = Case.make(folder, base, [adapter], separate_head=separate)
    convert([case.conversion(outtype) for case in cases.values() for outtype in ("bf16", "f16")])
    return cases


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_is_the_official_one(
    cases: dict[tuple[str, bool, str], Case], family: str, tied: bool, name: str
) -> None:
    case = cases[family, tied, name]
    different = [
        quant for quant in QUANTS if case.ours(quant) != case.official(quant, "f16" if quant == "F16" else "bf16")
    ]
    assert not different
