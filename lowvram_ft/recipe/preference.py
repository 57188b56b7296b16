"""The section of a recipe that says where preferences come from: tasks, answers, and the order among them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from lowvram_ft.recipe.section import Names, Section

TASK_SOURCES = "rows, standard_library, installed, installed:PACKAGE or repository:PATH"
"""Every source of tasks, as a message names them."""

Criterion = Literal["fate", "mutation_score", "coverage", "length"]


def is_task_source(text: str) -> bool:
    """Whether a text names a source of tasks."""
    kind, sign, rest = text.partition(":")
    if kind in ("rows", "standard_library"):
        return not sign
    return (kind == "installed" and bool(sign) == bool(rest)) or (kind == "repository" and bool(rest))


class PreferenceSection(Section):
    """What a model learns from its own answers (``train.method`` is ``dpo`` or ``rft``)."""

    tasks: Names = ("rows",)
    """Code to write tests for: ``rows`` (of the data section), ``standard_library``, ``installed[:PACKAGE]``,
    ``repository:PATH``."""
    max_tasks: int = Field(default=200, gt=0)
    """Tasks at the most, drawn with ``seed``, the same share of each source."""
    held_out_tasks: int = Field(default=0, ge=0)
    """Tasks that are kept back from training, to see whether a round has improved the model; 0 for none."""
    rounds: int = Field(default=1, gt=0)
    """Rounds of sampling, judging and training at the most, each from the adapter of the one before; they end when the
    held-out tasks no longer improve."""
    pairs: str | None = None
    """A JSONL file of pairs (``prompt``, ``chosen``, ``rejected``), or the folder of a pair set; where it is set,
    nothing is sampled."""
    url: str | None = None
    """An OpenAI-compatible server that runs the model trained so far; by default its GGUF is run in process."""
    samples_per_task: int = Field(default=8, ge=1)
    temperature: float = Field(default=0.8, gt=0)
    min_p: float = Field(default=0.05, ge=0, lt=1)
    max_new_tokens: int = Field(default=384, gt=0)
    seed: int = Field(default=0, ge=0)
    order: Annotated[tuple[Criterion, ...], Field(strict=False, min_length=1)] = ("fate", "mutation_score", "length")
    """What makes an answer the better one; a later criterion decides where all earlier ones are equal. ``fate``: the
    whole file passes and kills a mutant; it passes; some tests pass and kill; it fails; it holds no test."""
    winning_score: float = Field(default=0.5, ge=0, le=1)
    """Least mutation score of a winner."""
    losing_score: float = Field(default=0.0, ge=0, le=1)
    """Most mutation score of a loser that passes."""
    min_margin: float = Field(default=0.0, ge=0, le=1)
    """Least difference of mutation scores where both pass."""
    max_pairs_per_task: int = Field(default=4, gt=0)
    max_winners_per_task: int = Field(default=1, gt=0)
    """Different winners of a task that are learned from."""
    max_length_bias: float = Field(default=1.1, ge=1)
    """Most ratio of the mean length of winners and that of losers, and of losers and winners."""
    parts: bool = True
    """Whether a winner may be made of the passing tests of one answer, or of several."""

    @model_validator(mode="after")
    def _one_round(self) -> Self:
        for key in ("pairs", "url"):
            if getattr(self, key) is not None and self.rounds > 1:
                raise ValueError(
                    f"rounds: {self.rounds} with {key}: another round needs answers of the model that the "
                    f"first has trained; set rounds = 1, or leave {key} out"
                )
        return self

    @field_validator("tasks")
    @classmethod
    def _known_sources(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        for source in sources:
            if not is_task_source(source):
                raise ValueError(f'unknown source of tasks "{source}"; use {TASK_SOURCES}')
        return sources
