"""Loops over cases as ``pytest.mark.parametrize``, and ``subTest`` as what stands in it."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable

from lowvram_ft.data.unittest_style.contexts import Method, caught_by
from lowvram_ft.data.unittest_style.text import Edit, NotConvertible, Source, own_nodes
from lowvram_ft.data.unittest_style.values import Scope, is_literal

_LONGEST = 80
"""Longest text that goes into a test's name."""


def without_subtests(text: str, methods: Callable[[Source], list[Method]]) -> str:
    """Take every ``subTest`` away, and leave what stands in it.

    unittest goes on after a sub-test that fails, and the test fails in the end: so it does without.

    Args:
        text: the test file.
        methods: finds the methods of its test classes.

    Raises:
        NotConvertible: something may catch what a sub-test does not let through, or its arguments have an effect.
    """
    while ".subTest" in text:
        source = Source(text)
        edits = [
            edit for method in methods(source) for node in _outermost(method) for edit in _without(source, method, node)
        ]
        if not edits:
            break
        text = source.edited(edits)
    return text


def _is_subtest(method: Method, item: ast.withitem) -> bool:
    return method.called(item.context_expr) == "subTest"


def _outermost(method: Method) -> list[ast.With]:
    """The ``with`` statements with a sub-test that do not stand in another one."""
    found: list[ast.With] = []
    stack: list[ast.AST] = [method.node]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.With) and any(_is_subtest(method, item) for item in node.items):
            found.append(node)
        else:
            stack.extend(ast.iter_child_nodes(node))
    return found


def _without(source: Source, method: Method, node: ast.With) -> list[Edit]:
    _check(source, method, node)
    inner = [item for item in node.items if not _is_subtest(method, item)]
    if inner:
        kept = [
            source.text[source.start(i.context_expr) : source.end(i.optional_vars or i.context_expr)] for i in inner
        ]
        start = source.start(node.items[0].context_expr)
        last = node.items[-1]
        return [Edit(start, source.end(last.optional_vars or last.context_expr), ", ".join(kept))]
    start = source.start(node)
    if node.body[0].lineno == node.lineno:
        return [Edit(start, source.start(node.body[0]), "")]
    return unwrapped(source, node)


def unwrapped(source: Source, node: ast.With | ast.For) -> list[Edit]:
    """Edits that leave the body of a block statement in its place."""
    start = source.start(node)
    colon = source.colon(start)
    inside = source.line_end(colon) + 1
    comment = source.text[colon + 1 : inside].strip()
    outer = source.indent(start)
    kept = f"{outer}{comment}\n" if comment else ""
    moved = source.shifted(inside, source.end(node), source.indent(source.start(node.body[0])), outer)
    return [Edit(source.line_start(start), inside, kept), *moved]


def _check(source: Source, method: Method, node: ast.With) -> None:
    if not method.is_test:
        raise NotConvertible("subTest in a helper")
    for above, child in source.above(node):
        if above is method.node:
            break
        if any(True for _ in caught_by(above, child, method)) or isinstance(above, ast.FunctionDef | ast.Lambda):
            raise NotConvertible("a subTest whose failure is caught")
    for item in node.items:
        if not _is_subtest(method, item):
            continue
        if any(True for _ in caught_by(node, item, method)):
            raise NotConvertible("a subTest whose failure is caught")
        call = item.context_expr
        assert isinstance(call, ast.Call)
        for value in [*call.args, *(keyword.value for keyword in call.keywords)]:
            if not method.scope.is_there(value) and not method.scope.formats(value):
                raise NotConvertible("a subTest with computed arguments")


def parametrized(text: str, functions: frozenset[str], needs: set[str]) -> str:
    """Tests that are a loop over literal cases become parametrized, a case a test.

    Args:
        text: the test file.
        functions: names of the functions that may be changed.
        needs: what the result uses; added to.
    """
    source = Source(text)
    module = Scope(source.tree)
    edits: list[Edit] = []
    for node in source.tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in functions:
            edits += _parametrized(source, node, Scope(node, module))
    if edits:
        needs.add("pytest")
    return source.edited(edits)


def _parametrized(source: Source, function: ast.FunctionDef, scope: Scope) -> list[Edit]:
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    loop = body[-1] if body else None
    if not isinstance(loop, ast.For) or loop.orelse or len(body) > 2 or function.args.args:
        return []
    if (
        not all(ast.unparse(d).startswith("pytest.mark.skip") for d in function.decorator_list)
        or loop.body[0].lineno == loop.lineno
    ):
        return []
    cases, target, index = loop.iter, loop.target, None
    if isinstance(cases, ast.Call) and isinstance(target, ast.Tuple) and len(target.elts) == 2:
        if ast.unparse(cases.func) != "enumerate" or not cases.args:
            return []
        cases, index, target = cases.args[0], target.elts[0], target.elts[1]
    assigned = body[0] if len(body) == 2 else None
    variable = None
    if assigned is not None:
        if not isinstance(assigned, ast.Assign) or not isinstance(cases, ast.Name) or not source.alone(assigned):
            return []
        if [ast.unparse(name) for name in assigned.targets] != [cases.id]:
            return []
        variable, cases = cases.id, assigned.value
    names = _target_names(target)
    if names is None or not _is_free(loop, names, variable, index) or not _are_cases(cases, names, scope):
        return []
    said = f'"{names[0]}"' if isinstance(target, ast.Name) else "(" + ", ".join(f'"{name}"' for name in names) + ")"
    holder = assigned or loop
    edits = (
        [Edit(source.line_start(source.start(assigned)), source.line_end(source.end(assigned)) + 1, "")]
        if assigned
        else []
    )
    at = source.offset(function.lineno, function.col_offset)
    open_at = source.text.index("(", at)
    edits.append(Edit(at, at, f"@pytest.mark.parametrize({_cases_text(source, holder, cases, said)})\n"))
    edits.append(Edit(open_at + 1, source.text.index(")", open_at), ", ".join(names)))
    return [*edits, *unwrapped(source, loop)]


