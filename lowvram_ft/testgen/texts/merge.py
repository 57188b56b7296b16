"""Several test files of one module become one.

The rules:

- Imports at the top of the files are collected, each once, in the order of isort. One that stands after a statement
  that does something on import (``sys.path.insert(...)``, ``pytest.importorskip(...)``) stays there.
- All else stays as it is written, file after file, in its order. Of equal definitions, the first is kept: equal in
  their tree, with all names that they use meaning the same. Values that the file's functions change, and fixtures of
  a wider scope than a function, are not shared.
- Tests whose bodies are equal to those of another file's test are kept once.
- What has a name that means something else in another file gets ``_2``. So does what would hide a built-in name or a
  fixture from outside that another file uses.
- ``pytestmark`` becomes decorators where the files differ in it.
- The first docstring is kept, ``if __name__ == "__main__":`` is left out, and so are comments on imports.

What cannot be merged is told (`CannotMerge`): set-up of a whole module that another file does not have (``autouse``
fixtures, ``setup_module``, ``importorskip``), a rename that cannot be followed.
What cannot be seen: objects of other modules that the tests of two files change.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from lowvram_ft.data.trimming.statements import Statement, read_statements, split_lines
from lowvram_ft.testgen.texts.import_block import ImportBlock
from lowvram_ft.testgen.texts.parsed_tests import CannotMerge, TestFile, is_docstring, is_mark, is_test, read_test_file
from lowvram_ft.testgen.texts.renaming import FUNCTION, CannotRename, rename
from lowvram_ft.testgen.texts.restyle import restyle
from lowvram_ft.testgen.units.members import lines_of

__all__ = ["CannotMerge", "merge", "restyle"]

_OWN = "own"
_COMMENTS = re.compile(r"(?:[ \t]*(?:#.*)?\n)*")


@dataclass
class _Merged:
    """What there is so far.

    Attributes:
        names: what each name of the module level is.
        tests: what the tests are, their names aside.
        words: that no new name may be.
    """

    words: set[str]
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tests: set[str] = field(default_factory=set)


def merge(texts: Sequence[str], *, first_party: Collection[str] = ()) -> str:
    """One test file of several, see the module's rules.

    Args:
        texts: test files that import the real module, in the order that is wanted.
        first_party: top-level packages whose imports stand last, such as that of the module under test.

    Raises:
        CannotMerge: one of them does not parse, or cannot be in one file with the others.
    """
    files = [read_test_file(place, text) for place, text in enumerate(texts)]
    for file in files[1:]:
        if file.set_up != files[0].set_up:
            raise CannotMerge(file.place, "one file has set-up of its whole module that another has not")
    spread = len({file.marks for file in files}) > 1
    for file in files if spread else ():
        if not all(mark.startswith("pytest.mark.") for mark in file.marks):
            raise CannotMerge(file.place, "its pytestmark is no plain list of marks")
    block = ImportBlock(first_party)
    merged = _Merged({word for file in files for word in file.words})
    parts: list[str] = []
    for file in files:
        others = [other for other in files if other is not file]
        try:
            new, kept = _fit(file, others, merged)
            text = rename(file.text, file.tree, new, file.fixtures) if new else file.text
            block.add(item.called(new[item.local]) if item.local in new else item for item in file.hoisted)
        except CannotRename as error:
            raise CannotMerge(file.place, str(error)) from error
        places = [i for i in kept if not (any(map(is_mark, file.statements[i].nodes)) and (spread or file.place))]
        parts += [part for part in [_body(text, places, file.marks if spread else ())] if part]
    head = _COMMENTS.match(files[0].text) if files else None
    docstrings = [t for file in files if (t := _docstring(file))]
    top = "\n".join(part for part in [(head[0].strip("\n") if head else ""), *docstrings[:1]] if part)
    imports = block.text()
    begin = "\n\n".join(part.strip("\n") for part in [top, imports] if part.strip())
    apart = "\n\n\n" if parts and re.match(r"[ \t]*(?:#.*\n\s*)*(?:@|def |class |async )", parts[0]) else "\n\n"
    return (begin + (apart if begin and parts else "") + "\n\n".join(parts)).rstrip("\n") + "\n"


def _fit(file: TestFile, others: Iterable[TestFile], merged: _Merged) -> tuple[dict[str, str], list[int]]:
    """New names for what a file cannot call as it does, and the places of its statements that stay."""
    others = list(others)
    free = frozenset(name for other in others for name in other.free)
    asked = frozenset(name for other in others for name in other.asked)
    clashing = {name for name in file.keys if name in free or (name in file.fixtures and name in asked)}
    clashing |= {name for name, key in file.keys.items() if name in merged.names and merged.names[name] != key}
    clashing |= {name for name, key in file.keys.items() if name in merged.names and _OWN in key}
    while True:  # what uses something that has another meaning is something else itself
        more = {name for name in file.keys if name in merged.names and file.uses.get(name, frozenset()) & clashing}
        if more <= clashing:
            break
        clashing |= more
    new = {name: merged_name(name, merged.words) for name in sorted(clashing)}
    if new and any(file.statements[i].looks_up for i in file.kept):
        raise CannotRename("it looks names up by strings, and " + min(new) + " means something else in another file")
    kept: list[int] = []
    bodies: set[str] = set()
    for place in file.kept:
        statement = file.statements[place]
        if clashing & statement.binds and any(ast.dump(node) in file.set_up for node in statement.nodes):
            raise CannotRename("its set-up of the whole module is not that of another file")
        body = "" if clashing & _used(file, statement) else _without_name(statement, file.marks)
        if (body and body in merged.tests) or _is_there(statement, file, merged, clashing):
            continue
        kept.append(place)
        bodies.add(body)
    merged.tests |= bodies - {""}
    for name, key in file.keys.items():
        renamed = file.uses.get(name, frozenset()) & clashing
        merged.names.setdefault(new.get(name, name), (*key, _OWN) if renamed or name in new else key)
    return new, kept


def merged_name(name: str, words: set[str]) -> str:
    """``name_2``, or the next number that is free; it is taken then."""
    number = 2
    while f"{name}_{number}" in words:
        number += 1
    words.add(f"{name}_{number}")
    return f"{name}_{number}"


def _used(file: TestFile, statement: Statement) -> frozenset[str]:
    return frozenset(name for bound in statement.binds for name in file.uses.get(bound, ())) | statement.uses


def _is_there(statement: Statement, file: TestFile, merged: _Merged, clashing: Collection[str]) -> bool:
    """Whether the same statement of another file is kept already."""
    names = statement.binds or statement.attached
    return bool(names) and all(
        name in merged.names and merged.names[name] == file.keys.get(name) and name not in clashing for name in names
    )


def _without_name(statement: Statement, marks: Sequence[str]) -> str:
    """What a test is, its name aside; empty for what is no test."""
    node = statement.nodes[0]
    if len(statement.nodes) > 1 or not is_test(node) or not isinstance(node, (ast.ClassDef, *FUNCTION)):
        return ""
    blank = copy.copy(node)
    blank.name = "test"
    return ast.dump(blank) + "".join(marks)


def _docstring(file: TestFile) -> str:
    """The docstring of a file, as it is written."""
    if not file.statements or not is_docstring(file.statements[0].nodes):
        return ""
    span = lines_of(file.statements[0].nodes[0])
    return "".join(split_lines(file.text)[span[0] - 1 : span[-1]]).rstrip()


def _body(text: str, kept: Sequence[int], marks: Sequence[str]) -> str:
    """The statements of a file that stay, with the comments between them.

    Args:
        text: of the file.
        kept: places of the statements.
        marks: that each test gets.
    """
    lines = split_lines(text)
    statements = read_statements(ast.parse(text).body, lines)
    head = _COMMENTS.match(text)
    above = len(split_lines(head[0])) if head else 0
    out: list[str] = []
    before: int | None = None
    for place in kept:
        statement = statements[place]
        first = max(statements[place - 1].end if place else 0, above)
        region = lines[first : statement.end]
        blank = next((n for n, line in enumerate(region) if line.strip()), 0)
        marked = [node for node in statement.nodes if marks and is_test(node)]
        for node in reversed(marked):
            at = lines_of(node)[0] - 1 - first
            region[at:at] = [f"@{mark}\n" for mark in marks]
        if before is not None:
            apart = 2 if _is_definition(statement) or _is_definition(statements[before]) else 1
            out.append("\n" * (min(blank, 2) if before == place - 1 else apart))
        out.append("".join(region[blank:]).rstrip("\n") + "\n")
        before = place
    tail = "".join(lines[statements[-1].end :]).rstrip() if before is not None and before == len(statements) - 1 else ""
    return "".join(out) + (f"{tail}\n" if tail else "")


def _is_definition(statement: Statement) -> bool:
    return isinstance(statement.nodes[0], (ast.ClassDef, *FUNCTION))
