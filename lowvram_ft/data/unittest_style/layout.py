"""What is left of test classes: functions where they have no state, else classes that pytest collects."""

from __future__ import annotations

import ast
import re

from lowvram_ft.data.unittest_style.classes import (
    FIXTURES,
    MODULE_FIXTURES,
    Names,
    TestClass,
    check_rest,
    drop_ignored,
    find_classes,
    is_mark,
    is_test,
    marks,
    selfs_of,
    without,
)
from lowvram_ft.data.unittest_style.contexts import own_returns
from lowvram_ft.data.unittest_style.text import Edit, NotConvertible, Source, bound_names, own_nodes


def rename_fixtures(text: str, names: Names, needs: set[str]) -> str:
    """``setUp`` and its kin under pytest's names, and what ``TestCase`` alone knows taken out."""
    source = Source(text)
    source = Source(source.edited(drop_ignored(source, find_classes(source.tree, names))))
    classes = find_classes(source.tree, names)
    edits = [edit for one in classes for edit in _super_calls(source, one, classes)]
    source = Source(source.edited(edits))
    classes = find_classes(source.tree, names)
    edits = [edit for one in classes for edit in _cleanups(source, one, classes, needs)]
    source = Source(source.edited(edits))
    classes = find_classes(source.tree, names)
    check_rest(classes, source)
    edits = [_renamed(source, n, MODULE_FIXTURES) for n in source.tree.body if _is_function(n, MODULE_FIXTURES)]
    for one in classes:
        edits += [_renamed(source, node, FIXTURES) for node in one.methods if node.name in FIXTURES]
        for node in ast.walk(one.node):
            if isinstance(node, ast.Attribute) and node.attr in FIXTURES:
                edits.append(Edit(source.end(node) - len(node.attr), source.end(node), FIXTURES[node.attr]))
    return source.edited(edits)


def _is_function(node: ast.AST, names: dict[str, str]) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name in names


def _renamed(source: Source, node: ast.stmt, names: dict[str, str]) -> Edit:
    assert isinstance(node, ast.FunctionDef)
    start = source.text.index(node.name, source.offset(node.lineno, node.col_offset))
    return Edit(start, start + len(node.name), names[node.name])


def _super_calls(source: Source, one: TestClass, classes: list[TestClass]) -> list[Edit]:
    """``super().setUp()`` goes where it reaches ``TestCase`` alone."""
    edits = []
    for method in one.methods:
        for node in ast.walk(method):
            if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
                continue
            found = re.fullmatch(r"super\((?:\w+, \w+)?\)\.(\w+)\(\)", ast.unparse(node.value))
            if found is None or found[1] not in FIXTURES:
                continue
            if one.is_mixin or any(len(other.node.bases) > 1 for other in classes):
                raise NotConvertible("super() beside a mixin")
            if not any(_is_function(part, {found[1]: ""}) for above in one.family[1:] for part in above.body):
                whole = node in method.body and len(method.body) == 1
                edits.append(
                    without(source, method if whole else node, alone=_is_alone(source, method if whole else node))
                )
    return edits


def _is_alone(source: Source, statement: ast.stmt) -> bool:
    above = source.parents[statement]
    blocks = [getattr(above, name, None) for name in ("body", "orelse", "finalbody")]
    return any(isinstance(block, list) and block == [statement] for block in blocks)


def _cleanups(source: Source, one: TestClass, classes: list[TestClass], needs: set[str]) -> list[Edit]:
    """``addCleanup`` as finalizers of pytest, which run in the same order: after ``tearDown``, the last one first."""
    edits: list[Edit] = []
    for method in one.methods:
        selfs = selfs_of(method)
        calls = [
            node.value
            for node in own_nodes(method)
            if isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call)
            and isinstance(node.value.func, ast.Attribute)
            and node.value.func.attr == "addCleanup"
            and node.value.func.value in selfs
        ]
        if not calls:
            continue
        taken = {n.id for n in ast.walk(one.node) if isinstance(n, ast.Name)} | source.bound
        heirs = any(one.node in other.family for other in classes if other is not one)
        if heirs or len(one.family) > 1 or one.is_mixin or taken & {"request", "set_up"}:
            raise NotConvertible("addCleanup")
        for call in calls:
            edits.append(Edit(source.start(call), source.end(call), _finalizer(source, call, needs)))
        if method.name == "setUp":
            edits += _as_fixture(source, one, method, needs)
        elif is_test(method) and not one.defines("tearDown") and not method.decorator_list:
            end = source.end(method.args.args[-1])
            edits.append(Edit(end, end, ", request"))
        else:
            raise NotConvertible("addCleanup")
    return edits


