"""A module as its top-level statements: what each binds, uses and does when the module is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from lowvram_ft.data.imports.scopes import Names, local_name, resolve

DEFINITION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_PURE = (ast.Import, ast.ImportFrom, ast.Pass, ast.Global, ast.Raise)
_LOOKS_NAMES_UP = re.compile(
    r"\b(?:globals|eval|exec|vars)\s*\(|\bmodules\[__name__\]|import(?:_module|__)\(__name__\)"
)
_HOOKS = re.compile(r"__init_subclass__|__subclasses__|metaclass")
_LINE = re.compile(r".*?(?:\r\n|\r|\n)|.+", re.DOTALL)
_CHANGERS = frozenset(
    {"add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft", "push", "put"}
    | {"register", "remove", "reverse", "setdefault", "sort", "subscribe", "update", "write"}
)
"""Methods that change what they are called on."""


@dataclass(frozen=True)
class Statement:
    """A top-level statement, or several on the same lines.

    Attributes:
        nodes: their trees.
        start: first line, counted from 1, with decorators and the comments directly above.
        end: last line, with the strings that document it.
        blank_lines: how many stand above it.
        binds: names that it binds.
        uses: names outside of it that it reads, in annotations that are strings too.
        changes: names that its functions change the value of, when they are called.
        attached: names whose value it changes on import: needed as soon as one of them is.
        calls: functions of the module that it calls on import.
        always: whether it does something on import that is not known to concern the module's own names alone.
        looks_up: whether it finds names by strings, so that it may need any.
    """

    nodes: tuple[ast.stmt, ...]
    start: int
    end: int
    blank_lines: int
    binds: frozenset[str]
    uses: frozenset[str]
    changes: frozenset[str]
    attached: frozenset[str]
    calls: frozenset[str]
    always: bool
    looks_up: bool


def split_lines(text: str) -> list[str]:
    """The lines of a text with their ends, as Python counts them: a form feed ends none."""
    return _LINE.findall(text)


def read_statements(body: Sequence[ast.stmt], lines: Sequence[str], above: int = 0) -> list[Statement]:
    """The statements of a module or of a class body.

    Args:
        body: their trees.
        lines: of the whole text.
        above: last line of what comes before the body.
    """
    groups = _group(body)
    own = frozenset(name for node in body for name in _bound(node) if not isinstance(node, ast.Import | ast.ImportFrom))
    has_hooks = _HOOKS.search("".join(lines)) is not None
    found: list[Statement] = []
    for nodes in groups:
        start = min([nodes[0].lineno, *(item.lineno for item in getattr(nodes[0], "decorator_list", ()))])
        end = max(node.end_lineno or node.lineno for node in nodes)
        while start - 1 > above and lines[start - 2].lstrip().startswith("#") and _at(lines[start - 2], nodes[0]):
            start -= 1
        blank = 0
        while start - 1 - blank > above and not lines[start - 2 - blank].strip():
            blank += 1
        above = end
        found.append(_read(tuple(nodes), start, end, blank, own, has_hooks, "".join(lines[start - 1 : end])))
    return found


def _at(line: str, node: ast.stmt) -> bool:
    """Whether a comment stands at a statement's own indentation."""
    return len(line) - len(line.lstrip()) == node.col_offset


def _group(body: Sequence[ast.stmt]) -> list[list[ast.stmt]]:
    """Statements that share a line, and an assignment with the string that documents it."""
    groups: list[list[ast.stmt]] = []
    for place, node in enumerate(body):
        documents = place > 0 and _is_string(node) and isinstance(body[place - 1], ast.Assign | ast.AnnAssign)
        if groups and (documents or node.lineno <= (groups[-1][-1].end_lineno or 0)):
            groups[-1].append(node)
        else:
            groups.append([node])
    return groups


def _is_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _bound(node: ast.stmt) -> set[str]:
    return set(resolve([node]).top.bound)


def _read(
    nodes: tuple[ast.stmt, ...], start: int, end: int, blank: int, own: Collection[str], has_hooks: bool, text: str
) -> Statement:
    names = resolve(nodes)
    loads = [(node, scope) for node, scope in names.references if not isinstance(node.ctx, ast.Store)]
    uses = {node.id for node, scope in loads if names.is_global(node, scope) or scope.kind == "class"}
    uses |= {node.id for node, _ in names.quoted}
    uses |= {name for scope in names.scopes for name in scope.declared_global}
    binds, effects = set(names.top.bound), _Effects(own, has_hooks)
    if all(_is_main_guard(node) for node in nodes):
        binds = set()
    else:
        for node in nodes:
            effects.of(node, top=True)
    if _is_string(nodes[0]) and len(nodes) == 1:
        binds.add("__doc__")
    special = {name for name in binds if name in ("__getattr__", "__dir__", "_")}
    return Statement(
        nodes, start, end, blank, frozenset(binds), frozenset(uses), frozenset(_changes(nodes, names, own)),
        frozenset(effects.attached), frozenset(effects.calls), effects.unknown or bool(special),
        _LOOKS_NAMES_UP.search(text) is not None,
    )  # fmt: skip


