"""Importing the package, atomic files, and room on the disk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gguf_export.errors import DiskSpaceError, ExportError
from gguf_export.files import (
    cleaned_temporaries,
    commit,
    prepare_output,
    require_free_space,
    temporary_path,
)

TRAINING = ("lowvram_ft", "torch", "transformers", "peft", "trl", "unsloth", "datasets")


def test_importing_the_package_loads_nothing_that_trains_and_no_llama_cpp() -> None:
    code = "import json, sys, gguf_export.proof.verify; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    loaded = {name.split(".")[0] for name in json.loads(output)}
    assert not loaded & {*TRAINING, "llama_cpp", "gguf", "tokenizers"}
    assert "gguf_export" in loaded


def test_public_names_are_functions_whatever_was_imported_first() -> None:
    import gguf_export
    import gguf_export.export
    import gguf_export.proof.verify

    for name in ("export", "verify", "quantize"):
        assert callable(getattr(gguf_export, name))
    for name in gguf_export.__all__:
        assert hasattr(gguf_export, name)


def test_temporaries_are_removed_before_and_after(tmp_path: Path) -> None:
    out, other = tmp_path / "m.gguf", tmp_path / ".n.gguf.tmp-merged"
    temporary_path(out, "merged").mkdir()
    (temporary_path(out, "merged") / "x").touch()
    temporary_path(out, "quantized").touch()
    other.touch()

    def interrupted() -> None:
        with cleaned_temporaries(out):
            assert list(tmp_path.iterdir()) == [other]
            temporary_path(out, "merged").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == [other]


def test_commit_replaces_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    out.write_text("old")
    temporary_path(out, "merged").write_text("new")
    commit(temporary_path(out, "merged"), out)
    assert out.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_room_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    require_free_space(tmp_path, 10)
    with pytest.raises(DiskSpaceError, match=r"2\.00 GiB needed, 0\.0 MiB free") as caught:
        require_free_space(tmp_path, 2 << 30)
    assert (caught.value.exit_code, caught.value.needed_bytes, caught.value.free_bytes) == (3, 2 << 30, 10)


def test_output_must_be_a_file_that_can_be_made(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is a folder"):
        prepare_output(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot be made"):
        prepare_output(tmp_path / "file" / "sub" / "m.gguf")
    prepare_output(tmp_path / "a" / "b" / "m.gguf")
    assert (tmp_path / "a" / "b").is_dir()
