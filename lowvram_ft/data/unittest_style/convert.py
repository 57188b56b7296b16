"""Test files of unittest as the same tests for pytest.

Every converted test passes where the original passes and fails where it fails, on the code and on mutants of it.
Where that is not certain from the text of the file alone, the file is refused with a reason.

How names change: a test of a class without state becomes a function of the same name, if no other has it. Other
classes stay, called ``TestX`` where they were called ``XTests`` (`collected_name`). A test that is a loop over
literal cases becomes one test a case: ``test_a`` is ``test_a[…]`` then. A test whose ``setUp`` or clean-up fails is
an error for pytest, and a failure for unittest.

What the text of a test file cannot tell, and what is taken for granted:

- Tests run in the file's order; unittest runs them by name. A file that shows that its tests share state is refused
  if the two differ. State in the code under test does not show.
- A name that is imported with ``*`` hides no built-in function.
- Looking a method up, as in ``self.assertRaises(IndexError, stack.pop)``, does not raise what the call is to raise.
- Exceptions carry no notes (``add_note``), in which ``pytest.raises(match=…)`` looks too.
"""

from __future__ import annotations

import ast

from lowvram_ft.data.unittest_style.assertions import convert, handles
from lowvram_ft.data.unittest_style.classes import (
    Names,
    check_class,
    check_expected_failures,
    find_classes,
    is_test,
    selfs_of,
)
from lowvram_ft.data.unittest_style.contexts import (
    Method,
    call_form,
    check_places,
    contexts,
    is_context,
    is_outcome,
    outcome,
)
from lowvram_ft.data.unittest_style.imports import finish, without_main
from lowvram_ft.data.unittest_style.layout import collected_name, rename_fixtures, rewrite_classes
from lowvram_ft.data.unittest_style.loops import parametrized, without_subtests
from lowvram_ft.data.unittest_style.site import Site
from lowvram_ft.data.unittest_style.text import Edit, NotConvertible, Source, bound_names, check_compiles, parse
from lowvram_ft.data.unittest_style.values import Scope

__all__ = ["NotConvertible", "collected_name", "to_pytest", "uses_unittest"]


def uses_unittest(test: str | ast.Module) -> bool:
    """Whether a test file has a TestCase class, or imports TestCase. ``unittest.mock`` alone is no such style.

    Args:
        test: the file, or its tree; a text that does not parse uses nothing.
    """
    try:
        tree = parse(test) if isinstance(test, str) else test
        names = Names.of(tree)
        if any(name.endswith("TestCase") for name in names.members.values()):
            return True
        bases = [base for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases]
        return any((names.resolve(base) or ast.unparse(base)).endswith("TestCase") for base in bases)
    except (NotConvertible, RecursionError, MemoryError):
        return False


def to_pytest(test: str) -> str:
    """The same tests as an idiomatic pytest file, with comments and layout kept.

    Args:
        test: a test file with classes of ``unittest.TestCase``.

    Raises:
        NotConvertible: it cannot be converted without a doubt, or there is nothing to convert.
    """
    text = test.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    tree = parse(text)
    check_compiles(text)
    try:
        return _converted(text, tree)
    except (RecursionError, MemoryError):
        raise NotConvertible("nested too deep") from None
    except NotConvertible as refused:
        if refused.reason == "does not parse":  # what came out, such as after a backslash in an odd place
            raise NotConvertible("a layout that cannot be kept") from refused
        raise


def _converted(text: str, tree: ast.Module) -> str:
    names = Names.of(tree)
    classes = find_classes(tree, names)
    if not classes:
        raise NotConvertible("no TestCase class")
    if any(isinstance(node, ast.FunctionDef) and node.name == "load_tests" for node in tree.body):
        raise NotConvertible("load_tests")
    for one in classes:
        check_class(one, tree)
    check_expected_failures(classes, names, tree)
    needs: set[str] = set()
    text = without_main(text)
    text = _with_assertions(text, names, needs)
    text = without_subtests(text, lambda source: _methods(source, names))
    text = rename_fixtures(text, names, needs)
    text, functions = rewrite_classes(text, names, needs)
    text = parametrized(text, functions, needs)
    return finish(text, names, needs, tree)


def _methods(source: Source, names: Names) -> list[Method]:
    """The methods of all test classes and mixins."""
    module = Scope(source.tree)
    return [
        Method(source, node, frozenset(selfs_of(node)), module, is_test(node))
        for one in find_classes(source.tree, names)
        for node in one.methods
    ]


def _with_assertions(text: str, names: Names, needs: set[str]) -> str:
    """Every assertion method as an ``assert`` statement or a context of pytest."""
    source = Source(text)
    methods = _methods(source, names)
    own = {method.node.name for method in methods}
    helpers = [method for method in methods if not method.is_test]
    edits: list[Edit] = []
    for method in methods:
        check_places(method, helpers)
        taken = bound_names(method.node) | {n.id for n in ast.walk(method.node) if isinstance(n, ast.Name)}
        inner = contexts(method, taken, needs)
        edits += inner
        for node in ast.walk(method.node):
            if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
                continue
            name = method.called(node.value)
            if name is not None and name not in own:
                edits += _statement(name, node.value, Site(source, node, method.scope, taken, inner, needs))
    return source.edited(edits)


def _statement(name: str, call: ast.Call, site: Site) -> list[Edit]:
    if handles(name):
        lines = convert(name, call, site)
    elif is_context(name):
        lines = call_form(call, name, site)
    elif is_outcome(name):
        lines = outcome(call, name, site)
    else:
        return []
    if "\t" in site.indent:
        lines = [f"\t{line[4:]}" if line.startswith("    ") else line for line in lines]
    lines = [*site.lost_comments(), *lines]
    if len(lines) > 1 and not site.source.alone(site.statement):
        raise NotConvertible("several statements on a line")
    start, end = site.source.start(site.statement), site.source.end(site.statement)
    return [Edit(start, end, f"\n{site.indent}".join(lines))]
