"""Which names Python code binds, and where each name that it uses comes from, by Python's own scoping rules.

Nothing is run. The rules are those of the language reference, "Execution model", 4.2: functions see the functions
around them and the module, class bodies are seen by nobody but themselves, a comprehension is a function whose first
iterable is evaluated outside.
"""

from __future__ import annotations

import ast
import builtins
import re
import symtable
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lowvram_ft.data.syntax import UNREADABLE, parse

BUILTINS = frozenset(dir(builtins))
MODULE_ATTRIBUTES = frozenset(
    {"__name__", "__file__", "__doc__", "__package__", "__spec__", "__loader__", "__path__", "__builtins__"}
    | {"__annotations__", "__dict__", "__debug__", "__cached__", "__class__"}
)
"""Names that every module has of itself."""

_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_FOR = re.compile(r"\bfor\b")
_COMPREHENSION = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class TopNames:
    """What the symbol table says of a module.

    Attributes:
        bound: names that the module binds, those that its functions declare ``global`` included.
        imported: those that nothing but imports bind.
        bound_again: those that an import binds and something else as well.
        used: module-level and built-in names that are read anywhere in it.
    """

    bound: frozenset[str]
    imported: frozenset[str]
    bound_again: frozenset[str]
    used: frozenset[str]


def top_names(text: str) -> TopNames | None:
    """The module-level names of a text, from the compiler's symbol table: quicker than a tree of it.

    None where the text does not compile.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            top = _table(text)
        except UNREADABLE:
            return None
    assigned, imported, used = set[str](), set[str](), set[str]()
    pending = [top]
    while pending:
        table = pending.pop()
        pending.extend(table.get_children())
        outermost = table.get_type() == "module"
        for symbol in table.get_symbols():
            # Python takes a function that is called "top" for the module, and its locals for globals
            misread = not outermost and symbol.is_local() and not symbol.is_declared_global()
            if symbol.is_global() and not misread:
                name = symbol.get_name()
                if symbol.is_referenced():
                    used.add(name)
                if symbol.is_assigned():
                    assigned.add(name)
                if symbol.is_imported():
                    imported.add(name)
    again = imported & assigned
    return TopNames(frozenset(assigned | imported), frozenset(imported - again), frozenset(again), frozenset(used))


def _table(text: str) -> symtable.SymbolTable:
    table = symtable.symtable(text, "<text>", "exec")
    if sys.version_info >= (3, 12):  # a comprehension is no table of its own there (PEP 709): its names get mixed up
        apart = with_generators(text)
        return table if apart is text else symtable.symtable(apart, "<text>", "exec")
    return table


def with_generators(text: str) -> str:
    """A text with its list, set and dict comprehensions as generators: scopes of the same names, never inlined.

    What the text does is not kept, only what it names. Without a comprehension it stays as it is.

    Raises:
        SyntaxError, ValueError, RecursionError: it does not parse, or is too deep.
    """
    if _FOR.search(text) is None:
        return text
    tree = ast.parse(text)
    if not any(isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp) for node in ast.walk(tree)):
        return text
    return ast.unparse(_Generators().visit(tree))


class _Generators(ast.NodeTransformer):
    def visit_ListComp(self, node: ast.ListComp) -> ast.AST:
        return self.generic_visit(ast.GeneratorExp(node.elt, node.generators))

    def visit_SetComp(self, node: ast.SetComp) -> ast.AST:
        return self.generic_visit(ast.GeneratorExp(node.elt, node.generators))

    def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
        return self.generic_visit(ast.GeneratorExp(ast.Tuple([node.key, node.value], ast.Load()), node.generators))


class Scope:
    """One scope: a module, a class body, or a function (a lambda or a comprehension too).

    Attributes:
        kind: which of these.
        parent: the scope around it; None for the module.
        deferred: whether what stands in it runs later than the module's import.
        bound: how many times each name is bound in it.
        declared_global: names of its ``global`` statements.
        declared_nonlocal: names of its ``nonlocal`` statements.
    """

    __slots__ = ("bound", "declared_global", "declared_nonlocal", "deferred", "kind", "parent")

    def __init__(self, kind: str, parent: Scope | None, deferred: bool) -> None:
        self.kind = kind
        self.parent = parent
        self.deferred = deferred
        self.bound: Counter[str] = Counter()
        self.declared_global: set[str] = set()
        self.declared_nonlocal: set[str] = set()

    def owner(self, name: str) -> Scope:
        """The scope whose binding ``name`` means when it is read here; the module for built-in names too."""
        scope = self
        while scope.parent is not None:
            if name in scope.declared_global:
                return scope.module
            if name in scope.bound and (scope.kind != "class" or scope is self):
                return scope
            scope = scope.parent
        return scope

    @property
    def module(self) -> Scope:
        """The outermost scope."""
        scope = self
        while scope.parent is not None:
            scope = scope.parent
        return scope


@dataclass
class Names:
    """Every name of a tree.

    Attributes:
        top: the module's scope.
        references: each ``Name`` node with the scope in which it stands.
        quoted: the same for names inside annotations that are strings; their positions mean nothing.
        imports: each import statement with the scope in which it stands.
        scopes: every scope.
    """

    top: Scope
    references: list[tuple[ast.Name, Scope]] = field(default_factory=list)
    quoted: list[tuple[ast.Name, Scope]] = field(default_factory=list)
    imports: list[tuple[ast.Import | ast.ImportFrom, Scope]] = field(default_factory=list)
    scopes: list[Scope] = field(default_factory=list)

    def is_global(self, node: ast.Name, scope: Scope) -> bool:
        """Whether a reference means a module-level or built-in name."""
        return scope.owner(node.id) is self.top


def resolve(nodes: Iterable[ast.AST]) -> Names:
    """Find every name of some statements of a module and the scope in which it stands.

    Works with a stack of its own: as deep as a tree may be, it raises nothing.
    """
    top = Scope("module", None, deferred=False)
    names = Names(top, scopes=[top])
    pending: list[tuple[ast.AST, Scope]] = [(node, top) for node in nodes]
    while pending:
        node, scope = pending.pop()
        pending.extend(_visit(node, scope, names))
    for scope in names.scopes:
        for name in scope.declared_global & scope.bound.keys():
            top.bound[name] += scope.bound[name]
        for name in (scope.declared_global | scope.declared_nonlocal) if scope is not top else ():
            scope.bound.pop(name, None)
    return names


def _visit(node: ast.AST, scope: Scope, names: Names) -> Iterator[tuple[ast.AST, Scope]]:
    """Note what a node binds and names; gives the nodes below it with their scopes."""
    if isinstance(node, ast.Name):
        names.references.append((node, scope))
        if not isinstance(node.ctx, ast.Load):
            scope.bound[node.id] += 1
    elif isinstance(node, ast.Constant):
        return
    elif isinstance(node, _FUNCTION):
        yield from _function(node, scope, names)
    elif isinstance(node, ast.ClassDef):
        scope.bound[node.name] += 1
        outer = _with_type_parameters(node, scope, names)
        yield from _bounds(node, outer)
        yield from ((child, scope) for child in node.decorator_list)
        yield from ((child, outer) for child in (*node.bases, *node.keywords))
        inner = _inner("class", outer, names, outer.deferred)
        yield from ((child, inner) for child in node.body)
    elif isinstance(node, _COMPREHENSION):
        inner = _inner("comprehension", scope, names, scope.deferred)
        first = node.generators[0].iter
        yield first, scope
        below = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.comprehension)]
        for generator in node.generators:
            below.extend(child for child in ast.iter_child_nodes(generator) if child is not first)
        yield from ((child, inner) for child in below)
    else:
        yield from _other(node, scope, names)


def _other(node: ast.AST, scope: Scope, names: Names) -> Iterator[tuple[ast.AST, Scope]]:
    if isinstance(node, ast.NamedExpr):
        target = scope
        while target.kind == "comprehension" and target.parent is not None:
            target = target.parent
        yield node.target, target
        yield node.value, scope
        return
    if type(node).__name__ == "TypeAlias":  # ``type X[T] = ...`` of Python 3.12
        outer = _with_type_parameters(node, scope, names)
        yield from _bounds(node, outer)
        yield from ((getattr(node, part), its) for part, its in (("name", scope), ("value", outer)))
        return
    if isinstance(node, ast.Import | ast.ImportFrom):
        names.imports.append((node, scope))
        for alias in node.names:
            if alias.name != "*":
                scope.bound[local_name(node, alias)] += 1
        return
    if isinstance(node, ast.Global):
        scope.declared_global.update(node.names)
    elif isinstance(node, ast.Nonlocal):
        scope.declared_nonlocal.update(node.names)
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
        scope.bound[node.name] += 1
    elif isinstance(node, ast.MatchMapping) and node.rest:
        scope.bound[node.rest] += 1
    elif isinstance(node, ast.AnnAssign):
        _read_quoted(node.annotation, scope, names)
    yield from ((child, scope) for child in ast.iter_child_nodes(node))


def _function(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, scope: Scope, names: Names
) -> Iterator[tuple[ast.AST, Scope]]:
    outer = scope
    if not isinstance(node, ast.Lambda):
        scope.bound[node.name] += 1
        outer = _with_type_parameters(node, scope, names)
        yield from _bounds(node, outer)
        yield from ((child, scope) for child in node.decorator_list)
        if node.returns is not None:
            _read_quoted(node.returns, outer, names)
            yield node.returns, outer
    arguments = node.args
    yield from ((child, scope) for child in (*arguments.defaults, *arguments.kw_defaults) if child is not None)
    inner = _inner("function", outer, names, deferred=True)
    for argument in parameters(arguments):
        inner.bound[argument.arg] += 1
        if argument.annotation is not None:
            _read_quoted(argument.annotation, outer, names)
            yield argument.annotation, outer
    yield from ((child, inner) for child in (node.body if isinstance(node.body, list) else [node.body]))


def parameters(arguments: ast.arguments) -> list[ast.arg]:
    """All parameters of a function, ``*args`` and ``**kwargs`` included."""
    stars = [arguments.vararg, arguments.kwarg]
    found = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [*found, *(star for star in stars if star is not None)]


def local_name(statement: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    """The name that one part of an import statement binds."""
    if alias.asname:
        return alias.asname
    return alias.name.partition(".")[0] if isinstance(statement, ast.Import) else alias.name


def _inner(kind: str, parent: Scope, names: Names, deferred: bool) -> Scope:
    scope = Scope(kind, parent, deferred)
    names.scopes.append(scope)
    return scope


def _with_type_parameters(node: ast.AST, scope: Scope, names: Names) -> Scope:
    """The scope that holds ``T`` of ``def f[T]`` (Python 3.12), or the given one where there is none."""
    found = [getattr(parameter, "name", "") for parameter in getattr(node, "type_params", ())]
    if not found:
        return scope
    inner = _inner("function", scope, names, scope.deferred)
    inner.bound.update(found)
    return inner


def _bounds(node: ast.AST, scope: Scope) -> Iterator[tuple[ast.AST, Scope]]:
    """What ``def f[T: bound = default]`` names beside its parameters."""
    for parameter in getattr(node, "type_params", ()):
        yield from ((child, scope) for child in ast.iter_child_nodes(parameter))


def _read_quoted(annotation: ast.AST, scope: Scope, names: Names) -> None:
    """Note the names in the strings of an annotation."""
    for node in ast.walk(annotation):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 500:
            tree = parse(node.value.strip())
            found = ast.walk(tree) if tree is not None else ()
            names.quoted.extend((child, scope) for child in found if isinstance(child, ast.Name))
