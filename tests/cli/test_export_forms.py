"""What `lowvram-ft export` can write beside a GGUF, chains of adapters, and bases that stay on the hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from safetensors.numpy import load_file

import gguf_export
from lowvram_ft import models
from tests.cli.conftest import Cli
from tests.cli.running import misused
from tests.gguf_models import make_adapter, make_tiny_model, write_imatrix
from tests.loopback_hub import Hub, serving

USAGE = "export [OPTIONS]"


@pytest.fixture
def second_adapter(tiny_llama: Path, tmp_path: Path) -> Path:
    return make_adapter(tiny_llama, tmp_path / "second", seed=1)


@pytest.fixture
def hub(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has the tiny Llama."""
    shutil.copytree(tiny_llama, tmp_path / "hub" / "models" / "someone" / "tiny")
    with serving(tmp_path / "hub") as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_a_chain_of_adapters_is_merged_in_order(
    here: Cli, tiny_llama: Path, tiny_adapter: Path, second_adapter: Path, tmp_path: Path
) -> None:
    chain = ["--adapter", tiny_adapter, "--adapter", second_adapter]
    outcome = here("export", "--base", tiny_llama, *chain, "--out", "m.gguf", "--quant", "F16", "--json", "-q")
    assert outcome.code == 0, outcome.stderr
    found = json.loads(outcome.stdout)
    assert found["verification"]["ok"] and found["verification"]["kind"] == "reference"
    library = gguf_export.export(
        tiny_llama, [tiny_adapter, second_adapter], tmp_path / "x.gguf", quant="F16", metadata={"name": "m"}
    )
    tensors = [
        {tensor.name: tensor.data.tobytes() for tensor in GGUFReader(path).tensors}
        for path in (tmp_path / "m.gguf", library.path)
    ]
    assert tensors[0] == tensors[1]


def test_a_mixture_of_experts(here: Cli, tmp_path: Path) -> None:
    # F32: the experts that a random router takes hang on the last bits of its input.
    base = make_tiny_model(tmp_path / "moe", "qwen3_moe", tie=False)
    outcome = here("export", "--base", base, "--out", "m.gguf", "--quant", "f32", "--json", "-q")
    assert outcome.code == 0, outcome.stderr
    verification = json.loads(outcome.stdout)["verification"]
    assert verification["ok"] and verification["kind"] == "reference"


def test_a_base_that_exists_only_in_4_bits(here: Cli, tiny_llama: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    shutil.copytree(tiny_llama, tmp_path / "nf4")
    (tmp_path / "nf4" / "model.safetensors").unlink()
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, quantization_config=settings, dtype=torch.float32)
    model.save_pretrained(tmp_path / "nf4")
    outcome = here("export", "--base", "nf4", "--adapter", tiny_adapter, "--out", "m.gguf", "--quant", "F16", "--json")
    assert outcome.code == 0, outcome.stderr
    verification = json.loads(outcome.stdout)["verification"]
    assert verification["ok"] and verification["kind"] == "reference"


