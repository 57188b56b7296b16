"""Which lines of which modules changed since a git revision."""

from __future__ import annotations

import ast
import io
import re
import shlex
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lowvram_ft.data.syntax import parse
from lowvram_ft.errors import UsageError
from lowvram_ft.testgen.targets import git

_HUNK = re.compile(rb"(?m)^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_SECTION = re.compile(rb"(?m)^diff --git ")
_DIFF = (
    "-c", "diff.autoRefreshIndex=true", "diff", "--raw", "-z", "-p", "-U0",
    "--inter-hunk-context=0", "--no-abbrev", "--no-color", "--no-ext-diff", "--no-textconv",
    "--text", "--no-relative", "--ignore-submodules=all", "-M",
)  # fmt: skip
"""A user's own settings of git must not change what is read here."""
_NO_CODE = frozenset(
    {
        tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
        tokenize.ENDMARKER,
    }
)  # fmt: skip
SAME_CODE = "only comments, docstrings or the layout changed"


@dataclass(frozen=True)
class Change:
    """A file that is not as it was.

    Attributes:
        lines: its changed lines, from 1; around a place where lines were taken out, the two beside it.
        why_not: why its tests need not change; empty where they may.
    """

    lines: frozenset[int]
    why_not: str = ""


@dataclass(frozen=True)
class _Hunk:
    old: range
    new: range
    after: int
    """The line of the new text that the hunk begins at, or comes after where it only takes lines out."""


def changed_files(folder: Path, revision: str) -> dict[Path, Change]:
    """What changed in a repository: committed, staged, unstaged and untracked.

    Lines that hold only comments, docstrings or nothing are left out. Submodules are repositories of their own. As with
    every ``git diff``, git may note in its index which files it found unchanged; nothing else is written.

    Args:
        folder: any folder in the repository.
        revision: what the files are compared with: a branch, a tag, a commit. Empty for ``HEAD``, or for nothing where
            there is no commit yet; ``main...`` for the commit that ``main`` and ``HEAD`` have in common.

    Returns:
        The Python files that are there and changed, by their absolute paths.

    Raises:
        UsageError: there is no repository, or no such revision.
        MachineError: git is not installed.
    """
    top = git.repository(folder)
    commit = _commit(top, revision or "HEAD")
    changes: dict[Path, Change] = {}
    for blob, name, hunks in _modified(top, commit):
        path = top / name
        if name.endswith(".py") and path.is_file() and not path.is_symlink():
            changes[path] = _change(_text(path.read_bytes()), _old_text(top, blob), hunks)
    untracked = git.ask(top, "ls-files", "-o", "--exclude-standard", "-z")
    for name in git.names(untracked.output):
        path = top / name
        if name.endswith(".py") and path.is_file() and not path.is_symlink():
            changes[path] = _change(_text(path.read_bytes()), None, ())
    return changes


def _commit(top: Path, revision: str) -> str:
    """The object that a revision names; that of the empty tree where there is no commit yet."""
    name, dots, rest = revision.partition("...")
    answer = git.ask(top, "rev-parse", "--verify", "--quiet", f"{name if dots else revision}^{{commit}}")
    found = answer.output.decode("ascii", "replace").strip()
    if not answer.code and not dots:
        return found
    if not answer.code and not rest:
        base = git.ask(top, "merge-base", found, "HEAD")
        if not base.code:
            return base.output.decode("ascii", "replace").strip()
    if answer.code and revision == "HEAD":
        return git.ask(top, "hash-object", "-t", "tree", "--stdin").output.decode("ascii", "replace").strip()
    place = Path(revision.partition("::")[0])
    if place.exists():
        kind = "a folder" if place.is_dir() else "a file"
        raise UsageError(
            f"--changed {revision}: is {kind}: put it before --changed, or: --changed HEAD {shlex.quote(revision)}"
        )
    raise UsageError(
        f"{revision}: is no revision of {top}; give a branch, a tag or a commit (see git log), or main... for where "
        "the branch began"
    )


def _modified(top: Path, commit: str) -> Iterator[tuple[str, str, tuple[_Hunk, ...]]]:
    """(old blob or "", name, hunks) of every file that git tracks, is there, and differs."""
    answer = git.ask(top, *_DIFF, "--diff-filter=AMRT", commit, "--")
    if answer.code:
        raise UsageError(f"{top}: git cannot compare its files ({answer.error}); mend that, or name the files")
    raw, _, patch = answer.output.partition(b"\0\0")
    fields = iter(git.names(raw))
    # a patch shows the files in the order of the list before it, but one that became another type twice
    sections = iter([_hunks(text) for text in _SECTION.split(patch)[1:]])
    for header in fields:
        _, _, blob, _, status = header.split(" ")
        name = next(fields)
        if status.startswith("R"):
            name = next(fields)
        hunks = next(sections, ())
        if status == "T":
            hunks = next(sections, ())
        yield ("" if status in ("A", "T") else blob), name, hunks


def _hunks(section: bytes) -> tuple[_Hunk, ...]:
    found = []
    for match in _HUNK.finditer(section):
        old, n_old, new, n_new = (int(part) if part is not None else 1 for part in match.groups())
        found.append(_Hunk(range(old, old + n_old), range(new, new + n_new), new))
    return tuple(found)


def _old_text(top: Path, blob: str) -> str | None:
    if not blob:
        return None
    return _text(git.ask(top, "cat-file", "blob", blob).output)


def _text(data: bytes) -> str:
    """What a file says; one that is not UTF-8 is refused later, by its own message."""
    return data.decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n")


def _length(text: str) -> int:
    """Its lines, as Python and git count them; ``splitlines`` would take a form feed for the end of one."""
    return text.count("\n") + (not text.endswith("\n") and bool(text))


def _change(new: str, old: str | None, hunks: tuple[_Hunk, ...]) -> Change:
    if old is None:
        return Change(frozenset(range(1, _length(new) + 1)))
    if not hunks:
        return Change(frozenset(), "its name or its mode changed, and nothing in it")
    before, after = parse(old), parse(new)
    if before is not None and after is not None and _meaning(before) == _meaning(after):
        return Change(frozenset(), SAME_CODE)
    length = _length(new)
    has_code, had_code = _code_lines(new), _code_lines(old)
    lines: set[int] = set()
    for hunk in hunks:
        kept = set(has_code.intersection(hunk.new))
        if not kept and had_code.intersection(hunk.old):
            first, last = (hunk.new[0] - 1, hunk.new[-1] + 1) if hunk.new else (hunk.after, hunk.after + 1)
            kept = {line for line in (first, last) if 1 <= line <= length}
        lines |= kept
    return Change(frozenset(lines))


def _meaning(tree: ast.Module) -> str:
    """A text that is the same for two modules that differ in comments, docstrings and layout alone."""
    for node in ast.walk(tree):
        if _has_docstring(node):
            node.body = node.body[1:]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _has_docstring(node: ast.AST) -> bool:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or not node.body:
        return False
    first = node.body[0]
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def _code_lines(text: str) -> frozenset[int]:
    """The lines that hold code: all of them in a text that is no Python."""
    tree = parse(text)
    every = frozenset(range(1, _length(text) + 1))
    if tree is None:
        return every
    lines: set[int] = set()
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type not in _NO_CODE:
                lines.update(range(token.start[0], token.end[0] + 1))
    except (tokenize.TokenError, IndentationError):
        return every
    for node in ast.walk(tree):
        if _has_docstring(node):
            docstring: ast.stmt = node.body[0]  # type: ignore[attr-defined]
            lines.difference_update(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return frozenset(lines)
