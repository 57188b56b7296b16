"""Which base model and how many rows: the best that fits by the plan, learns in the time there is, and answers in time.

Each candidate's recipe is written, loaded and planned as ``lowvram-ft plan`` does it; the first that passes is taken,
and the reason of every one before it is kept for the user.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lowvram_ft import models
from lowvram_ft.errors import MachineError
from lowvram_ft.hardware import Hardware
from lowvram_ft.init.candidates import Candidate, candidates
from lowvram_ft.init.machine import card_of, described
from lowvram_ft.init.material import Material
from lowvram_ft.init.pace import answer_s, cpu_tok_per_s
from lowvram_ft.init.stages import (
    OWN_ROWS,
    ROW_TOKENS,
    SAMPLE_EPOCHS,
    SAMPLE_ROWS,
    SAMPLE_TOKENS,
    StageText,
    learns_form,
    own_epochs,
    stages_for,
)
from lowvram_ft.init.text import Facts, recipe_text
from lowvram_ft.memory.for_recipe import StagePlan, plan_stages
from lowvram_ft.memory.machine import Q4_K_M_BITS
from lowvram_ft.memory.shape import ModelShape
from lowvram_ft.recipe import load
from lowvram_ft.run_dir import write_text

GIB = 2**30
SMALL_PARAMETERS = 600_000_000
"""Up to here the export is Q8_0: 4 bits would cost more than they save."""
TRAINING_SHARE = 0.8
"""Of the time there is; the rest is for validation, export and evaluation. Assumption."""
MOST_ROWS = 20_000
LEAST_ROWS, LEAST_ROWS_BESIDE_OWN = 1000, 300
"""Rows of the hub with which a base model is worth its time; one that gets through fewer is not taken, but for the
smallest. Fewer will do where the user's own rows follow. Assumptions."""


@dataclass(frozen=True)
class Wishes:
    """What the user asks for.

    Attributes:
        hours: that training may take.
        gate_s: seconds in which the model should answer; None for any.
        commercial: only what may be used commercially.
        offline: only what is here already.
        base: the only base model to try; None tries all.
    """

    hours: float = 8.0
    gate_s: float | None = 10.0
    commercial: bool = False
    offline: bool = False
    base: str | None = None


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        base: the base model.
        text: the recipe.
        plans: by stage.
        tok_per_s: estimate for the first stage.
        train_s: estimate for all stages.
        answer_s: estimate for a test file.
        passed_over: base model to why it was not taken.
        stages: of the recipe.
    """

    base: models.BaseModel
    text: str
    plans: Mapping[str, StagePlan]
    tok_per_s: float
    train_s: float
    answer_s: float
    passed_over: Mapping[str, str]
    stages: tuple[StageText, ...]


class _NotThisOne(Exception):
    """A candidate that is passed over; its text is the reason."""


def choose(material: Material, machine: Hardware, wishes: Wishes, *, pinned: bool, rows_file: str | None) -> Choice:
    """Choose base model and rows.

    Args:
        material: what the user brings.
        machine: that is planned for.
        wishes: of the user.
        pinned: whether the recipe is to name the machine's sizes, because it is not this machine.
        rows_file: where the user's own rows are, or will be.

    Raises:
        MachineError: no base model fits, or not the one that was wanted; says why.
        ModelError: the wanted one is unknown.
    """
    passed_over: dict[str, str] = {}
    tried = candidates(wishes.base)
    for candidate in tried:
        try:
            return _consider(candidate, material, machine, wishes, pinned, rows_file, passed_over, last=tried[-1])
        except _NotThisOne as reason:
            passed_over[candidate.base] = str(reason)
    told = "; ".join(f"{base}: {reason}" for base, reason in passed_over.items())
    raise MachineError(
        f"init: no base model for {described(machine)} ({told}); free some memory or disk, or give --base"
    )


def _consider(
    candidate: Candidate,
    material: Material,
    machine: Hardware,
    wishes: Wishes,
    pinned: bool,
    rows_file: str | None,
    passed_over: Mapping[str, str],
    *,
    last: Candidate,
) -> Choice:
    """One candidate.

    Raises:
        _NotThisOne: it is none for this machine and these wishes.
    """
    _require_allowed(candidate, wishes)
    model = models.resolve(candidate.base)
    shape = ModelShape.from_config(models.config_of(model))
    small = shape.n_parameters <= SMALL_PARAMETERS
    apache = wishes.commercial or material.brings == "coderm"
    form = "samples" if wishes.offline else "coderm" if apache else "kodcode"
    facts = Facts(
        base=model,
        machine=machine,
        pinned=pinned,
        quant="Q8_0" if small else "Q4_K_M",
        small=small,
        gate_s=wishes.gate_s,
        passed_over=dict(passed_over),
    )

    def stages(form_rows: int, own_rows: int | None) -> tuple[StageText, ...]:
        return stages_for(material, model.id, form_source=form, form_rows=form_rows, own_rows=own_rows, path=rows_file)

    facts, plans = _planned(facts, stages(MOST_ROWS, material.rows), machine)
    rates = {name: plan.fit.time.tok_per_s if plan.fit.time else cpu_tok_per_s(shape, machine)
             for name, plan in plans.items()}  # fmt: skip
    _require_disk(model, plans, machine)
    forced = candidate == last  # the smallest, or the one that the user wants: what it can do in the time
    form_rows, own_rows, train_s = _rows(material, form, rates, wishes.hours, forced)
    seconds = answer_s(shape, machine, bits=8.5 if small else Q4_K_M_BITS, n_ctx=facts.n_ctx)
    if wishes.gate_s is not None and seconds > wishes.gate_s and not forced:
        raise _NotThisOne(
            f"fits, and would answer in about {seconds:.0f} s, not {wishes.gate_s:g}: too much of it stays on the host"
            if machine.gpus
            else f"fits, and would answer in about {seconds:.0f} s, not {wishes.gate_s:g}, on a CPU"
        )
    found = stages(form_rows, own_rows)
    facts, plans = _planned(facts, found, machine)
    first = next(iter(rates.values()))
    return Choice(model, recipe_text(facts, found), plans, first, train_s, seconds, dict(passed_over), found)


def _require_allowed(candidate: Candidate, wishes: Wishes) -> None:
    if wishes.commercial and not candidate.commercial:
        raise _NotThisOne("its licence forbids commercial use")
    if wishes.offline and not models.is_here(models.resolve(candidate.base)):
        raise _NotThisOne("is not on this machine, and nothing is to be fetched")


def _planned(facts: Facts, stages: tuple[StageText, ...], machine: Hardware) -> tuple[Facts, Mapping[str, StagePlan]]:
    """The plan of the recipe as it would be written; on a CPU, with 16 bits where they fit, else with 4.

    Raises:
        _NotThisOne: neither fits.
    """
    ways = [facts] if machine.gpus else [facts.with_bits(16), facts.with_bits(4)]
    for way in ways:
        plans = dict(zip((stage.name for stage in stages), planned(recipe_text(way, stages), machine), strict=True))
        if all(plan.fit.plan.fits for plan in plans.values()):
            return way, plans
    short = next(plan for plan in plans.values() if not plan.fit.plan.fits)
    nearest = (short.fit.nearest or "").partition(";")[0]
    raise _NotThisOne(f"does not fit ({nearest})" if nearest else "does not fit")


def planned(text: str, machine: Hardware) -> list[StagePlan]:
    """Load a recipe's text as it will be loaded, and plan its stages."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.toml"
        write_text(path, text)
        return list(plan_stages(load(str(path)), machine, card=card_of(machine)).values())