def test_a_16_bit_folder(here: Cli, tiny_llama: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    command = ["export", "--base", tiny_llama, "--adapter", tiny_adapter, "--to", "safetensors", "--out", "merged"]
    outcome = here(*command, "--rounding", "f16", "-q")
    assert outcome.code == 0, outcome.stderr
    size = sum(path.stat().st_size for path in (tmp_path / "merged").iterdir())
    assert outcome.stdout == f"merged: f16, {size / 2**20:.1f} MiB in 1 files\n"
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert {str(values.dtype) for values in merged.values()} == {"float16"}
    again = here(*command)
    assert again.code == 1 and "merged: already there; remove it, or choose another folder" in again.stderr


def test_an_adapter_alone(here: Cli, tiny_llama: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    command = ["export", "--base", tiny_llama, "--adapter", tiny_adapter, "--to", "lora", "--out", "adapter.gguf"]
    outcome = here(*command, "--json", "-q")
    assert outcome.code == 0, outcome.stderr
    found = json.loads(outcome.stdout)
    reader = GGUFReader(tmp_path / "adapter.gguf")
    assert found["lora"] == "adapter.gguf" and 2 * found["n_pairs"] == len(reader.tensors)
    assert found["dtype"] == "f16" and {tensor.tensor_type.name for tensor in reader.tensors} == {"F16"}
    assert "ADAPTER" in here(*command).stdout


def test_what_fails_its_verification_leaves_the_earlier_file(
    here: Cli, tiny_llama: Path, tiny_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["export", "--base", tiny_llama, "--out", "out/m.gguf", "--quant", "F16", "-q"]
    assert here(*command, "--no-verify").code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(gguf_export, "linked_bytes", lambda _: 1)  # without a reference
    verified = gguf_export.Verification((gguf_export.Check("values", False, "not finite"),), "standalone", {})
    monkeypatch.setattr(gguf_export, "verify", lambda *_, **__: verified)
    outcome = here(*command, "--adapter", tiny_adapter)
    assert outcome.code == 1 and "out/m.gguf.rejected: does not pass its verification" in outcome.stderr
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert after.keys() == {*before, "m.gguf.rejected", "m.gguf.rejected.txt"}
    assert {name: after[name] for name in before} == before

    verified = gguf_export.Verification((), "standalone", {})
    outcome = here(*command, "--adapter", tiny_adapter, "--json")
    assert outcome.code == 0, outcome.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*before, "m.verification.json"}
    assert json.loads(outcome.stdout)["gguf"] == "out/m.gguf"
    assert (tmp_path / "out" / "m.gguf").read_bytes() == after["m.gguf.rejected"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--to", "lora"], "--to lora needs an --adapter."),
        (["--to", "safetensors", "--ollama", "x"], "--ollama goes with --to gguf (got --to safetensors)."),
    ],
)
def test_options_that_do_not_go_together(here: Cli, arguments: list[str], problem: str) -> None:
    assert here("export", "--base", "x", "--out", "y", *arguments) == misused(USAGE, problem)


def _fetched(hub: Hub) -> int:
    return sum(n_bytes for request, n_bytes in hub.sent if "model.safetensors" in request)


def test_an_importance_matrix(here: Cli, tiny_llama: Path, tmp_path: Path) -> None:
    columns = np.linspace(0, 100, 256, dtype=np.float32)
    matrix = write_imatrix(tmp_path / "imatrix.gguf", {"blk.0.ffn_up.weight": (columns, 3)})
    written = []
    for more in ([], ["--imatrix", matrix]):
        outcome = here("export", "--base", tiny_llama, "--out", "m.gguf", "--no-verify", "-q", *more)
        assert outcome.code == 0, outcome.stderr
        written.append({tensor.name: tensor.data.tobytes() for tensor in GGUFReader(tmp_path / "m.gguf").tensors})
    assert [name for name in written[0] if written[0][name] != written[1][name]] == ["blk.0.ffn_up.weight"]


def test_a_base_that_stays_on_the_hub(
    here: Cli, hub: Hub, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    command = ["export", "--base", "someone/tiny", "--out", "m.gguf", "--quant", "F16"]
    outcome = here(*command, "--stream")
    assert outcome.code == 0, outcome.stderr
    assert "someone/tiny: weights stay on the hub (as asked)" in outcome.stderr
    weights = (tiny_llama / "model.safetensors").stat().st_size
    assert weights * 0.99 < _fetched(hub) < weights * 1.05
    linked = tmp_path / ".cache" / "linked" / "someone--tiny"
    assert (linked / "tokenizer.json").is_file() and not list(tmp_path.glob(".cache/**/*.safetensors"))
    local = gguf_export.export(tiny_llama, None, tmp_path / "local.gguf", quant="F16", metadata={"name": "m"})
    streamed, whole = GGUFReader(tmp_path / "m.gguf"), GGUFReader(local.path)
    assert [t.data.tobytes() for t in streamed.tensors] == [t.data.tobytes() for t in whole.tensors]
    verification = json.loads((tmp_path / "m.verification.json").read_text(encoding="utf-8"))
    assert verification["ok"] and "stay on the hub" in verification["note"]


@pytest.mark.parametrize(("free_gib", "stays"), [(1, True), (100, False)])
def test_weights_stay_on_the_hub_where_the_disk_has_no_room(
    here: Cli, hub: Hub, tmp_path: Path, free_gib: int, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    assert here is not None  # sets the environment that the kit's cache is found by
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free_gib << 30))
    downloaded: list[str] = []
    monkeypatch.setattr(models, "materialize", lambda model: downloaded.append(model.id) or tmp_path)
    said: list[str] = []
    progress = type("Said", (), {"say": lambda self, text: said.append(text)})()
    folder = models.weights_folder(models.resolve("someone/tiny"), None, progress)
    assert bool(said) is stays and bool(downloaded) is not stays
    assert (gguf_export.linked_bytes(folder) > 0) is stays


def test_weights_that_were_downloaded_are_used(
    here: Cli, hub: Hub, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    assert here is not None
    snapshot = tmp_path / "hf" / "hub" / "models--someone--tiny" / "snapshots" / "abc"
    shutil.copytree(tiny_llama, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc", encoding="utf-8")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(models, "materialize", lambda model: tmp_path / model.id)
    assert models.weights_folder(models.resolve("someone/tiny"), None, None) == tmp_path / "someone/tiny"  # type: ignore[arg-type]
    assert hub.sent == []
