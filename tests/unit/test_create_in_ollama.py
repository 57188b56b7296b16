"""`ollama create`, with an `ollama` of our own on PATH."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lowvram_ft.errors import MachineError
from lowvram_ft.export import create_in_ollama

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "export with a space"
    folder.mkdir()
    (folder / "m.gguf").write_bytes(b"GGUF")
    modelfile = folder / "m.Modelfile"
    modelfile.write_text("FROM ./m.gguf\n")
    return modelfile


def _client(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `ollama` that writes down how it was called, then does what it is told."""
    folder.mkdir()
    client = folder / "ollama"
    client.write_text(f'#!/bin/sh\n{{ pwd; printf "%s\\n" "$@"; }} > "{folder}/called"\n{script}\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder / "called"


def test_the_client_is_run_beside_the_modelfile(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = '[ -f "$(sed -n "s/^FROM //p" "$4")" ] || exit 7'  # FROM is relative: the file has to be found
    called = _client(tmp_path / "bin", script, monkeypatch)
    create_in_ollama("my-tests:7b", model)
    assert called.read_text().splitlines() == [str(model.parent), "create", "my-tests:7b", "-f", "m.Modelfile"]
    (model.parent / "m.gguf").unlink()
    with pytest.raises(MachineError, match="ollama create my-tests:7b: ended with 7"):
        create_in_ollama("my-tests:7b", model)


def test_what_the_client_says_last_is_the_reason(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = "\\033[?25lgathering model components \\033[K\\rcopying 100%%\\nError: could not connect\\033[?25h\\n"
    said = f"printf '{drawn}' >&2"
    _client(tmp_path / "bin", f"{said}\nexit 1", monkeypatch)
    with pytest.raises(MachineError) as caught:
        create_in_ollama("m", model)
    assert str(caught.value) == "ollama create m: Error: could not connect; is `ollama serve` running?"
    assert caught.value.exit_code == 3


def test_without_a_client_the_command_is_said(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match=r"not installed; .* && ollama create m -f m\.Modelfile"):
        create_in_ollama("m", model)


def test_ctrl_c_ends_the_client(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = _client(tmp_path / "bin", f'echo $$ > "{tmp_path}/pid"; trap "" INT; exec sleep 60', monkeypatch)
    program = "import sys; from pathlib import Path; from lowvram_ft.export import create_in_ollama\n"
    program += "create_in_ollama('m', Path(sys.argv[1]))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(model)], env=environment, stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert called.exists()
    status = Path("/proc", (tmp_path / "pid").read_text().strip(), "status")
    assert _runs(status)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert b"KeyboardInterrupt" in stderr
    while _runs(status) and time.monotonic() < deadline:  # killed; whoever adopted it has to take it away yet
        time.sleep(0.05)
    assert not _runs(status)


def _runs(status: Path) -> bool:
    """Whether a process is there and no zombie, by its file under ``/proc``."""
    try:
        return re.search(r"^State:\s+Z", status.read_text(), re.MULTILINE) is None
    except (FileNotFoundError, ProcessLookupError):
        return False
