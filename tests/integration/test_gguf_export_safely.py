"""An export that fails, or is broken off, over an earlier one: that one stays as it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

import gguf_export.__main__
from gguf_export import Check, Verification
from gguf_export.__main__ import main
from tests.gguf_models import make_adapter, make_tiny_model

FAILED = Verification((Check("values", False, "not finite"),), "standalone", {})
PASSED = Verification((Check("values", True, "finite"),), "standalone", {})
NAMES = ["m.Modelfile", "m.gguf"]
QUICK = ("--quant", "F16", "-q")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "base", "qwen2", tie=True)


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return make_adapter(base, base.parent / "adapter")


@pytest.fixture
def out(base: Path, tmp_path: Path) -> Path:
    """An earlier export with its Modelfile."""
    path = tmp_path / "out" / "m.gguf"
    assert main([str(base), str(path), "--no-verify", "--n-ctx", "1024", *QUICK]) == 0
    return path


def held(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.parent.iterdir()}


def answer(monkeypatch: pytest.MonkeyPatch, found: Verification) -> None:
    monkeypatch.setattr(gguf_export.__main__, "verify", lambda *_, **__: found)


def test_what_fails_its_verification_takes_nothing_away(
    base: Path, adapter: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = held(out)
    answer(monkeypatch, FAILED)
    assert main([str(base), str(out), "--adapter", str(adapter), *QUICK]) == 1
    after = held(out)
    assert after.keys() == {*NAMES, "m.gguf.rejected", "m.gguf.rejected.txt"}
    assert {name: after[name] for name in NAMES} == before
    assert after["m.gguf.rejected"] not in before.values() and after["m.gguf.rejected"].startswith(b"GGUF")
    assert b"FAILED  values" in after["m.gguf.rejected.txt"]
    assert f"; {out} is the earlier one, as it was\n" in capsys.readouterr().err

    answer(monkeypatch, PASSED)
    assert main([str(base), str(out), "--adapter", str(adapter), *QUICK]) == 0
    again = held(out)
    assert again.keys() == set(NAMES), "what is rejected is out of date now"
    assert again["m.gguf"] == after["m.gguf.rejected"]
    assert b"FROM ./m.gguf\n" in again["m.Modelfile"] and b"num_ctx 4096" in again["m.Modelfile"]


def test_what_is_broken_off_while_it_is_verified_takes_nothing_away(
    base: Path, adapter: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = held(out)

    def stops(path: Path, **_: Any) -> NoReturn:
        assert path.name == "m.gguf" and path.is_file() and path.read_bytes() != before["m.gguf"]
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_export.__main__, "verify", stops)
    assert main([str(base), str(out), "--adapter", str(adapter), *QUICK]) == 130
    assert held(out) == before
    assert "nothing is half-written" in capsys.readouterr().err


_STOPPED = """
import os, sys, time
import gguf_export.__main__ as program

def verify(*_, **__):
    print("verifying", flush=True)
    time.sleep(60)

program.verify = verify
sys.exit(program.main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process at once, whatever it is sent")
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_takes_nothing_away(base: Path, out: Path, how: signal.Signals, code: int) -> None:
    before = held(out)
    command = [sys.executable, "-c", _STOPPED, str(base), str(out), "--quant", "Q8_0", "-q"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "verifying\n"
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (code, "stopped; nothing is half-written: run the same command again\n")
    assert held(out) == before


def test_what_a_killed_export_left_is_removed_by_the_next(base: Path, out: Path) -> None:
    folder = out.with_name(".m.gguf.tmp-stage")
    folder.mkdir()
    (folder / "m.gguf").write_bytes(b"GGUF")
    assert main([str(base), str(out), "--no-verify", *QUICK]) == 0
    assert held(out).keys() == set(NAMES)


def test_a_modelfile_of_the_earlier_template_does_not_stay_beside_the_new_file(
    base: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] | upper }}<|im_end|>{% endfor %}", encoding="utf-8")
    capsys.readouterr()
    assert main([str(base), str(out), "--chat-template", str(template), "--no-verify", "--json", *QUICK]) == 0
    assert json.loads(capsys.readouterr().out)["modelfile"] is None
    assert held(out).keys() == {"m.gguf"}


def test_an_export_that_comes_to_nothing_leaves_no_folder(base: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for place in ("there", "new/newer"):
        assert main([str(base), str(tmp_path / place / "m.gguf"), "--eos-token", "none such", "--no-verify"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["there"], "what the export itself made goes again"
