"""A memory plan as tables for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from lowvram_ft.memory.for_recipe import StagePlan

MIB = 1 << 20


def print_plan(stage: str, found: StagePlan, console: Console) -> None:
    """Print a plan: what was chosen, every term, the peaks, the verdict."""
    plan, setup = found.fit.plan, found.fit.setup
    for note in (*found.notes, *found.fit.steps):
        console.print(f"{stage}: {note}", markup=False)
    table = Table(title=f"{stage}: {found.model.id}, {setup.max_length} tokens", title_justify="left")
    table.add_column("term")
    table.add_column("where")
    table.add_column("MiB", justify="right")
    table.add_column("formula")
    for term in plan.terms:
        table.add_row(term.name, term.where, f"{term.bytes / MIB:,.0f}", term.formula)
    console.print(table)
    for phase in plan.phases:
        console.print(f"peak in {phase.name}: {phase.bytes / MIB:,.0f} MiB", markup=False)
    verdict = "[green]fits[/green]" if plan.fits else "[red]does not fit[/red]"
    if plan.device == "gpu":
        console.print(
            f"{verdict}: {plan.peak_gpu_bytes / MIB:,.0f} of {plan.usable_gpu_bytes / MIB:,.0f} MiB on the card, "
            f"{plan.peak_host_bytes / MIB:,.0f} of {plan.ram_bytes / MIB:,.0f} MiB on the host"
        )
    else:
        console.print(f"{verdict}: {plan.peak_host_bytes / MIB:,.0f} of {plan.ram_bytes / MIB:,.0f} MiB on the host")
    for note in plan.notes:
        console.print(f"note: {note}", markup=False)
    if found.fit.nearest:
        console.print(found.fit.nearest, markup=False)
