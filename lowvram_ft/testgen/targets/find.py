"""What a user asked tests for: files, definitions, folders, and what changed in git."""

from __future__ import annotations

import ast
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowvram_ft.data.syntax import UNREADABLE
from lowvram_ft.errors import UsageError
from lowvram_ft.testgen.project.pytest_settings import find_root, read_settings
from lowvram_ft.testgen.subject import Target
from lowvram_ft.testgen.targets import git
from lowvram_ft.testgen.targets.changed import Change, changed_files
from lowvram_ft.testgen.targets.definitions import definitions, require_definition
from lowvram_ft.testgen.targets.python_files import holds_tests, is_test_name, is_testable, python_files, why_not
from lowvram_ft.testgen.units.members import lines_of


@dataclass(frozen=True)
class Found:
    """What a user's words mean.

    Attributes:
        targets: in the order that the user gave, within a folder by path.
        left_out: files of folders, or files that changed, of which no test is written, and why.
    """

    targets: tuple[Target, ...]
    left_out: Mapping[Path, str]


@dataclass(frozen=True)
class _Place:
    """One of the user's words: a file or a folder, resolved, and a definition."""

    text: str
    path: Path
    name: str


def find_targets(places: Sequence[str], *, changed: str | None = None, cwd: Path | None = None) -> list[Target]:
    """What `find` finds, for those who need not know what was left out."""
    return list(find(places, changed=changed, cwd=cwd).targets)


def find(places: Sequence[str], *, changed: str | None = None, cwd: Path | None = None) -> Found:
    """The modules that a user means, each once.

    Of a folder, these are all modules below it that define something: no tests, scripts of tools, migrations or
    generated files, nothing that git ignores.

    Args:
        places: ``PATH``, ``PATH::name``, ``PATH::Class.method`` or ``PATH::Class::method``; a folder.
        changed: a git revision: only what is not as it was then, with the lines that differ. Empty for ``HEAD``.
        cwd: where relative paths begin; the current folder if None.

    Returns:
        The targets. With ``changed`` there may be none: nothing changed that a test can be about.

    Raises:
        UsageError: a place is not there, is no Python, defines nothing of the name, or there is nothing to test in it;
            or there is no such revision.
        MachineError: git is not installed, and ``changed`` was given.
    """
    here = Path(os.path.realpath(cwd if cwd is not None else Path.cwd()))
    if not places and changed is None:
        raise UsageError("no file was given; name a module, a folder, or --changed")
    left_out: dict[Path, str] = {}
    asked = [_resolve(place, here) for place in places] or [_Place(str(here), git.repository(here), "")]
    changes = _Changes(changed) if changed is not None else None
    found: dict[Path, list[str] | None] = {}
    for place in asked:
        for path in _files(place, left_out, changes):
            named = found.get(path, [])
            found[path] = None if not place.name or named is None else [*named, place.name]
    targets = [Target(path, tuple(dict.fromkeys(named or ()))) for path, named in found.items()]
    if changes is not None:
        targets = [
            target for target in (changes.narrowed(target, left_out) for target in targets) if target is not None
        ]
    for target in targets:
        left_out.pop(target.file, None)
    return Found(tuple(targets), left_out)


def read_code(path: Path) -> str:
    """The text of a module.

    Raises:
        UsageError: it is missing, is no Python, is not UTF-8 or does not parse.
    """
    if os.path.isdir(path):
        raise UsageError(f"{path}: is a folder; give the path of a .py file")
    if not os.path.isfile(path):
        raise UsageError(f"{path}: no such file; give the path of a .py file")
    if path.suffix != ".py":
        raise UsageError(f"{path}: is not a Python file; give the path of a .py file")
    try:
        code = path.read_text(encoding="utf-8-sig")
        ast.parse(code)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check who may read it") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text (byte {error.start}); convert it") from error
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno is not None else ""  # null bytes have no line
        raise UsageError(f"{path}{line}: does not parse ({error.msg}); mend it first") from error
    except UNREADABLE as error:
        raise UsageError(f"{path}: does not parse ({error}); mend it first") from error
    return code


