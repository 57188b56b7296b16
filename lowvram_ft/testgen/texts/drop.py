"""Changes to the text of a test file that leave every other character as it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Sequence

from lowvram_ft.data.imports.edits import Edits
from lowvram_ft.data.row import SOLUTION
from lowvram_ft.data.syntax import parse

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def drop_tests(test: str, names: Sequence[str]) -> str:
    """Leave out tests by name, decorators and all; the rest stays letter for letter.

    Args:
        test: a test file.
        names: ``test_y``, or ``TestX::test_y``; a class of which nothing would be left goes with its tests.

    Returns:
        The rest; the file as it is where it does not parse.
    """
    tree = parse(test)
    lines = re.split(r"(?<=\n)", test)  # as Python counts them: a form feed ends none
    for node in _named(tree.body if tree is not None else [], "", frozenset(names)):
        start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        for number in range(start - 1, node.end_lineno or node.lineno):
            lines[number] = ""
    return re.sub(r"\n{4,}", "\n\n\n", "".join(lines)).rstrip() + "\n"


def _named(body: Sequence[ast.stmt], prefix: str, names: frozenset[str]) -> list[_Definition]:
    """The definitions that go."""
    found: list[_Definition] = []
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and prefix + node.name in names:
            found.append(node)
        elif isinstance(node, ast.ClassDef):
            inner = _named(node.body, f"{prefix}{node.name}::", names)
            text = isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)
            found += [node] if inner and len(inner) + text == len(node.body) else inner
    return found


def import_real_module(test: str, module: str) -> str:
    """Make a test import the real module where it imports ``solution``."""
    tree = parse(test)
    edits = Edits(test)
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Import) and len(node.names) > 1 and any(n.name == "solution" for n in node.names):
            names = [ast.alias(module, n.asname or "solution") if n.name == "solution" else n for n in node.names]
            edits.replace(node, ast.unparse(ast.Import(names)))
    test = edits.result()
    test = re.sub(r"(?m)^(\s*)from solution import(?=[ \t(])", rf"\1from {module} import", test)
    test = re.sub(r"(?m)^(\s*)import solution as ", rf"\1import {module} as ", test)
    test = re.sub(r"(?m)^(\s*)import solution\b(?! as)", rf"\1import {module} as solution", test)
    # the places where pytest and unittest.mock take a module's name in a string
    return re.sub(r"\b(patch|patch\.dict|setattr|delattr)\((\s*)([\"'])solution\.", rf"\1(\2\3{module}.", test)


def drop_cases(test: str, name: str, places: Collection[int], n_cases: int) -> str | None:
    """Leave out cases of a parametrized test by their places in its list.

    Args:
        test: a test file.
        name: of the test, as for `drop_tests`.
        places: of the cases that go, from 0.
        n_cases: how many cases pytest ran.

    Returns:
        The rest; None where the cases are not a single list in the text, of that many values, or none would be left.
    """
    tree = parse(test)
    node = next((node for node in (_named(tree.body, "", frozenset({name})) if tree is not None else [])), None)
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or len(places) >= n_cases:
        return None
    marks = [mark for mark in node.decorator_list if isinstance(mark, ast.Call) and _is_parametrize(mark.func)]
    if len(marks) != 1 or (name.count("::") and _owner_is_marked(tree, name)):
        return None
    given = {keyword.arg: keyword.value for keyword in marks[0].keywords}
    values = marks[0].args[1] if len(marks[0].args) > 1 else given.get("argvalues")
    ids = given.get("ids")
    lists = [values, *([ids] if ids is not None else [])]
    edits = Edits(test)
    for found in lists:
        if not isinstance(found, ast.List | ast.Tuple) or len(found.elts) != n_cases:
            return None
        if any(isinstance(value, ast.Starred) for value in found.elts):
            return None
        kept = [value for place, value in enumerate(found.elts) if place not in places]
        texts = [edits.text_of(value) for value in kept]
        opening, closing = ("[", "]") if isinstance(found, ast.List) else ("(", ",)")
        indent = " " * (node.col_offset + 8)
        apart = found.lineno != found.end_lineno
        middle = "".join(f"\n{indent}{text}," for text in texts) + f"\n{indent[4:]}" if apart else ", ".join(texts)
        edits.replace(found, opening + middle + (closing.lstrip(",") if apart else closing))
    return edits.result()


def _is_parametrize(function: ast.expr) -> bool:
    return isinstance(function, ast.Attribute) and function.attr == "parametrize"


def _owner_is_marked(tree: ast.Module | None, name: str) -> bool:
    """Whether a class around a test is parametrized as well."""
    owners = set(name.split("::")[:-1])
    return any(
        isinstance(node, ast.ClassDef) and node.name in owners and node.decorator_list
        for node in ast.walk(tree or ast.Module([], []))
    )


def speaks_of_solution(test: str) -> bool:
    """Whether a test still means the module under test by the name that a model knows it by.

    The sandbox has a module of that name, and the user's project has none.

    Args:
        test: a test file, after `import_real_module`.
    """
    tree = parse(test)
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""] if not node.level else []
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value]
        else:
            continue
        if any(name == SOLUTION or name.startswith(f"{SOLUTION}.") for name in names):
            return True
    return False