def _is_main_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and not node.orelse and ast.unparse(node.test) in (
        "__name__ == '__main__'",
        "'__main__' == __name__",
    )  # fmt: skip


def root_of(node: ast.AST) -> str:
    """The name that ``a.b[c](d).e`` begins with; empty where it begins with something else."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call | ast.Starred):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _changes(nodes: Iterable[ast.stmt], names: Names, own: Collection[str]) -> set[str]:
    """Names of the module whose value the functions of a statement change, as far as can be seen."""
    known = {id(node) for node, scope in names.references if names.is_global(node, scope)}
    found = {name for scope in names.scopes for name in scope.declared_global}
    for node in (child for top in nodes for child in ast.walk(top)):
        changed: list[ast.AST] = []
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            changed.append(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGERS:
            changed.append(node.func)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):  # a result that nobody wants
            changed += [node.value.func] if isinstance(node.value.func, ast.Attribute) else []
            changed += node.value.args
        for item in changed:
            root = item
            while isinstance(root, ast.Attribute | ast.Subscript | ast.Call):
                root = root.func if isinstance(root, ast.Call) else root.value
            if isinstance(root, ast.Name) and id(root) in known and root.id in own:
                found.add(root.id)
    return found


def _blocks(node: ast.stmt) -> list[ast.stmt]:
    """The statements that one holds."""
    parts = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.ExceptHandler | ast.match_case)]
    own = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return [*own, *(child for part in parts for child in part.body)]


class _Effects:
    """What statements do when they run, beside binding names.

    Args:
        own: names that the module binds itself, not by an import.
        has_hooks: whether a class of the module may learn of its subclasses.
    """

    def __init__(self, own: Collection[str], has_hooks: bool) -> None:
        self.own = own
        self.has_hooks = has_hooks
        self.attached: set[str] = set()
        self.calls: set[str] = set()
        self.unknown = False

    def of(self, node: ast.stmt, top: bool) -> None:
        """Note what a statement does; ``top`` where it stands in no other one."""
        if isinstance(node, DEFINITION):
            for decorator in node.decorator_list:
                self._decorator(decorator)
            if isinstance(node, ast.ClassDef) and self.has_hooks:
                self.attached |= {root_of(base) for base in node.bases} & set(self.own)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Delete):
            targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else [node.target]
            for target in targets:
                self._target(target, binds=isinstance(node, ast.Assign | ast.AnnAssign))
            if not isinstance(node, ast.Delete) and node.value is not None:
                self._calls_in(node.value)
        elif isinstance(node, ast.Expr):
            self._expression(node.value)
        elif isinstance(node, _PURE):
            star = isinstance(node, ast.ImportFrom) and (node.names[0].name == "*" or node.module == "__future__")
            self.unknown |= star or (top and isinstance(node, ast.Raise))
        elif _blocks(node):
            for child in _blocks(node):
                self.of(child, top=False)
        else:
            self.unknown |= type(node).__name__ != "TypeAlias"

    def _target(self, target: ast.expr, binds: bool) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            for item in target.elts:
                self._target(item, binds)
        elif isinstance(target, ast.Starred):
            self._target(target.value, binds)
        elif not (isinstance(target, ast.Name) and binds):
            self._root(target)

    def _root(self, node: ast.AST) -> None:
        """Something is done to what ``node`` begins with."""
        root = root_of(node)
        if root in self.own or root == "__all__":
            self.attached.add(root)
        else:
            self.unknown = True

    def _expression(self, value: ast.expr) -> None:
        if isinstance(value, ast.Constant):
            return
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
            self._root(value.func)
        elif isinstance(value, ast.Call) and root_of(value.func) in ("setattr", "delattr") and value.args:
            self._root(value.args[0])
        else:
            self.unknown = True

    def _decorator(self, decorator: ast.expr) -> None:
        root = root_of(decorator)
        if root in self.own:
            self.calls.add(root)
            if isinstance(decorator.func if isinstance(decorator, ast.Call) else decorator, ast.Attribute):
                self.attached.add(root)

    def _calls_in(self, value: ast.expr) -> None:
        """Calls of the module's own functions, and of methods that change its own objects."""
        for node in ast.walk(value):
            if isinstance(node, ast.Call):
                root = root_of(node.func)
                if isinstance(node.func, ast.Name) and root in self.own:
                    self.calls.add(root)
                elif isinstance(node.func, ast.Attribute) and root in self.own and node.func.attr in _CHANGERS:
                    self.attached.add(root)


def imported_names(statement: Statement) -> set[str]:
    """The names that a plain import statement binds; empty for all others, ``__future__`` and stars included."""
    node = statement.nodes[0]
    if len(statement.nodes) > 1 or not isinstance(node, ast.Import | ast.ImportFrom) or statement.always:
        return set()
    return {local_name(node, alias) for alias in node.names if alias.name != "*"}
