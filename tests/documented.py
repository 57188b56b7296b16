"""The commands that README, CONTRIBUTING and docs/ show, and the mark above each block: how it is held true."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHELLS = ("console", "bash", "sh", "shell", "powershell")
_BLOCK = re.compile(r"(?P<before>[^\n]*)\n(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)\n(?P=indent)```", re.DOTALL)
_MARK = re.compile(r"<!-- runs: (?P<how>.+?) -->")
_OURS = re.compile(r"^(\$ )?(lowvram-ft|python3? |make |gguf-export|torchrun|accelerate|pip |ollama )", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of commands.

    Attributes:
        page: its file, from the root of the project.
        line: of the fence.
        how: what its mark says; None where there is none.
        commands: each as its words, comments and prompts taken off.
    """

    page: str
    line: int
    how: str | None
    commands: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Every page that shows commands; cli.md is generated from them."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [page for page in found if page.name != "cli.md"]


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page: those that are named a shell's, and those without a name that hold a command of ours."""
    text = page.read_text(encoding="utf-8")
    if not text.startswith("\n"):
        text = "\n" + text
    for match in _BLOCK.finditer(text):
        shell = match["language"] in SHELLS or (not match["language"] and _OURS.search(match["body"]))
        if shell:
            mark = _MARK.search(match["before"])
            line = text.count("\n", 0, match.start("language"))
            name = page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name
            yield Block(name, line, mark["how"] if mark else None, tuple(commands(match["body"])))


def recipes(page: Path) -> Iterator[str]:
    """The recipes that a page shows whole: those that begin with a schema version."""
    for match in _BLOCK.finditer("\n" + page.read_text(encoding="utf-8")):
        if match["language"] == "toml" and match["body"].startswith("schema_version"):
            yield match["body"]


def commands(body: str) -> Iterator[tuple[str, ...]]:
    """The commands of a block.

    Where a line begins with a prompt, only such lines are commands, and the rest is what they print.
    """
    lines = re.sub(r"\\\n\s*", " ", body).splitlines()
    prompted = any(line.lstrip().startswith("$ ") for line in lines)
    for line in lines:
        stripped = line.strip()
        if prompted and not stripped.startswith("$ "):
            continue
        words = shlex.split(stripped.removeprefix("$ "), comments=True)
        while "&&" in words:
            end = words.index("&&")
            yield tuple(words[:end])
            words = words[end + 1 :]
        if words:
            yield tuple(words)