def _finalizer(source: Source, call: ast.Call, needs: set[str]) -> str:
    if not call.args or isinstance(call.args[0], ast.Starred):
        raise NotConvertible("addCleanup")
    if len(call.args) == 1 and not call.keywords:
        return f"request.addfinalizer({source.text[source.start(call.args[0]) : source.end(call.args[0])]})"
    needs.add("functools")
    inner = source.text[source.end(call.func) : source.end(call)]
    return f"request.addfinalizer(functools.partial{inner})"


def _as_fixture(source: Source, one: TestClass, method: ast.FunctionDef, needs: set[str]) -> list[Edit]:
    needs.add("pytest")
    attributes = [n.attr for n in ast.walk(one.node) if isinstance(n, ast.Attribute)]
    last = next((node for node in one.methods if node.name == "tearDown"), None)
    if "setUp" in attributes or "tearDown" in attributes or own_returns(method) or (last and own_returns(last)):
        raise NotConvertible("addCleanup")
    indent = source.indent(source.start(method))
    start = source.offset(method.lineno, method.col_offset)
    name = source.text.index("setUp", start)
    end = source.end(method.args.args[0])
    edits = [
        Edit(start, start, f"@pytest.fixture(autouse=True)\n{indent}"),
        Edit(name, name + len("setUp"), "set_up"),
        Edit(end, end, ", request"),
    ]
    if last is not None:
        if method.body[0].lineno == method.lineno or last.body[0].lineno == last.lineno:
            raise NotConvertible("addCleanup")
        body = source.indent(source.start(method.body[0]))
        first, finish = source.line_start(source.start(last.body[0])), source.end(last)
        moved = source.render(first, finish, source.shifted(first, finish, source.indent(first), body))
        edits.append(Edit(source.end(method), source.end(method), f"\n{body}yield\n{moved}"))
        edits.append(without(source, last, alone=False))
    return edits


def rewrite_classes(text: str, names: Names, needs: set[str]) -> tuple[str, frozenset[str]]:
    """Take ``TestCase`` out of the bases, or the class away.

    Returns:
        The text, and the names of the functions that have no class any more.
    """
    source = Source(text)
    classes = find_classes(source.tree, names)
    flat = [one for one in classes if _is_stateless(one, source, classes, names)]
    used = [node.name for one in flat for node in one.methods]
    others = bound_names(ast.Module([n for n in source.tree.body if n not in [one.node for one in flat]], []))
    loaded = {node.id for node in ast.walk(source.tree) if isinstance(node, ast.Name)}
    clashing = {name for name in used if used.count(name) > 1 or name in others or name in loaded}
    flat = [one for one in flat if not clashing & {node.name for node in one.methods}]
    edits: list[Edit] = []
    for one in classes:
        edits += _as_functions(source, one, names) if one in flat else _as_class(source, one, classes, names)
    if any("pytest." in edit.text for edit in edits):
        needs.add("pytest")
    if any("bool(" in edit.text for edit in edits):
        needs.add("bool")
    return source.edited(edits), frozenset(node.name for one in flat for node in one.methods)


def _is_stateless(one: TestClass, source: Source, classes: list[TestClass], names: Names) -> bool:
    """Whether nothing ties the tests of a class together."""
    node = one.node
    uses = [n for n in ast.walk(source.tree) if isinstance(n, ast.Name) and n.id == node.name]
    plain = [n for n in node.body if not (isinstance(n, ast.Pass) or _is_docstring(n))]
    if one.is_mixin or len(one.family) > 1 or uses or any(node in c.family for c in classes if c is not one):
        return False
    if not all(is_test(n) and isinstance(n, ast.FunctionDef) for n in plain) or not plain:
        return False
    if any(not is_mark(d, names) for d in node.decorator_list) or node.body[0].lineno == node.lineno:
        return False
    identifiers = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} | bound_names(node)
    identifiers |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    if any(_is_mangled(name) for name in identifiers) or identifiers & {"super", "__class__"}:
        return False
    return not any(selfs_of(method) for method in one.methods)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_mangled(name: str) -> bool:
    return name.startswith("__") and not name.endswith("__")


