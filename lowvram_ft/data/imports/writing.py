"""Write down what was planned for a test's import statements."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Sequence

from lowvram_ft.data.imports.edits import Edits
from lowvram_ft.data.imports.parts import Import, Part, Plan
from lowvram_ft.execution.modules import SOLUTION

_FIRST_LINES = re.compile(r"#!|#.*coding[:=]")


def write(plan: Plan) -> None:
    """Turn the plan into edits of the import statements."""
    served = {(use.part.scope, use.part.local) for use in plan.uses}
    statements: dict[Import, list[Part]] = {}
    for part in plan.parts:
        statements.setdefault(part.statement, []).append(part)
    ours = {statement: parts for statement, parts in statements.items() if any(_is_ours(p, served) for p in parts)}
    anchor = next((statement for statement, parts in ours.items() if parts[0].direct), None)
    gone = []
    for statement, parts in ours.items():
        rest = [part for part in parts if _rests(part, served)]
        whole = len(rest) == len(parts)
        lines = [plan.edits.text_of(statement) if whole else _original(statement, rest)] if rest else []
        lines += sorted({_module_line(part.local) for part in parts if part.in_place and part.kind == "module"})
        names = {(part.alias.name, part.local) for part in parts if part.in_place and part.kind == "name"}
        if any(part.in_place and part.kind == "star" for part in parts):
            names |= plan.starred
        if statement is anchor:
            lines += [_module_line(name) for name in sorted(plan.objects)]
            names |= plan.entries
        lines += [_names_line(names)] if names else []
        text = (plan.edits.newline if parts[0].direct else "; ").join(lines)
        if not lines:
            gone.append(statement)
        elif text != plan.edits.text_of(statement):
            plan.edits.replace(statement, text)
    _remove(plan, gone)
    if anchor is None and (plan.entries or plan.objects):
        lines = [_module_line(name) for name in sorted(plan.objects)]
        add_lines(plan.edits, plan.tree.body, [*lines, *([_names_line(plan.entries)] if plan.entries else [])])


def add_lines(edits: Edits, body: Sequence[ast.stmt], lines: Sequence[str]) -> None:
    """Put import lines at the top of a file: after its docstring and its ``__future__`` imports.

    Args:
        edits: of the file's text.
        body: its statements; those after the docstring and the ``__future__`` imports may be left out.
        lines: what to add.
    """
    after = 0
    for place, node in enumerate(body):
        if (place == 0 and _is_docstring(node)) or (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            after = node.end_lineno or 0
    line = after + 1
    while not after and _FIRST_LINES.match(edits.line(line)):
        line += 1
    crowded = after > 0 and not edits.blank_after(after)
    while edits.blank_after(line - 1):
        line += 1
    following = edits.line(line)
    is_code = following and not re.match(r"(?:import|from)\b", following)
    text = [*([""] if crowded else []), *lines, *(["", ""] if is_code else [])]
    edits.insert_before_line(line, "".join(part + edits.newline for part in text))


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_ours(part: Part, served: Collection[tuple[object, str]]) -> bool:
    if part.kind == "module":
        return (part.exact and not part.stays) or (part.scope, part.local) in served
    return part.kind != "other"


def _rests(part: Part, served: Collection[tuple[object, str]]) -> bool:
    """Whether a part of a statement is left in it."""
    return part.kind == "other" or part.stays or not _is_ours(part, served)


def _original(statement: Import, parts: Iterable[Part]) -> str:
    """The statement with some of its parts alone."""
    names = ", ".join(f"{p.alias.name} as {p.alias.asname}" if p.alias.asname else p.alias.name for p in parts)
    if isinstance(statement, ast.Import):
        return f"import {names}"
    return f"from {'.' * statement.level}{statement.module or ''} import {names}"


def _module_line(local: str) -> str:
    return f"import {SOLUTION}" if local == SOLUTION else f"import {SOLUTION} as {local}"


def _names_line(names: Iterable[tuple[str, str]]) -> str:
    parts = [target if target == local else f"{target} as {local}" for target, local in sorted(names)]
    return f"from {SOLUTION} import {', '.join(parts)}"


def _remove(plan: Plan, gone: Sequence[Import]) -> None:
    """Take statements out; a block that would be left empty passes."""
    passed: set[int] = set()
    for statement in gone:
        block = _block_of(plan.parents[statement], statement)
        empty = all(other in gone for other in block) and not isinstance(plan.parents[statement], ast.Module)
        if empty and id(block) not in passed:
            passed.add(id(block))
            plan.edits.replace(statement, "pass")
        elif not plan.edits.remove(statement, first_of_block=block[0] is statement):
            plan.edits.replace(statement, "pass")


def _block_of(parent: ast.AST, statement: ast.stmt) -> list[ast.stmt]:
    """The list of statements that one stands in."""
    for _, value in ast.iter_fields(parent):
        if isinstance(value, list) and statement in value:
            return value
    return [statement]
