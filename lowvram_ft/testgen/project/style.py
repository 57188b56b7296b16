"""How a project's tests are written, and its own formatter, run on a test file that is not written yet."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lowvram_ft.data.syntax import parse

TIMEOUT_S = 60.0
DEFAULT_LENGTH = 88


@dataclass(frozen=True)
class Style:
    """How tests are written.

    Attributes:
        imports: ``from`` where tests take names from modules, ``module`` where they import whole modules.
        classes: whether tests are grouped in classes.
        quotes: the usual quotation mark.
        line_length: characters that a line may have.
        formatter: ``("ruff", "format")`` or ``("black",)`` where the project uses it and it is installed here.
    """

    imports: Literal["from", "module"] = "from"
    classes: bool = False
    quotes: str = '"'
    line_length: int = DEFAULT_LENGTH
    formatter: tuple[str, ...] | None = None


def command_for(name: str) -> str | None:
    """The path of a command: beside the Python that runs this, or on ``PATH``."""
    beside = shutil.which(name, path=str(Path(sys.executable).parent))
    return beside or shutil.which(name)


def format_with(style: Style, text: str, file: Path) -> tuple[str, str]:
    """Format a test file as its project does.

    Args:
        style: of the project.
        text: the test file.
        file: where it will lie: formatters look for their settings above it.

    Returns:
        (text, reason). The text is the one that was given where the project names no formatter, or where it fails,
        takes over a minute, or answers with other code; the reason says so then, and is empty otherwise.
    """
    if style.formatter is None:
        return text, ""
    name, *arguments = style.formatter
    command = command_for(name)
    if command is None:
        return text, f"{name} is not installed"
    options = ["--stdin-filename", str(file), "-"]
    folder = next((part for part in file.parents if part.is_dir()), Path.cwd())
    try:
        done = subprocess.run(
            [command, *arguments, "--quiet", *options],
            input=text.encode("utf-8", "surrogatepass"),
            cwd=folder,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            env={**os.environ, "NO_COLOR": "1"},
        )
        formatted = done.stdout.decode("utf-8")
    except subprocess.TimeoutExpired:
        return text, f"{name} gave no answer in {TIMEOUT_S:.0f} s"
    except OSError as error:
        return text, f"{name} cannot be started ({error.strerror or error})"
    except UnicodeDecodeError:
        return text, f"{name} answered with what is not UTF-8"
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return text, f"{name} failed with {done.returncode} ({lines[-1] if lines else 'no message'})"
    before, after = parse(text), parse(formatted)
    if before is None or after is None or _shape(before) != _shape(after):
        return text, f"{name} answered with other code"
    return formatted, ""


def _shape(tree: ast.Module) -> str:
    """Formatters may lay a docstring out anew; nothing else may be another."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            node.value.value = " ".join(node.value.value.split())
    return ast.dump(tree)
