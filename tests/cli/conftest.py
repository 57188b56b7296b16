"""The command line in a folder of the test's own, as a process or in this one."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lowvram_ft.cli import main
from tests.cli.running import Outcome, ended, environment, run
from tests.gguf_models import make_adapter

Cli = Callable[..., Outcome]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run a command in a process of its own, in ``tmp_path``."""
    return lambda *arguments, **env: run(tmp_path, *arguments, **env)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process, in ``tmp_path``, where a test puts a fake in place of a part."""
    monkeypatch.chdir(tmp_path)
    for name, value in environment(tmp_path / ".cache").items():
        monkeypatch.setenv(name, value)

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["lowvram-ft", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capfd.readouterr()
        code = exit_.value.code
        assert code is None or isinstance(code, int)
        return ended(code or 0, out, err)

    return call


@pytest.fixture(scope="session")
def tiny_adapter(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the tiny Llama."""
    return make_adapter(tiny_llama, tmp_path_factory.mktemp("adapters") / "llama")


@pytest.fixture(scope="session")
def tiny_gguf(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama as a GGUF."""
    import gguf_export

    return gguf_export.export(tiny_llama, None, tmp_path_factory.mktemp("ggufs") / "tiny.gguf", quant="F16").path


@pytest.fixture
def cut(tmp_path: Path) -> Callable[[Path, str], Path]:
    """Copy a folder, or a file, and cut a file off in its middle."""

    def copy(source: Path, name: str) -> Path:
        target = tmp_path / source.name
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
        file = target / name if source.is_dir() else target
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        return target

    return copy