def _resolve(text: str, here: Path) -> _Place:
    """Find the file or folder of a place, and take its definition apart."""
    file, mark, name = (text, "", "") if os.path.exists(here / text) else text.partition("::")
    if not file or "\0" in file:
        raise UsageError(f"{text!r}: names no file; give PATH or PATH::name")
    path = Path(os.path.realpath(here / file))
    if os.path.isdir(path):
        if mark:
            raise UsageError(f"{file}: is a folder (got {text}); name the file that {name or 'it'} is in")
        return _Place(text, path, "")
    if mark and not name.strip(":"):
        raise UsageError(f"{text}: names no definition; give {file}, or {file}::name")
    return _Place(file, path, name.replace("::", "."))


def _files(place: _Place, left_out: dict[Path, str], changes: _Changes | None) -> list[Path]:
    if os.path.isdir(place.path):
        return _modules(place, left_out, changes)
    code = _read(place)
    tree = ast.parse(code)
    if place.name:
        require_definition(tree, place.name, place.text)
    elif is_test_name(place.path.name) and (holds_tests(tree) or place.path.name == "conftest.py"):
        raise UsageError(f"{place.text}: is a test file itself; name the module that it tests")
    elif not is_testable(tree):
        raise UsageError(f"{place.text}: has nothing to test (no function and no class); name another file")
    return [place.path]


def _read(place: _Place) -> str:
    """The text of a file; errors name it as the user did."""
    try:
        return read_code(place.path)
    except UsageError as error:
        raise UsageError(str(error).replace(str(place.path), place.text, 1)) from error


def _modules(place: _Place, left_out: dict[Path, str], changes: _Changes | None) -> list[Path]:
    """The code under test below a folder; with ``changes``, of what changed alone."""
    folder = place.path
    root = find_root(folder)
    patterns = read_settings(root).python_files if root is not None else ()
    start = root if root is not None else folder.parent
    paths = python_files(folder)
    if changes is not None:
        differ = changes.of(folder)
        paths = [path for path in paths if path in differ]
    kept = []
    for path in paths:
        reason = why_not(path, path.relative_to(start).parts, patterns)
        if reason:
            left_out.setdefault(path, reason)
        else:
            kept.append(path)
    if not kept and changes is None:
        raise UsageError(f"{place.text}: nothing to test in it ({_summary(paths, left_out)}); name another folder")
    return kept


def _summary(paths: Sequence[Path], left_out: Mapping[Path, str]) -> str:
    """Why nothing is left of a folder."""
    reasons = Counter(left_out[path] for path in paths if path in left_out)
    if not reasons:
        return "no Python file that git does not ignore"
    return "; ".join(f"{count} Python file{'s' * (count > 1)}: {reason}" for reason, count in reasons.most_common())


class _Changes:
    """What changed since a revision, by repository, each asked once."""

    def __init__(self, revision: str) -> None:
        self._revision = revision
        self._tops: dict[Path, Path] = {}
        self._known: dict[Path, dict[Path, Change]] = {}

    def of(self, folder: Path) -> dict[Path, Change]:
        """What changed in the repository that a folder lies in."""
        if folder not in self._tops:
            self._tops[folder] = git.repository(folder)
        top = self._tops[folder]
        if top not in self._known:
            self._known[top] = changed_files(top, self._revision)
        return self._known[top]

    def narrowed(self, target: Target, left_out: dict[Path, str]) -> Target | None:
        """A target with its changed lines; None where none of them is of interest."""
        change = self.of(target.file.parent).get(target.file)
        if change is None:
            left_out[target.file] = "did not change"
            return None
        lines = change.lines
        if target.names:
            known = definitions(ast.parse(read_code(target.file)))
            lines &= {line for name in target.names for line in lines_of(known[name])}
        if not lines:
            left_out[target.file] = change.why_not or "nothing changed in what was named"
            return None
        return Target(target.file, target.names, lines)
