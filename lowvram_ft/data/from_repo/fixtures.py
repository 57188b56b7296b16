"""What pytest fills the arguments of tests and fixtures with, read from their text."""

from __future__ import annotations

import ast

Function = ast.FunctionDef | ast.AsyncFunctionDef

BUILTIN_FIXTURES = frozenset(
    {
        "cache", "capfd", "capfdbinary", "caplog", "capsys", "capsysbinary", "doctest_namespace", "monkeypatch",
        "pytestconfig", "record_property", "record_testsuite_property", "record_xml_attribute", "recwarn", "request",
        "subtests", "tmp_path", "tmp_path_factory", "tmpdir", "tmpdir_factory",
    }
)  # fmt: skip
"""Fixtures that pytest 9 brings itself."""


def last_name(node: ast.expr) -> str:
    """``c`` of ``a.b.c`` and of ``a.b.c(...)``."""
    while isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def all_arguments(function: Function) -> list[ast.arg]:
    """Arguments of a function, but for ``*args`` and ``**kwargs``."""
    arguments = function.args
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]


def is_fixture(node: Function) -> bool:
    """Whether a function is decorated as a fixture."""
    return any(last_name(decorator) == "fixture" for decorator in node.decorator_list)


def is_autouse(node: Function) -> bool:
    """Whether every test of its scope gets a fixture."""
    return any(
        keyword.arg == "autouse" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call)
        for keyword in decorator.keywords
    )


def fixture_name(node: Function) -> str:
    """The name that tests ask for a fixture by."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and last_name(decorator) == "fixture":
            for keyword in decorator.keywords:
                if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
                    return str(keyword.value.value)
    return node.name


def arguments(function: Function) -> set[str]:
    """Arguments of a test or a fixture that pytest fills with fixtures."""
    names = [argument.arg for argument in [*function.args.posonlyargs, *function.args.args]]
    if function.args.defaults:
        names = names[: -len(function.args.defaults)]
    patched = 0
    given: set[str] = {"self", "cls"}
    for decorator in function.decorator_list:
        kind = last_name(decorator)
        if kind in ("given", "parameterized", "expand"):
            return set()
        if kind in ("patch", "object") and isinstance(decorator, ast.Call):
            patched += len(decorator.args) < (3 if kind == "object" else 2)
        elif kind == "parametrize" and isinstance(decorator, ast.Call):
            given |= parametrized(decorator)
    names = [name for name in names if name not in given]
    return set(names[patched:]) | {argument.arg for argument in function.args.kwonlyargs} - given


def parametrized(decorator: ast.Call) -> set[str]:
    """Arguments that ``pytest.mark.parametrize(...)`` fills."""
    first = decorator.args[0] if decorator.args else None
    for keyword in decorator.keywords:
        first = keyword.value if keyword.arg == "argnames" else first
    parts = first.elts if isinstance(first, ast.List | ast.Tuple) else [first]
    texts = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return {name.strip() for text in texts for name in text.split(",")}


def used_fixtures(node: ast.AST) -> set[str]:
    """Fixtures that a call names: ``usefixtures("a")``, ``request.getfixturevalue("a")``."""
    if isinstance(node, ast.Call) and last_name(node.func) in ("usefixtures", "getfixturevalue"):
        return {str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)}
    return set()
