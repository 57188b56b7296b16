"""The frame of a converted file: imports, the main block, blank lines."""

from __future__ import annotations

import ast
import builtins
import re
import sys

from lowvram_ft.data.unittest_style.classes import Names, without
from lowvram_ft.data.unittest_style.text import Edit, NotConvertible, Source, bound_names

_IMPORTS = {
    "pytest": "import pytest",
    "re": "import re",
    "functools": "import functools",
    "Counter": "from collections import Counter",
}


def without_main(text: str) -> str:
    """Take ``if __name__ == "__main__":`` away, which no test runner enters."""
    source = Source(text)
    edits = []
    for node in source.tree.body:
        if isinstance(node, ast.If) and not node.orelse and "__name__" in ast.unparse(node.test):
            if ast.unparse(node.test) not in ("__name__ == '__main__'", "'__main__' == __name__"):
                raise NotConvertible("an unusual main block")
            edits.append(without(source, node, alone=len(source.tree.body) == 1))
    return source.edited(edits)


def finish(text: str, names: Names, needs: set[str], original: ast.Module) -> str:
    """Imports that are not needed go, those that are come in, and blank lines are put right.

    Args:
        text: the converted file.
        names: what the original calls the members of unittest.
        needs: modules and names that the result uses.
        original: the file before it was converted.

    Raises:
        NotConvertible: unittest is used in another way, or a name is taken.
    """
    _check_names(needs, original)
    source = Source(text)
    source = Source(source.edited(_unittest_imports(source, names)))
    _check_uses(source, names)
    text = _with_imports(source, sorted(needs & set(_IMPORTS)))
    text = _spaced(Source(text))
    Source(text)
    return text


def _check_names(needs: set[str], original: ast.Module) -> None:
    """No name that the result uses may stand for something else."""
    proper = {name for name, line in _IMPORTS.items() if any(ast.unparse(node) == line for node in original.body)}
    proper |= {
        alias.name
        for node in original.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if alias.asname is None and (_IMPORTS.get(alias.name) == _single(node, alias))
    }
    rest = ast.Module([n for n in original.body if not isinstance(n, ast.Import | ast.ImportFrom)], [])
    others = {
        alias.asname or alias.name.partition(".")[0]
        for node in original.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if _IMPORTS.get(alias.asname or alias.name) != _single(node, alias)
    }
    used = {node.id for node in ast.walk(original) if isinstance(node, ast.Name)}
    if (needs - proper) & set(_IMPORTS) & used:  # it comes from elsewhere, or from nowhere
        raise NotConvertible("a name that is taken")
    if needs & (bound_names(rest) | others) or (needs - proper) & (set(dir(builtins)) & others):
        raise NotConvertible("a name that is taken")


