"""Which steps of an export a run does again, with the export itself left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lowvram_ft.errors import ExportRejected
from lowvram_ft.pipeline import Job, exporting
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import load


def test_a_rejected_file_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def write(_folder: Path, _adapter: Any, out: Path, *_: Any) -> dict[str, Any]:
        out.parent.mkdir(exist_ok=True)
        out.write_bytes(b"GGUF")
        written.append(out)
        return {"sha256": "0", "modelfile": "m"}

    def reject_once(out: Path, *_: Any, **__: Any) -> dict[str, Any]:
        if len(written) == 1:
            out.rename(out.with_suffix(".gguf.rejected"))
            raise ExportRejected("it does not pass")
        return {"ok": True}

    monkeypatch.setattr(exporting, "export_model", write)
    monkeypatch.setattr(exporting, "verify_model", reject_once)
    monkeypatch.setattr(Job, "model_folder", lambda _: tmp_path)
    monkeypatch.setattr(Job, "plan", lambda _: {"base": "smollm2-135m"})
    job = Job(load("demo"), tmp_path / "run", Progress(quiet=True), "test")
    with job.at_work():
        with pytest.raises(ExportRejected):
            exporting.export(job, None)
        exporting.export(job, None)
        assert len(written) == 2
        written[-1].unlink()
        exporting.export(job, None)  # what passed and was thrown away later is not made again
    assert len(written) == 2
