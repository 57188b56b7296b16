"""A test file with what its rules ask for: parents, owners of nodes, what names stand for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cached_property

from lowvram_ft.data.duplicates.normalize import is_main_guard
from lowvram_ft.data.row import SOLUTION
from lowvram_ft.data.syntax import parse
from lowvram_ft.execution.modules import split_modules
from lowvram_ft.testgen.attempts.reading import named_tests

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

_TEMPORARY = frozenset({"tmp_path", "tmp_path_factory", "tmpdir", "tmpdir_factory", "tempfile"})


class View:
    """A parsed test file, and the code that it is about.

    Args:
        tree: of the test file.
        code: as for `lowvram_ft.execution.run_tests`.
        module: the same.
    """

    def __init__(self, tree: ast.Module, code: str, module: str) -> None:
        self.tree = tree
        self.code = code
        self.module = module
        guards = [node for node in tree.body if isinstance(node, ast.If) and is_main_guard(node)]
        self.never_run = frozenset(id(part) for guard in guards for part in ast.walk(guard))
        self.parents = {id(child): node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        self.tests = {name: node for name, node, _ in named_tests(tree.body)}
        self._owners = {id(part): name for name, node in self.tests.items() for part in ast.walk(node)}
        target = next(iter(split_modules(code, module).values()))
        self.code_tree = parse(target) or ast.Module([], [])
        self.words = frozenset(self._words())

    def owner(self, node: ast.AST) -> str | None:
        """Name of the test that a node stands in, as pytest has it without its cases; None outside of all."""
        return self._owners.get(id(node))

    def parent(self, node: ast.AST) -> ast.AST | None:
        """The node right above one."""
        return self.parents.get(id(node))

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """The nodes above one, the nearest first."""
        found = self.parent(node)
        while found is not None:
            yield found
            found = self.parent(found)

    def dotted(self, node: ast.AST) -> str:
        """What an expression stands for by the imports of the file: ``solution.area``, ``pytest.mark.skip``.

        Empty where it is no name, or one that nothing imports; a built-in name stands for itself.
        """
        if isinstance(node, ast.Attribute):
            base = self.dotted(node.value)
            return f"{base}.{node.attr}" if base else ""
        return self.imports.get(node.id, "") if isinstance(node, ast.Name) else ""

    @cached_property
    def imports(self) -> dict[str, str]:
        """What each name stands for that an import binds; the module under test is ``solution``."""
        found: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    name = alias.name if alias.asname else alias.name.partition(".")[0]
                    found[alias.asname or name] = self._own(name)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    found[alias.asname or alias.name] = self._own(f"{node.module or ''}.{alias.name}")
        if f"{SOLUTION}.*" in found.values():
            found |= {name: f"{SOLUTION}.{name}" for name in self.defined if not name.startswith("_")}
        return found

    def _own(self, name: str) -> str:
        if name == self.module or name.startswith(f"{self.module}."):
            return SOLUTION + name.removeprefix(self.module)
        return name

    @cached_property
    def defined(self) -> frozenset[str]:
        """Functions, classes and values that the code under test defines itself."""
        found: set[str] = set()
        for node in self.code_tree.body:
            if isinstance(node, Definition):
                found.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
        return frozenset(found)

    @cached_property
    def functions(self) -> frozenset[str]:
        """The functions among them."""
        return frozenset(node.name for node in self.code_tree.body if isinstance(node, Function))

    @cached_property
    def bound_here(self) -> frozenset[str]:
        """Names that the file assigns to, or defines, itself."""
        stored = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name) and _is_stored(node)}
        return frozenset(stored | {node.name for node in ast.walk(self.tree) if isinstance(node, Definition)})

    def is_temporary(self, node: ast.AST) -> bool:
        """Whether an expression speaks of a folder or a file that the test has made for itself."""
        return any(isinstance(part, ast.Name) and part.id in self.temporary for part in ast.walk(node))

    @cached_property
    def temporary(self) -> frozenset[str]:
        """Names that hold what comes from pytest's folders, or from ``tempfile``."""
        found = {name for name, origin in self.imports.items() if origin.partition(".")[0] == "tempfile"} | _TEMPORARY

        def speaks(part: ast.AST | None) -> bool:
            return part is not None and any(isinstance(n, ast.Name) and n.id in found for n in ast.walk(part))

        while True:
            more: set[str] = set()
            for node in ast.walk(self.tree):
                if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and speaks(node.value):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                elif isinstance(node, ast.For | ast.comprehension) and speaks(node.iter):
                    targets = [node.target]
                elif isinstance(node, ast.withitem) and speaks(node.context_expr) and node.optional_vars is not None:
                    targets = [node.optional_vars]
                elif isinstance(node, Function) and not node.name.startswith("test") and any(map(speaks, node.body)):
                    more.add(node.name)  # a fixture, or a function that makes a file
                    continue
                else:
                    continue
                more |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
            if more <= found:
                return frozenset(found)
            found |= more

    def _words(self) -> Iterator[str]:
        """Names and attributes that the code under test uses or defines, and modules that it imports."""
        for node in ast.walk(self.code_tree):
            if isinstance(node, ast.Name):
                yield node.id
            elif isinstance(node, ast.Attribute):
                yield node.attr
            elif isinstance(node, ast.alias):
                yield from node.name.split(".")
            elif isinstance(node, Definition):
                yield node.name
            elif isinstance(node, ast.Assert):
                yield "AssertionError"


def words_of(text: str) -> frozenset[str]:
    """The words of a list that is written as a text."""
    return frozenset(text.split())


def _is_stored(node: ast.Name) -> bool:
    return not isinstance(node.ctx, ast.Load)
