"""A memory plan for people: does it fit, how fast, what was given up; then every term."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from lowvram_ft.memory.fit import Fit
from lowvram_ft.memory.for_recipe import StagePlan
from lowvram_ft.memory.levers import CLASSES
from lowvram_ft.memory.plan import HEADROOM, MemoryPlan, Phase
from lowvram_ft.memory.search import Candidate
from lowvram_ft.memory.speed import StepTime
from lowvram_ft.memory.terms import Place, Term

MIB = 1 << 20
BAR = 8
"""Characters of the longest bar."""
_BOUND = {"compute": "its arithmetic", "card": "the card's memory", "bus": "the bus"}
_PLACES: tuple[tuple[Place, str], ...] = (("gpu", "on the card"), ("host", "on the host"), ("disk", "on the disk"))


def print_plan(stage: str, found: StagePlan, console: Console) -> None:
    """Print a plan: the verdict and what it cost first, every term below."""
    for note in found.notes:
        console.print(f"{stage}: {note}", markup=False)
    setup = found.fit.setup
    method = "" if found.method == "sft" else f", {found.method}{' (two sequences a row)' * setup.compares_pairs}"
    console.print(f"{stage}: {found.model.id}, {setup.max_length} tokens{method}", markup=False, style="bold")
    for line in _summary(found):
        console.print(f"  {line}")
    console.print(_terms(found.fit.plan))
    for note in found.fit.plan.notes:
        console.print(f"note: {note}", markup=False)


def _summary(found: StagePlan) -> Iterator[str]:
    fit, plan = found.fit, found.fit.plan
    yield _verdict(plan)
    if fit.nearest:
        yield f"the nearest that would: {_plain(fit.nearest)}"
    if fit.time is not None:
        yield from _speed(found, fit.time)
    if found.changes:
        yield f"given up ({found.cost}):" if plan.fits else "with all of this it still does not:"
        for change in found.changes:
            own = CLASSES[change.level - 1]
            yield f"  - {_plain(change.text)}" + (f" ({own})" if own != found.cost else "")
    elif plan.fits:
        yield "given up: nothing"
    if fit.runner_up is not None:
        yield f"runner-up: {_plain(_compared(fit, fit.runner_up))}"


def _verdict(plan: MemoryPlan) -> str:
    verdict = "[green]fits[/green]" if plan.fits else "[red]does not fit[/red]"
    host = f"{plan.peak_host_bytes / MIB:,.0f} of {plan.ram_bytes / MIB:,.0f} MiB on the host"
    if plan.device == "host":
        return f"{verdict}: {host} (most in {_largest(plan.host_phases).name})"
    card = f"{plan.peak_gpu_bytes / MIB:,.0f} of {plan.usable_gpu_bytes / MIB:,.0f} MiB on the card"
    card += f", {HEADROOM:.0%} kept free"
    return f"{verdict}: {card} (most in {_largest(plan.phases).name}), {host}"


def _speed(found: StagePlan, time: StepTime) -> Iterator[str]:
    yield (
        f"predicted on {time.card}: {time.tok_per_s:,.0f} tokens/s, {time.step_s:.1f} s a step; "
        f"held up by {_BOUND[time.bound]}"
    )
    if time.bus_s:
        yield (
            f"{time.hidden_share:.0%} of the bus traffic hides behind the card's work: "
            f"{time.resident_share:.0%} of the speed with everything on the card"
        )
    if found.train_s is not None:
        yield f"{_training(found)} {_hours(found.train_s)} at the most (if all rows were that long)"


def _training(found: StagePlan) -> str:
    if found.max_steps is not None:
        return f"{found.max_steps:,} steps take"
    if found.epochs == 1.0:
        return f"an epoch of {found.rows:,} rows takes"
    return f"{found.epochs:g} epochs of {found.rows:,} rows take"


def _compared(fit: Fit, other: Candidate) -> str:
    text = "; ".join(change.text for change in other.changes) or "nothing given up"
    if other.time is None or fit.time is None:
        return text
    slower = 1.0 - other.time.tok_per_s / fit.time.tok_per_s
    beside = "as fast" if abs(slower) < 0.005 else f"{abs(slower):.0%} {'slower' if slower > 0 else 'faster'}"
    return f"{beside}, {other.plan.peak_gpu_bytes / MIB:,.0f} MiB: {text}"


def _terms(plan: MemoryPlan) -> Table:
    """Every term, with a bar, those of a place together; the phases of a place below its terms."""
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("term", no_wrap=True)
    table.add_column("MiB", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("formula", overflow="fold")
    for place, label in _PLACES:
        terms = sorted((term for term in plan.terms if term.where == place), key=lambda term: -term.bytes)
        widest = max((term.bytes for term in terms), default=0)
        if terms:
            table.add_row(label, style="bold")
        for term in terms:
            table.add_row(f"  {term.name}", _mib(term), _bar(term.bytes, widest), _plain(term.formula))
        for phase in _phases(plan, place):
            table.add_row(f"  peak of {phase.name}", f"{phase.bytes / MIB:,.0f}", "", "", style="bold")
        table.add_section()
    return table


def _phases(plan: MemoryPlan, place: Place) -> tuple[Phase, ...]:
    if place == "disk":
        return ()
    return (plan.phases if place == plan.device else ()) + (plan.host_phases if place == "host" else ())


def _mib(term: Term) -> str:
    return f"{term.bytes / MIB:,.1f}" if 0 < term.bytes < 10 * MIB else f"{term.bytes / MIB:,.0f}"


def _bar(value: int, widest: int) -> str:
    return "█" * round(BAR * value / widest) if widest else ""


def _largest(phases: tuple[Phase, ...]) -> Phase:
    return max(phases, key=lambda phase: phase.bytes)


def _hours(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 100 * 3600 else f"{seconds / 86400:.1f} days"


def _plain(text: str) -> str:
    """Text in which square brackets are no markup."""
    return text.replace("[", r"\[")