def _require_disk(model: models.BaseModel, plans: Mapping[str, StagePlan], machine: Hardware) -> None:
    """A base that is here already needs no room for its download."""
    plan = max((plan.fit.plan for plan in plans.values()), key=lambda plan: plan.disk_bytes)
    needed, free = plan.disk_bytes, machine.disk_free_bytes
    if needed > free and models.is_here(model):
        needed -= plan.term("download").bytes
    if needed > free:
        raise _NotThisOne(f"a run writes {needed / GIB:.0f} GiB, and {free / GIB:.0f} GiB are free")


def _rows(
    material: Material, form: str, rates: Mapping[str, float], hours: float, forced: bool
) -> tuple[int, int | None, float]:
    """Rows of the hub, rows of the user's own (None for all), and seconds of all stages.

    Raises:
        _NotThisOne: too few would be got through.
    """
    room_s = hours * 3600 * TRAINING_SHARE
    if material.brings == "samples":
        seconds = SAMPLE_TOKENS / min(rates.values())
        if seconds > room_s and not forced:
            raise _NotThisOne(f"fits, and would train for about {seconds / 3600:.0f} h, not {hours:g}")
        return 0, None, seconds
    own_s, own_most = 0.0, None
    if material.source is not None:
        each_s = own_epochs(material) * ROW_TOKENS["own"] / rates["own"]
        wanted = OWN_ROWS if material.rows is None else material.rows
        possible = int(room_s / each_s)
        own_most = None if wanted <= possible else max(100, possible // 100 * 100)
        own_s = min(wanted, own_most or wanted) * each_s
        if own_most is not None and own_most < min(wanted, LEAST_ROWS) and not forced:
            raise _NotThisOne(f"fits, and would get through about {possible} of your rows in {hours:g} h")
    if not learns_form(material):
        return 0, own_most, own_s
    if form == "samples":
        return 0, own_most, own_s + SAMPLE_ROWS * SAMPLE_EPOCHS * ROW_TOKENS["samples"] / rates["functions"]
    possible = int((room_s - own_s) * rates["form"] / ROW_TOKENS[form])
    least = LEAST_ROWS if material.source is None else LEAST_ROWS_BESIDE_OWN
    if possible < least and not forced:
        raise _NotThisOne(f"fits, and would get through about {max(0, possible)} rows in {hours:g} h")
    rows = max(200, min(MOST_ROWS, possible) // 100 * 100)
    return rows, own_most, own_s + rows * ROW_TOKENS[form] / rates["form"]