def _single(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    return f"from {node.module} import {alias.name}" if isinstance(node, ast.ImportFrom) else f"import {alias.name}"


def _unittest_imports(source: Source, names: Names) -> list[Edit]:
    used = {node.id for node in ast.walk(source.tree) if isinstance(node, ast.Name)}
    mocks = any(
        isinstance(node, ast.Attribute) and node.attr == "mock" and names.resolve(node) == "mock"
        for node in ast.walk(source.tree)
    )
    edits = []
    for node in source.tree.body:
        kept: list[str] = []
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name != "unittest" and not (alias.name.startswith("unittest.") and alias.asname is None):
                    kept.append(_text(alias))
                elif mocks and (alias.asname or alias.name) in ("unittest", "unittest.mock"):
                    kept.append("unittest.mock")
            told = f"import {', '.join(dict.fromkeys(kept))}"
        elif isinstance(node, ast.ImportFrom) and node.module in ("unittest", "unittest.case") and not node.level:
            kept = [_text(alias) for alias in node.names if (alias.asname or alias.name) in used]
            told = f"from {node.module} import {', '.join(kept)}"
        else:
            continue
        if not kept:
            edits.append(without(source, node, alone=False) if source.alone(node) else _gone(source, node))
        elif len(kept) < len(node.names) or "unittest.mock" in kept:
            edits.append(Edit(source.start(node), source.end(node), told))
    return edits


def _gone(source: Source, node: ast.stmt) -> Edit:
    after = re.compile(r"\s*;\s*").match(source.text, source.end(node))
    return Edit(source.start(node), after.end(), "") if after else Edit(source.start(node), source.end(node), "pass")


def _text(alias: ast.alias) -> str:
    return f"{alias.name} as {alias.asname}" if alias.asname else alias.name


def _check_uses(source: Source, names: Names) -> None:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            for alias in node.names:
                full = f"{module}.{alias.name}" if module else alias.name
                if full.startswith("unittest") and not full.startswith("unittest.mock"):
                    raise NotConvertible("another use of unittest")
        elif isinstance(node, ast.Name) and node.id in names.modules | set(names.members):
            resolved = names.members.get(node.id, "")
            if node.id in names.modules:
                above = source.parents[node]
                resolved = above.attr if isinstance(above, ast.Attribute) else ""
            if resolved != "mock":
                raise NotConvertible("another use of unittest")


def _with_imports(source: Source, wanted: list[str]) -> str:
    """Add what is missing: of the standard library before the first import, pytest after those of it."""
    there = {_single(n, a) for n in source.tree.body if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names}
    missing = [_IMPORTS[name] for name in wanted if _IMPORTS[name] not in there]
    imports = [
        node for node in source.tree.body if isinstance(node, ast.Import | ast.ImportFrom) and source.alone(node)
    ]
    imports = [node for node in imports if not _is_future(node)]
    own = [line for line in missing if line != "import pytest"]
    edits = []
    first = _head(source) if not imports else source.line_start(source.start(imports[0]))
    foreign = next((node for node in imports if not _is_standard(node)), None)
    place = first
    if foreign is not None:
        place = source.line_start(source.start(foreign))
    elif imports:
        place = min(source.line_end(source.end(imports[-1])) + 1, len(source.text))
    if own:
        edits.append(Edit(first, first, "".join(f"{line}\n" for line in own)))
    if "import pytest" in missing:
        after_standard = place != first or own
        before = source.text[:place]
        gap = "\n" if after_standard and not before.endswith("\n\n") else ""
        lead = "" if place == 0 or before.endswith("\n") else "\n"
        edits.append(Edit(place, place, f"{lead}{gap}import pytest\n"))
    text = "".join(edit.text for edit in edits if edit.start == edit.end == first) if place == first else ""
    if text:
        return source.text[:first] + text + source.text[first:]
    return source.edited(edits)


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _is_standard(node: ast.Import | ast.ImportFrom) -> bool:
    if isinstance(node, ast.ImportFrom):
        return not node.level and (node.module or "").partition(".")[0] in sys.stdlib_module_names
    return all(alias.name.partition(".")[0] in sys.stdlib_module_names for alias in node.names)


def _head(source: Source) -> int:
    """Where imports may begin: after the docstring and the future."""
    end = 0
    for place, node in enumerate(source.tree.body):
        docstring = place == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not docstring and not _is_future(node):
            break
        end = min(source.line_end(source.end(node)) + 1, len(source.text))
    return end


def _spaced(source: Source) -> str:
    """Two blank lines around functions and classes at the top, none at the ends."""
    blocks = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    edits = []
    previous: ast.stmt | None = None
    for node in source.tree.body:
        begin = source.line_start(source.start(node))
        while begin > 0 and source.text[source.line_start(begin - 1) : begin].startswith("#"):
            begin = source.line_start(begin - 1)
        above = source.text[:begin].rstrip("\n \t")
        if previous is not None and isinstance(node, blocks) | isinstance(previous, blocks) and source.alone(node):
            edits.append(Edit(len(above), begin, "\n\n\n"))
        previous = node
    source = Source(source.edited([edit for edit in edits if edit.start < edit.end]))
    edits = []
    for found in re.finditer(r"\n(?:[ \t]*\n){2,}(?=[ \t]+\S)", source.text):  # where a statement went
        lines = range(source.text.count("\n", 0, found.start()) + 1, source.text.count("\n", 0, found.end()) + 1)
        if not any(source.begins_inside_string(line) for line in lines):
            edits.append(Edit(found.start(), found.end(), "\n\n"))
    return source.edited(edits).strip("\n").rstrip() + "\n"
