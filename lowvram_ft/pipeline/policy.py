"""The models that answer in the rounds of a stage: GGUFs of what has been trained so far, or a server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lowvram_ft.inference import Generator
from lowvram_ft.pipeline.exporting import export_base, export_stage, write_gguf
from lowvram_ft.pipeline.job import Job
from lowvram_ft.preference.sampling import open_policy, weights_digest
from lowvram_ft.recipe import PreferenceSection, Stage


@dataclass(frozen=True)
class Policy:
    """A model that answers.

    Attributes:
        name: for people.
        digest: tells its weights from others.
        opened: opens it.
    """

    name: str
    digest: str
    opened: Callable[[], Generator]


def policy_at(gguf: Path | None, section: PreferenceSection, n_ctx: int, digest: str | None = None) -> Policy:
    """The server that a section names, or a GGUF.

    Args:
        gguf: the model trained so far; not read where there is a server.
        section: names the server, if any.
        n_ctx: context in tokens; a server has its own.
        digest: SHA-256 of the file, where it is known already.
    """
    opened = open_policy(gguf, section, n_ctx)
    if section.url is not None:
        return Policy(section.url, hashlib.sha256(section.url.encode()).hexdigest(), opened)
    assert gguf is not None  # open_policy has refused to have neither
    return Policy(gguf.name, digest or weights_digest(gguf), opened)


class Policies:
    """The models that the rounds of a stage begin with.

    Args:
        job: the recipe in its run directory.
        stage: one that learns from preferences.
        start: the adapter that it begins with; None for the base alone.
        previous: the stage that has trained it, in this run; None where none has.
    """

    def __init__(self, job: Job, stage: Stage, start: Path | None, previous: Stage | None) -> None:
        self._job, self._stage, self._start, self._previous = job, stage, start, previous
        self._n_ctx = job.resolved.final.export.n_ctx
        self._folder = job.run.path / "stages" / stage.name / "rounds"

    def before(self, number: int) -> Policy:
        """The model that a round begins with, exported where its file is not there; a step that all processes take.

        The first round's is the export of the stage before, where that is made anyway, or that of the base.

        Args:
            number: of the round, from 1; one more than there are rounds for the model after the last.
        """
        section, job = self._stage.recipe.preference, self._job
        if section.url is not None:
            return policy_at(None, section, self._n_ctx)
        if number == 1 and self._start is None:
            result = export_base(job, again=True)
        elif number == 1 and self._start is not None and self._shared:
            result = export_stage(job, self._shared, self._start, again=True)
        else:
            stage, adapter = self._trained_before(number)
            out = self._file(number)
            result = job.step(self._step(number), lambda: write_gguf(job, stage, adapter, out), again=not out.is_file())
        return policy_at(Path(result["gguf"]), section, self._n_ctx, result["sha256"])

    def file_after(self, number: int) -> dict[str, object] | None:
        """What the export of the model after a round gave, where it was made and is still there."""
        found = self._job.run.finished(self._step(number + 1))
        return found if found is not None and Path(found["gguf"]).is_file() else None

    def remove(self, number: int) -> None:
        """Delete the file that a round began with, unless it is an export of the run."""
        if self._job.ranks.leads:
            for path in (self._file(number), self._file(number).with_suffix(".Modelfile")):
                path.unlink(missing_ok=True)

    @property
    def _shared(self) -> Stage | None:
        """The stage whose own export is what the first round begins with."""
        return self._previous if self._job.resolved.final.eval.after_each_stage else None

    def _trained_before(self, number: int) -> tuple[Stage, Path | None]:
        if number == 1:
            return self._previous or self._stage, self._start
        return self._stage, self._folder / str(number - 1) / "adapter"

    def _file(self, number: int) -> Path:
        return self._folder / str(number) / f"policy-{self._job.resolved.final.export.quant}.gguf"

    def _step(self, number: int) -> str:
        return f"policy:{self._stage.name}/{number}"
