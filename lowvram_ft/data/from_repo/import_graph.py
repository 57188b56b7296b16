"""Where names are defined: from a name that a file uses, through re-exports, to the module that defines it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from lowvram_ft.data.from_repo.source_tree import SourceFile
from lowvram_ft.data.syntax import absolute_module

_STEPS = 300
"""Modules that are looked into for one name: a bound on what a hostile tree can cost, and on recursion."""


@dataclass(frozen=True)
class Target:
    """A definition, or a module as a whole.

    Attributes:
        module: the module that defines it.
        name: what is defined; empty for the module itself.
    """

    module: str
    name: str = ""


@dataclass(frozen=True)
class Binding:
    """What an import binds a name to: a module, or a name in a module."""

    module: str
    name: str = ""


@dataclass(frozen=True)
class Names:
    """The names of a module.

    Attributes:
        defined: functions, classes and variables at its top.
        imported: what its imports bind.
        stars: modules that everything is imported from.
        exported: its ``__all__``, or None where it has none that can be read.
    """

    defined: frozenset[str]
    imported: Mapping[str, Binding]
    stars: tuple[str, ...] = ()
    exported: frozenset[str] | None = None

    def exports(self, name: str) -> bool:
        """Whether ``from module import *`` gives the name."""
        return name in self.exported if self.exported is not None else not name.startswith("_")


def read_names(tree: ast.Module, package: str) -> Names:
    """The names that a module has once it is imported.

    Args:
        tree: the module.
        package: what its relative imports start from.
    """
    found = _Found()
    for node in statements(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.defined.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for name, binding in bindings(node, package):
                if name == "*":
                    found.stars.append(binding.module)
                else:
                    found.imported[name] = binding
        else:
            _assignment(node, package, found)
    exported = frozenset(found.exported) if found.has_all and found.readable_all else None
    return Names(frozenset(found.defined), found.imported, tuple(found.stars), exported)


def bindings(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, Binding]]:
    """What an import statement binds; ``*`` stands for everything."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.asname:
                yield alias.asname, Binding(alias.name)
            else:
                top = alias.name.partition(".")[0]
                yield top, Binding(top)
        return
    module = absolute_module(node, package)
    if module is not None:
        for alias in node.names:
            yield alias.asname or alias.name, Binding(module, "" if alias.name == "*" else alias.name)


@dataclass
class _Found:
    defined: set[str] = field(default_factory=set)
    imported: dict[str, Binding] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    exported: set[str] = field(default_factory=set)
    has_all: bool = False
    readable_all: bool = True


def statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported, also those under a condition."""
    pending = list(body)[::-1]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        blocks = [getattr(node, part, []) for part in ("body", "orelse", "finalbody")]
        blocks += [handler.body for handler in getattr(node, "handlers", [])]
        blocks += [case.body for case in getattr(node, "cases", [])]
        for block in reversed(blocks):
            pending.extend(reversed(block))


def _assignment(node: ast.stmt, package: str, found: _Found) -> None:
    targets: list[ast.expr]
    value: ast.expr | None
    if isinstance(node, ast.Assign):
        targets, value = node.targets, node.value
    elif isinstance(node, ast.AnnAssign | ast.AugAssign):
        targets, value = [node.target], node.value
    elif isinstance(node, ast.Expr):
        _extend_all(node.value, found)
        return
    else:
        return
    for target in targets:
        for part in ast.walk(target):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                found.defined.add(part.id)
                if part.id == "__all__" and value is not None:
                    _read_all(value, found)
    if value is not None:
        _attach(value, package, found)


def _read_all(value: ast.expr, found: _Found) -> None:
    found.has_all = True
    parts = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, ast.List | ast.Tuple | ast.Set):
            parts.extend(item.value if isinstance(item, ast.Starred) else item for item in part.elts)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            found.exported.add(part.value)
        elif isinstance(part, ast.BinOp):
            parts += [part.left, part.right]
        elif not (isinstance(part, ast.Name) and part.id == "__all__"):
            found.readable_all = False  # such as ``sub.__all__``


def _extend_all(value: ast.expr, found: _Found) -> None:
    """``__all__.extend([...])`` and ``__all__.append("x")``."""
    if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute)):
        return
    if isinstance(value.func.value, ast.Name) and value.func.value.id == "__all__":
        for argument in value.args:
            _read_all(argument, found)


def _attach(value: ast.expr, package: str, found: _Found) -> None:
    """``__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"mod": ["name"]})``."""
    if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "attach"):
        return
    found.readable_all = False
    for keyword in value.keywords:
        if keyword.arg == "submod_attrs" and isinstance(keyword.value, ast.Dict):
            for key, names in zip(keyword.value.keys, keyword.value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(names, ast.List | ast.Tuple | ast.Set):
                    for name in names.elts:
                        if isinstance(name, ast.Constant):
                            found.imported[str(name.value)] = Binding(f"{package}.{key.value!s}", str(name.value))


@dataclass
class ImportGraph:
    """The modules of a repository and what they take from each other.

    Attributes:
        files: by import path. Where several files have the same one, the first of those that are no test.
        names: of every module that could be parsed.
    """

    files: dict[str, SourceFile] = field(default_factory=dict)
    names: dict[str, Names] = field(default_factory=dict)
    _known: dict[tuple[str, str], Target | None] = field(default_factory=dict)

    def add(self, file: SourceFile, tree: ast.Module) -> None:
        """Take a module in."""
        there = self.files.get(file.module)
        if there is None or (there.is_test and not file.is_test):
            self.files[file.module] = file
            self.names[file.module] = read_names(tree, file.package)

    def resolve(self, module: str, name: str) -> Target | None:
        """Where ``module.name`` is defined; None where it comes from outside, or cannot be told."""
        key = (module, name)
        if key not in self._known:
            self._known[key] = self._resolve(module, name, set())
        return self._known[key]

    def resolve_binding(self, binding: Binding) -> Target | None:
        """What an import gives; None where it comes from outside."""
        if binding.name:
            return self.resolve(binding.module, binding.name)
        return Target(binding.module) if binding.module in self.names else None

    def follow(self, start: Binding, attributes: Iterable[str]) -> Target | None:
        """What ``start.a.b.c`` is: modules are followed, and the first definition that is met is the answer."""
        found = self.resolve_binding(start)
        for attribute in attributes:
            if found is None or found.name:
                return found
            further = self.resolve(found.module, attribute)
            if further is None:
                return None
            found = further
        return found

    def gives(self, module: str, target: Target) -> str | None:
        """The name under which ``module`` has a definition of another module; None where it has not."""
        if self.resolve(module, target.name) == target:
            return target.name
        return None

    def _resolve(self, module: str, name: str, seen: set[tuple[str, str]]) -> Target | None:
        key = (module, name)
        if key in self._known:
            return self._known[key]
        names = self.names.get(module)
        if names is None or key in seen or len(seen) > _STEPS:
            return None
        seen.add(key)
        found = self._look_up(names, module, name, seen)
        if found is not None:
            self._known[key] = found
        return found

    def _look_up(self, names: Names, module: str, name: str, seen: set[tuple[str, str]]) -> Target | None:
        binding = names.imported.get(name)
        if binding is not None:
            found = Target(binding.module) if not binding.name and binding.module in self.names else None
            if binding.name:
                found = self._resolve(binding.module, binding.name, seen)
            if found is not None:
                return found
        if name in names.defined:
            return Target(module, name)
        for star in reversed(names.stars):
            origin = self.names.get(star)
            if origin is not None and origin.exports(name):
                found = self._resolve(star, name, seen)
                if found is not None:
                    return found
        submodule = f"{module}.{name}"
        return Target(submodule) if submodule in self.names else None
