"""What is there: what testgen kept, which models were made of it, how attempts ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lowvram_ft.improve import registry
from lowvram_ft.improve.attempt import current
from lowvram_ft.improve.consent import given
from lowvram_ft.improve.home import Home
from lowvram_ft.improve.ledger import Ledger
from lowvram_ft.improve.memory import read_memory
from lowvram_ft.inference.in_use import read_in_use

if TYPE_CHECKING:
    from rich.console import Console


def listing(home: Home) -> dict[str, Any]:
    """All of it, as JSON types.

    Returns:
        ``folder``, ``consent``, ``repositories`` (name to counts, days, and the generations that learnt from it),
        ``generations``, ``in_use``, ``before`` (what a rollback puts into use), ``under_way``, ``attempts``.
    """
    found = read_in_use(home.root)
    generations = registry.generations(home)
    attempt = current(home)
    repositories = read_memory(home).by_repository()
    for one in generations:
        for name in one.facts["repositories"]:
            repositories.setdefault(name, {"answers": 0, "kept": 0, "traces": 0, "first": None, "last": None})
    for name, facts in repositories.items():
        facts["generations"] = [one.number for one in generations if name in one.facts["repositories"]]
    return {
        "folder": str(home.root),
        "consent": given(home),
        "repositories": repositories,
        "generations": [_generation(one) for one in generations],
        "in_use": None if found is None else found.generation,
        "before": found.history[-1] if found is not None and found.history else None,
        "under_way": None if attempt is None else attempt.id,
        "attempts": [dict(line) for line in Ledger(home.ledger).lines() if line["event"] == "ended"],
    }


def print_listing(found: Mapping[str, Any], console: Console) -> None:
    """The same for people."""
    from rich.table import Table

    console.print(f"{found['folder']} (on this machine alone)")
    if found["repositories"]:
        table = Table("repository", "answers", "kept", "mended", "from", "to", "learnt by")
        for name, facts in found["repositories"].items():
            counts = (str(facts[key]) for key in ("answers", "kept", "traces"))
            learnt = ", ".join(map(str, facts["generations"])) or "-"
            table.add_row(name, *counts, facts["first"] or "-", facts["last"] or "-", learnt)
        console.print(table)
    else:
        console.print("testgen has kept nothing yet")
    if found["generations"]:
        table = Table("model", "", "base", "from", "MiB", "sha256")
        for one in found["generations"]:
            word = {found["in_use"]: "in use", found["before"]: "before"}.get(one["generation"], "")
            parent = "-" if one["parent"] is None else str(one["parent"])
            size = f"{one['size_bytes'] / 2**20:.0f}"
            table.add_row(str(one["generation"]), word, one["base"], parent, size, one["sha256"][:12])
        console.print(table)
    else:
        console.print("no model is in use; begin with one: lowvram-ft improve --from RUN")
    for line in found["attempts"]:
        console.print(_ended(line))
    if found["under_way"] is not None:
        console.print(f"attempt {found['under_way']} is under way: lowvram-ft improve goes on with it")


def print_outcome(found: Mapping[str, Any], console: Console) -> None:
    """How an attempt ended, for people."""
    if found["status"] in ("nothing to do", "would train", "under way"):
        counts = ", ".join(f"{count} {name}" for name, count in found.items() if isinstance(count, int))
        console.print(f"{found['status']}{': ' + found['reason'] if found['reason'] else ''}")
        console.print(f"  {counts}")
        return
    console.print(_ended(found))
    if found["status"] == "adopted":
        console.print("  testgen, serve, bench and eval run it as --model improved; improve --rollback goes back")


def _ended(line: Mapping[str, Any]) -> str:
    number = line.get("generation")
    if line.get("p_value") is None:
        return f"model {number}: not judged ({line.get('reason')})"
    low, high = (100 * end for end in line["interval"])
    word = "replaces the one in use" if line["adopted"] else "is not better for sure, and is not used"
    return (
        f"model {number} {word}: useful passing files {100 * line['before']:.0f} % to {100 * line['after']:.0f} % of "
        f"{line['tasks']} held-out tasks ({line['gained']} gained, {line['lost']} lost; {low:+.0f} to {high:+.0f} "
        f"points; p {line['p_value']:.4f}, attempt {line['k']} needs {line['level']:.4f})"
    )


def _generation(one: registry.Generation) -> dict[str, Any]:
    return {
        "generation": one.number,
        "parent": one.facts["parent"],
        "base": one.facts["base"],
        "repositories": one.facts["repositories"],
        "time": one.facts["time"],
        "sha256": one.sha256,
        "size_bytes": one.gguf.stat().st_size,
    }