def _cases_text(source: Source, holder: ast.stmt, cases: ast.expr, names: str) -> str:
    start, end = source.start(cases), source.end(cases)
    indent = source.indent(source.start(holder))
    text = source.render(start, end, source.shifted(start, end, indent, "    "))
    if isinstance(cases, ast.Tuple) and source.start(cases.elts[0]) == start:  # no parentheses around it
        text = f"({text})"
    if "\n" not in text and len(names) + len(text) < 70:
        return f"{names}, {text}"
    if "\n" not in text and isinstance(cases, ast.List | ast.Tuple):
        items = "".join(f"        {source.text[source.start(e) : source.end(e)]},\n" for e in cases.elts)
        text = f"[\n{items}    ]"
    return f"\n    {names},\n    {text},\n"


def _target_names(target: ast.expr) -> list[str] | None:
    parts = target.elts if isinstance(target, ast.Tuple) else [target]
    names = [part.id for part in parts if isinstance(part, ast.Name)]
    return names if len(names) == len(parts) == len(set(names)) and not {"request", "_"} & set(names) else None


def _is_free(loop: ast.For, names: list[str], variable: str | None, index: ast.expr | None) -> bool:
    """Whether each turn of the loop stands for itself."""
    inside = [node for statement in loop.body for node in ast.walk(statement)]
    if any(isinstance(node, ast.Break | ast.Continue | ast.Return | ast.Nonlocal | ast.Global) for node in inside):
        return False
    used = [node for node in inside if isinstance(node, ast.Name)]
    gone = {variable} | ({n.id for n in ast.walk(index) if isinstance(n, ast.Name)} if index is not None else set())
    if any(node.id in gone for node in used):
        return False
    first: dict[str, ast.Name] = {}
    for node in sorted(used, key=lambda n: (n.lineno, n.col_offset)):
        first.setdefault(node.id, node)
    stored = {node.id for node in used if not isinstance(node.ctx, ast.Load)} - set(names)
    top = {n for s in loop.body if isinstance(s, ast.Assign | ast.With | ast.For) for n in own_nodes(s)}
    value_first = {n for s in loop.body if isinstance(s, ast.Assign) for n in ast.walk(s.value)}
    loads = {node.id for node in used if isinstance(node.ctx, ast.Load) and node in value_first}
    return all(not isinstance(first[name].ctx, ast.Load) and first[name] in top for name in stored) and not any(
        name in loads and _loaded_where_stored(loop, name) for name in stored
    )


def _loaded_where_stored(loop: ast.For, name: str) -> bool:
    """``x = x + 1``, whose value comes from the turn before."""
    for statement in loop.body:
        names = [n for n in ast.walk(statement) if isinstance(n, ast.Name) and n.id == name]
        if names:
            return isinstance(statement, ast.Assign) and any(isinstance(n.ctx, ast.Load) for n in names)
    return False


def _are_cases(cases: ast.expr, names: list[str], scope: Scope) -> bool:
    if not isinstance(cases, ast.List | ast.Tuple) or not cases.elts:
        return False
    rows = [[element] for element in cases.elts]
    if len(names) > 1:
        rows = [list(element.elts) for element in cases.elts if isinstance(element, ast.Tuple | ast.List)]
    if len(rows) != len(cases.elts) or any(len(row) != len(names) for row in rows):
        return False
    return all(_is_case(value, scope) for row in rows for value in row)


def _is_case(node: ast.expr, scope: Scope) -> bool:
    """Whether an expression has the same value when the file is imported, and makes no odd name."""
    if isinstance(node, ast.Constant):
        value = node.value
        return not (isinstance(value, str | bytes) and len(value) > _LONGEST) and not (
            type(value) is int and value > 10**40
        )
    if isinstance(node, ast.Name):
        return hasattr(builtins, node.id) and node.id not in scope.bindings
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return all(_is_case(item, scope) for item in node.elts)
    if isinstance(node, ast.Dict):
        return all(key is not None and _is_case(key, scope) for key in node.keys) and all(
            _is_case(item, scope) for item in node.values
        )
    numbers = scope.numbers(node)
    return is_literal(node) or (numbers is not None and all(abs(number) <= 10**40 for number in numbers))
