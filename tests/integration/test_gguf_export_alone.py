"""The exporter with its own needs and nothing else: it imports, exports and verifies."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

import gguf_export
import gguf_export.__main__
from gguf_export import Check, Verification
from gguf_export.__main__ import main
from tests.gguf_models import make_adapter, make_tiny_model

PACKAGE = Path(gguf_export.__file__).parent

_SCRIPT = """
import importlib.util, json, sys
from pathlib import Path
import gguf_export

base, adapter, out = map(Path, sys.argv[1:])
result = gguf_export.export(base, adapter, out)
found = gguf_export.verify(out, tokenizer_folder=base, n_predict=4)
foreign = ("torch", "transformers", "peft", "trl", "datasets", "safetensors", "lowvram_ft", "pydantic", "accelerate")
print(json.dumps({
    "sha256": result.sha256,
    "quantizers": dict(result.quantizers),
    "ok": found.ok,
    "summary": found.summary(),
    "foreign": [name for name in foreign if importlib.util.find_spec(name)],
    "package": gguf_export.__file__,
}))
"""


def requirements() -> list[Requirement]:
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in project["dependencies"]]


def closure(wanted: list[Requirement]) -> dict[str, importlib.metadata.Distribution]:
    """Every distribution that the requirements bring with them, as installed here."""
    found: dict[str, importlib.metadata.Distribution] = {}
    while wanted:
        requirement = wanted.pop()
        name = requirement.name.lower().replace("_", "-")
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[name] = importlib.metadata.distribution(requirement.name)
        wanted += [Requirement(line) for line in found[name].requires or ()]
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the exporter and what it names."""
    root = tmp_path_factory.mktemp("bare")
    venv.create(root, with_pip=False, symlinks=True)
    site = next(root.glob("lib/python*/site-packages"))
    for distribution in closure(requirements()).values():
        tops = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)
    (site / "gguf_export").symlink_to(PACKAGE)
    return root / "bin" / "python"


def test_it_imports_exports_and_verifies(bare: Path, tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base", "llama", tie=False)
    adapter = make_adapter(base, tmp_path / "adapter")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(bare), "-I", "-c", _SCRIPT, str(base), str(adapter), str(tmp_path / "m.gguf")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout)
    assert said["ok"], said["summary"]
    assert said["foreign"] == []
    assert set(said["quantizers"].values()) == {"lanes"}
    assert said["sha256"] == gguf_export.export(base, adapter, tmp_path / "here.gguf").sha256


def test_its_bounds_are_those_of_the_whole_kit() -> None:
    kit = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    theirs = {Requirement(line).name: line for line in kit["dependencies"]}
    own = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    assert [theirs[requirement.name] for requirement in requirements()] == own["dependencies"]
    for key in ("version", "requires-python", "license"):
        assert own[key] == kit[key]


def test_its_wheel_holds_every_module(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(PACKAGE)).build(directory=str(tmp_path), versions=["standard"])
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        f"gguf_export/{path.relative_to(PACKAGE)}" for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts
    }
    assert modules <= names
    assert "gguf_export/py.typed" in names


def test_the_command_exports_verifies_and_writes_a_modelfile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_tiny_model(tmp_path / "base", "qwen2", tie=True)
    adapter = make_adapter(base, tmp_path / "adapter")
    out = tmp_path / "m.gguf"
    capsys.readouterr()
    assert main([str(base), str(out), "--adapter", str(adapter), "--quant", "Q8_0", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["verification"]["ok"] and found["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert Path(found["modelfile"]).read_text().startswith("FROM ./m.gguf\nTEMPLATE ")
    assert "write: 100 % in" in said.err

    assert main([str(base), str(out), "--adapter", str(tmp_path)]) == 2
    assert f"has no adapter itself (no adapter_config.json); give one of: {adapter}\n" in capsys.readouterr().err

    monkeypatch.setattr(gguf_export.__main__, "verify", lambda *_, **__: FAILED)
    assert main([str(base), str(out), "-q"]) == 1
    assert "m.gguf.rejected: does not pass its verification (values: not finite)" in capsys.readouterr().err
    assert hashlib.sha256(out.read_bytes()).hexdigest() == found["sha256"], "the earlier one stays"


def test_an_export_needs_nothing_that_linux_alone_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_tiny_model(tmp_path / "base", "qwen2", tie=True)
    here = gguf_export.export(base, None, tmp_path / "here.gguf", quant="Q8_0")
    for name in ("sched_getaffinity", "preadv"):
        monkeypatch.delattr(os, name)
    there = gguf_export.export(base, None, tmp_path / "there.gguf", quant="Q8_0")
    assert there.sha256 == here.sha256
    assert gguf_export.verify(there.path, base=base, n_predict=2).ok


FAILED = Verification((Check("values", False, "not finite"),), "standalone", {})
