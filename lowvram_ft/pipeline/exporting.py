"""GGUFs of a run: of the base, of a stage, and the one that is handed to the user. None is written twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowvram_ft import models
from lowvram_ft.export import create_in_ollama, export_model, move_export, provenance, verify_model
from lowvram_ft.pipeline.job import Job
from lowvram_ft.recipe import Stage


def export(job: Job, adapter: Path | None) -> dict[str, Any]:
    """Export base + adapter, verify the file, hand it to Ollama where the recipe says so.

    Args:
        job: the recipe in its run directory.
        adapter: of the last stage.
    """
    section, last = job.resolved.final.export, job.resolved.stages[-1]
    out = stage_gguf(job, last)
    # A file that did not pass its verification has another name: it is written again.
    rejected = job.run.finished("verify") is None and not out.is_file()
    result = job.step("export", lambda: _moved_or_written(job, last, adapter, out), again=rejected)
    job.step(
        "verify",
        lambda: verify_model(
            out, job.model_folder(), adapter, section, job.hardware, job.progress, sha256=result["sha256"]
        ),
    )
    if section.ollama is not None:
        name = section.ollama
        job.step("ollama", lambda: _ollama(name, Path(result["modelfile"])))
    return result


def export_stage(job: Job, stage: Stage, adapter: Path, *, again: bool = False) -> dict[str, Any]:
    """Export what a stage before the last has trained, in the type of the final export.

    Args:
        job: the recipe in its run directory.
        stage: which one.
        adapter: of that stage.
        again: write the file anew where it is gone.
    """
    out = stage_gguf(job, stage)
    lost = again and not out.is_file()
    return job.step(f"export_stage:{stage.name}", lambda: _moved_or_written(job, stage, adapter, out), again=lost)


def export_base(job: Job, *, again: bool = False) -> dict[str, Any]:
    """Export the base alone, in the same type, to compare with.

    Args:
        job: the recipe in its run directory.
        again: write the file anew where it is gone.
    """
    section = job.resolved.final.export
    out = job.run.path / "export" / f"base-{section.quant}.gguf"
    lost = again and not out.is_file()
    return job.step(
        "export:base", lambda: export_model(job.model_folder(), None, out, section, job.progress), again=lost
    )


def stage_gguf(job: Job, stage: Stage) -> Path:
    """Where the GGUF of a stage is written; that of the last one is the final export."""
    of_stage = () if stage is job.resolved.stages[-1] else (stage.name,)
    name = "-".join((job.resolved.name, *of_stage, job.resolved.final.export.quant))
    return job.run.path / "export" / f"{name}.gguf"


def write_gguf(job: Job, stage: Stage, adapter: Path | None, out: Path) -> dict[str, Any]:
    """Write base + adapter with the name and the provenance of the stage's own export, wherever the file lies.

    So the file of a round, if it turns out to be the best one, is that export, byte for byte.

    Args:
        job: the recipe in its run directory.
        stage: whose adapter it is.
        adapter: PEFT folder; None for the base alone.
        out: the ``.gguf`` to write.

    Raises:
        gguf_export.ExportError: see there; there is no room on the disk, among others.
    """
    base = models.resolve(job.plan()["base"])
    facts = provenance(base, [adapter] if adapter else [], job.resolved.name) | {"name": stage_gguf(job, stage).stem}
    return export_model(job.model_folder(), adapter, out, job.resolved.final.export, job.progress, facts)


def _moved_or_written(job: Job, stage: Stage, adapter: Path | None, out: Path) -> dict[str, Any]:
    """The GGUF that the best round of the stage was measured with, where there is one; else a new one."""
    measured = (job.run.finished(f"train:{stage.name}") or {}).get("gguf")
    if measured is not None and Path(measured["gguf"]).is_file():
        return move_export(measured, out)
    return write_gguf(job, stage, adapter, out)


def _ollama(name: str, modelfile: Path) -> dict[str, Any]:
    create_in_ollama(name, modelfile)
    return {"name": name}