def _as_functions(source: Source, one: TestClass, names: Names) -> list[Edit]:
    node = one.node
    start = source.line_start(source.start(node))
    inside = source.line_end(source.colon(source.offset(node.lineno, node.col_offset))) + 1
    indent = source.indent(source.start(node.body[0]))
    edits = [Edit(start, inside, "")]
    for statement in node.body:
        if _is_docstring(statement):
            assert isinstance(statement, ast.Expr)
            edits.append(Edit(source.start(statement), source.end(statement), _as_comment(statement)))
        elif isinstance(statement, ast.Pass):
            edits.append(without(source, statement, alone=False))
    of_class = [edit.text for edit in marks(source, node, names)]
    for method in one.methods:
        at = source.start(method)
        edits += [Edit(at, at, f"@{mark}\n") for mark in of_class]
        edits += marks(source, method, names)
        edits.append(_without_self(source, method))
    taken = [(edit.start, edit.end) for edit in edits]
    moved = source.shifted(inside, source.end(node), indent, "")
    return edits + [e for e in moved if not any(a <= e.start and e.end <= b and a < b for a, b in taken)]


def _as_comment(statement: ast.Expr) -> str:
    assert isinstance(statement.value, ast.Constant)
    lines = [line.strip() for line in str(statement.value.value).strip().split("\n")]
    return "\n".join(f"# {line}".rstrip() for line in lines)


def _without_self(source: Source, method: ast.FunctionDef) -> Edit:
    first, *others = method.args.args
    start = source.start(first)
    if others:
        return Edit(start, source.start(others[0]), "")
    after = re.compile(r"\s*,?\s*").match(source.text, source.end(first))
    return Edit(start, after.end() if after else source.end(first), "")


def _as_class(source: Source, one: TestClass, classes: list[TestClass], names: Names) -> list[Edit]:
    node = one.node
    edits = [*marks(source, node, names)]
    for method in one.methods:
        edits += marks(source, method, names)
    if one.is_mixin:
        return edits
    start = source.offset(node.lineno, node.col_offset)
    bases = [source.text[source.start(b) : source.end(b)] for b in node.bases if names.resolve(b) != "TestCase"]
    renames = {c.node.name: collected_name(c.node.name) for c in classes if c.has_tests and not c.is_mixin}
    if len(set(renames.values())) < len(renames) or (set(renames.values()) - set(renames)) & source.bound:
        raise NotConvertible("two classes of one name")
    bases = [renames.get(base, base) for base in bases]
    new = renames.get(node.name, node.name)
    edits.append(Edit(start, source.colon(start), f"class {new}({', '.join(bases)})" if bases else f"class {new}"))
    if new != node.name:
        edits += _renamed_uses(source, node, new)
    return edits


def collected_name(name: str) -> str:
    """The name of a test class with which pytest collects it: ``AddTests`` becomes ``TestAdd``."""
    if name.startswith("Test"):
        return name
    stem = re.sub(r"_?(TestCase|Tests|Test)$", "", name)
    return f"Test{stem.lstrip('_') or name}"


def _renamed_uses(source: Source, node: ast.ClassDef, new: str) -> list[Edit]:
    identifiers = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)} | bound_names(node)
    if any(_is_mangled(name) for name in identifiers):
        raise NotConvertible("names that depend on the class's own")
    edits = []
    for use in ast.walk(source.tree):
        if isinstance(use, ast.Name) and use.id == node.name and not _is_base(source, use):
            if any(isinstance(above, ast.JoinedStr) for above, _ in source.above(use)):
                raise NotConvertible("a class's name in an f-string")
            edits.append(Edit(source.start(use), source.end(use), new))
    return edits


def _is_base(source: Source, use: ast.Name) -> bool:
    above = source.parents[use]
    return isinstance(above, ast.ClassDef) and use in above.bases
