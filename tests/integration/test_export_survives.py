"""Exports that are killed, or whose disks fail: a clear error, nothing under the final name, nothing left behind."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gguf_export
from gguf_export import BrokenFileError, DiskSpaceError, ExportError, export, merge_to_safetensors
from tests.gguf_models import make_adapter, make_tiny_model

_KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
from gguf_export import export

base, adapter, out, n_kills, seed = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:])
export(base, adapter, out)  # everything is loaded and compiled now
began = time.monotonic()
export(base, adapter, out)
lasts = time.monotonic() - began
out.unlink()
rng = random.Random(seed)
found = []
for _ in range(n_kills):
    child = os.fork()
    if child == 0:
        export(base, adapter, out)
        os._exit(0)
    time.sleep(rng.uniform(0.02, 1.0) * lasts)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    names = sorted(path.name for path in out.parent.iterdir())
    found.append([os.WIFSIGNALED(status), names])
    if out.exists():  # finished before it was killed
        out.unlink()
print(json.dumps(found))
"""

_LIMITED = """
import resource, sys
from pathlib import Path
from gguf_export import ExportError, export

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
try:
    export(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
except ExportError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("model")
    base = make_tiny_model(
        folder / "base", "llama", tie=False, num_hidden_layers=6, hidden_size=768, intermediate_size=2048
    )
    return base, make_adapter(base, folder / "adapter")


def run(script: str, *arguments: object) -> str:
    root = str(Path(gguf_export.__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": root, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_killed_at_twenty_moments_it_leaves_no_half_file(model: tuple[Path, Path], tmp_path: Path) -> None:
    whole = export(*model, tmp_path / "whole.gguf").sha256
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "m.gguf"
    found = json.loads(run(_KILLED, *model, out, 20, 5))
    killed = [names for signalled, names in found if signalled]
    assert len(killed) >= 12, "most of them have to be killed before they end"
    assert sum(names == [".m.gguf.tmp-export"] for names in killed) >= 8, "and many while the file is being written"
    assert all(names in ([], [".m.gguf.tmp-export"], ["m.gguf"]) for names in killed)
    assert export(*model, out).sha256 == whole
    assert [path.name for path in folder.iterdir()] == ["m.gguf"]
    assert hashlib.sha256(out.read_bytes()).hexdigest() == whole


def test_what_has_the_final_name_after_a_kill_is_whole(model: tuple[Path, Path], tmp_path: Path) -> None:
    """An older export under the same name stays until the new one is whole."""
    out = tmp_path / "m.gguf"
    export(model[0], None, out, quant="Q8_0")
    before = out.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", _HALF_WAY, *map(str, (*model, out))],
        env=os.environ | {"PYTHONPATH": str(Path(gguf_export.__file__).parent.parent)},
        check=False,
    )
    assert done.returncode == -9
    assert out.read_bytes() == before


_HALF_WAY = """
import os, signal, sys
from pathlib import Path
from gguf_export import export

def kill(step, share):
    if share > 0.5:
        os.kill(os.getpid(), signal.SIGKILL)

export(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), progress=kill)
"""


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_a_file_that_may_not_grow_is_an_error(model: tuple[Path, Path], tmp_path: Path, share: float) -> None:
    size = export(*model, tmp_path / "whole.gguf").size_bytes
    folder = tmp_path / "out"
    folder.mkdir()
    said = run(_LIMITED, *model, folder / "m.gguf", int(size * share))
    assert said.startswith("ExportError"), said
    assert "cannot hold a file of" in said
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("after", [0, 3])
def test_a_disk_that_fills_up_is_an_error(
    model: tuple[Path, Path], tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else took the room that was there at the start."""
    import gguf_export.writing

    folder = tmp_path / "out"
    folder.mkdir()
    append, calls = gguf_export.writing._HashedFile.append, []

    def full(self: object, data: object) -> None:
        calls.append(1)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, data)  # type: ignore[arg-type]

    monkeypatch.setattr(gguf_export.writing._HashedFile, "append", full)
    with pytest.raises(DiskSpaceError, match="not enough disk space"):
        export(*model, folder / "m.gguf")
    assert list(folder.iterdir()) == []


def test_a_shard_that_cannot_be_read_is_named(
    model: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, calls = os.preadv, []

    def broken(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        calls.append(1)
        if len(calls) > 20:
            raise OSError(errno.EIO, "Input/output error")
        return read(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", broken)
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(BrokenFileError, match=r"model\.safetensors.*Input/output error"):
        export(*model, folder / "m.gguf")
    assert list(folder.iterdir()) == []


def test_a_shard_that_gets_shorter_while_it_is_read_is_named(model: tuple[Path, Path], tmp_path: Path) -> None:
    base = shutil.copytree(model[0], tmp_path / "base")
    weights = base / "model.safetensors"
    folder = tmp_path / "out"
    folder.mkdir()

    def cut(_: str, share: float) -> None:
        if share > 0.3:
            os.truncate(weights, weights.stat().st_size // 4)

    with pytest.raises(BrokenFileError, match=r"model\.safetensors"):
        export(base, model[1], folder / "m.gguf", progress=cut)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 7, 100, 0.5, 0.999])
@pytest.mark.parametrize("to", ["gguf", "safetensors"])
def test_a_truncated_adapter_is_found_before_anything_is_written(
    model: tuple[Path, Path], tmp_path: Path, keep: float, to: str
) -> None:
    adapter = shutil.copytree(model[1], tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    os.truncate(weights, int(weights.stat().st_size * keep) if isinstance(keep, float) else keep)
    folder = tmp_path / "out"
    folder.mkdir()
    write = export if to == "gguf" else merge_to_safetensors
    with pytest.raises(ExportError, match=r"adapter_model\.safetensors: (truncated|damaged)"):
        write(model[0], adapter, folder / "m")
    assert list(folder.iterdir()) == []
