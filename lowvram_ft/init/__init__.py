"""`init`: a recipe for this machine, or another, and for what the user brings.

A base model is chosen by the recipe's own plan; the file is written only where that plan accepts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowvram_ft.errors import UsageError
from lowvram_ft.hardware import Hardware
from lowvram_ft.init.choose import Choice, Wishes, choose
from lowvram_ft.init.machine import Pretend, described, machine_for
from lowvram_ft.init.material import Material, guess, look
from lowvram_ft.run_dir import write_text

__all__ = ["Pretend", "Wishes", "Written", "guess", "init", "look"]


@dataclass(frozen=True)
class Written:
    """What `init` did.

    Attributes:
        path: the recipe.
        choice: what it holds, and why.
        machine: that it is for.
        next_steps: commands, and what each does.
    """

    path: Path
    choice: Choice
    machine: Hardware
    next_steps: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        choice = self.choice
        return {
            "recipe": str(self.path),
            "base": choice.base.id,
            "machine": described(self.machine),
            "stages": [{"name": stage.name, **stage.sections} for stage in choice.stages],
            "fits": all(plan.fit.plan.fits for plan in choice.plans.values()),
            "tok_per_s": round(choice.tok_per_s, 1),
            "train_s": round(choice.train_s),
            "answer_s": round(choice.answer_s, 1),
            "passed_over": dict(choice.passed_over),
            "next": [command for command, _ in self.next_steps],
        }


def init(
    path: Path, material: Material, here: Hardware, pretend: Pretend, wishes: Wishes, *, overwrite: bool = False
) -> Written:
    """Write a recipe.

    Args:
        path: the TOML file.
        material: what the user brings, see `look`.
        here: this machine.
        pretend: what is said of another.
        wishes: of the user.
        overwrite: whether a file that is there may be replaced.

    Raises:
        UsageError: the file is there.
        MachineError: no base model fits; says why for each.
        ModelError: the wanted base model is unknown.
    """
    refuse_existing(path, overwrite)
    machine = machine_for(here, pretend)
    rows = rows_file(path, material)
    choice = choose(material, machine, wishes, pinned=pretend.another, rows_file=rows)
    write_text(path, choice.text)
    return Written(path, choice, machine, tuple(_next_steps(path, material, choice, rows)))


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Leave a file alone that is there.

    Raises:
        UsageError: it is there, and may not be replaced.
    """
    if path.suffix != ".toml":
        raise UsageError(f"init: {path}: is no name of a recipe; it has to end in .toml")
    if path.exists() and not overwrite:
        raise UsageError(f"init: {path}: is there already; give another name, or --force to replace it")


def rows_file(path: Path, material: Material) -> str | None:
    """Where the user's own rows are, or will be: beside the recipe."""
    if material.brings == "repository":
        return str(path.with_name(f"{path.stem}-rows.jsonl"))
    return None if material.path is None else str(material.path)


def _next_steps(path: Path, material: Material, choice: Choice, rows: str | None) -> list[tuple[str, str]]:
    steps = []
    if choice.base.kind == "embedded":
        from lowvram_ft.models import is_here

        if not is_here(choice.base):
            steps.append(('pip install "lowvram-ft[demo]"', "the embedded base model"))
    if material.brings == "repository":
        steps.append((f"lowvram-ft data from-repo {_quoted(str(material.path))} --out {_quoted(str(rows))}",
                      "rows from your repository: each module with the tests that test it, run"))  # fmt: skip
    recipe = _quoted(str(path))
    steps += [
        (f"lowvram-ft plan {recipe}", "what goes where, term by term"),
        (f"lowvram-ft data inspect {recipe}", "the rows, as the model sees them"),
        (
            f"lowvram-ft run {recipe}",
            "train, export, verify, evaluate; the same command goes on after any interruption",
        ),
    ]
    return steps


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)
