"""What the nodes of a syntax tree leave in the normal form: a rule for each kind that needs one of its own."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from lowvram_ft.data.duplicates.tree_walk import (
    ARGUMENTS,
    DEFAULTS,
    KEYWORDS,
    KINDS,
    KWARG,
    LIST,
    LOCAL,
    NONE,
    NONLOCAL,
    POSITIONAL,
    VARARG,
    Handler,
    Scope,
    Walk,
    word,
)


def _constant(walk: Walk, node: ast.Constant) -> None:
    value = node.value
    # An int of more than 4300 digits has no decimal text (the limit of `sys.get_int_max_str_digits`).
    text = hex(value) if type(value) is int else repr(value)
    walk.out.append(word(f"{type(value).__name__}={text}"))


def _attribute(walk: Walk, node: ast.Attribute) -> None:
    walk.out.append(word("." + node.attr))
    walk.stack.append(node.value)


def _expr(walk: Walk, node: ast.Expr) -> None:
    if type(node.value) is not ast.Constant:
        walk.stack.append(node.value)


def _nothing(walk: Walk, node: ast.AST) -> None:
    """``pass``: leaves no token."""


def _call(walk: Walk, node: ast.Call) -> None:
    walk.out.append(KINDS[ast.Call] + len(node.args) + len(node.keywords))
    if node.keywords:
        walk.stack.extend(node.keywords[::-1])
    walk.stack.extend(node.args[::-1])
    walk.stack.append(node.func)


def _keyword(walk: Walk, node: ast.keyword) -> None:
    walk.out.append(word(f"{node.arg}=" if node.arg is not None else "**"))
    walk.stack.append(node.value)


def _sequence(walk: Walk, node: ast.Tuple | ast.List | ast.Set) -> None:
    walk.out.append(KINDS[type(node)] + len(node.elts))
    walk.stack.extend(node.elts[::-1])


def _dict(walk: Walk, node: ast.Dict) -> None:
    walk.out.append(KINDS[ast.Dict] + len(node.values))
    for key, value in zip(reversed(node.keys), reversed(node.values), strict=True):
        walk.stack.append(value)
        walk.stack.append(NONE if key is None else key)


def _binary(walk: Walk, node: ast.BinOp) -> None:
    walk.out.append(KINDS[type(node.op)])
    walk.stack.append(node.right)
    walk.stack.append(node.left)


def _unary(walk: Walk, node: ast.UnaryOp) -> None:
    walk.out.append(KINDS[type(node.op)])
    walk.stack.append(node.operand)


def _bool(walk: Walk, node: ast.BoolOp) -> None:
    walk.out.append(KINDS[type(node.op)] + len(node.values))
    walk.stack.extend(node.values[::-1])


def _compare(walk: Walk, node: ast.Compare) -> None:
    walk.out.append(KINDS[ast.Compare] + len(node.ops))
    for operator, right in zip(reversed(node.ops), reversed(node.comparators), strict=True):
        walk.stack.append(right)
        walk.stack.append(KINDS[type(operator)])
    walk.stack.append(node.left)


def _subscript(walk: Walk, node: ast.Subscript) -> None:
    walk.out.append(KINDS[ast.Subscript])
    walk.stack.append(node.slice)
    walk.stack.append(node.value)


def _assign(walk: Walk, node: ast.Assign) -> None:
    walk.out.append(KINDS[ast.Assign] + len(node.targets))
    walk.stack.append(node.value)
    walk.stack.extend(node.targets[::-1])


def _augmented(walk: Walk, node: ast.AugAssign) -> None:
    walk.out.append(KINDS[ast.AugAssign])
    walk.stack.append(node.value)
    walk.stack.append(node.target)
    walk.stack.append(KINDS[type(node.op)])


def _annotated(walk: Walk, node: ast.AnnAssign) -> None:
    if node.value is not None:
        walk.out.append(KINDS[ast.Assign] + 1)
        walk.stack.append(node.value)
        walk.stack.append(node.target)
    elif isinstance(node.target, ast.Name):
        if walk.scope.is_class:  # a field of a dataclass
            walk.stack.append(node.target)
        elif not walk.scope.by_name:
            walk.scope.bind(node.target.id)


def _import(walk: Walk, node: ast.Import) -> None:
    for alias in node.names:
        name = alias.asname or alias.name.partition(".")[0]
        walk.scope.names.setdefault(name, alias.name if alias.asname else name)


def _import_from(walk: Walk, node: ast.ImportFrom) -> None:
    module = "." * (node.level or 0) + (node.module or "")
    for alias in node.names:
        walk.scope.names.setdefault(alias.asname or alias.name, f"{module}.{alias.name}")


def _global(walk: Walk, node: ast.Global) -> None:
    for name in node.names:
        walk.scope.names.setdefault(name, name)


def _nonlocal(walk: Walk, node: ast.Nonlocal) -> None:
    for name in node.names:
        walk.scope.names.setdefault(name, NONLOCAL)


def _named(walk: Walk, node: ast.NamedExpr) -> None:
    walk.out.append(KINDS[ast.NamedExpr])
    scope = walk.scope
    while scope.comprehension and scope.outer is not None:  # it binds outside of them (PEP 572)
        scope = scope.outer
    scope.bind(node.target.id)
    walk.use(node.target.id)
    walk.stack.append(node.value)


def _arguments(walk: Walk, inner: Scope, node: ast.arguments) -> None:
    """Push the arguments: their defaults in the current scope, then the names in the inner one."""
    stack = walk.stack
    groups = (
        (KWARG, [node.kwarg] if node.kwarg else []),
        (KEYWORDS, node.kwonlyargs),
        (VARARG, [node.vararg] if node.vararg else []),
        (ARGUMENTS, node.args),
        (POSITIONAL, node.posonlyargs),
    )
    for mark, group in groups:
        if group:
            stack.extend(group[::-1])
            stack.append(mark + len(group))
    stack.append(inner)
    defaults = [*node.defaults, *node.kw_defaults]
    if defaults:
        stack.extend(NONE if value is None else value for value in reversed(defaults))
        stack.append(DEFAULTS + len(defaults))


def _arg(walk: Walk, node: ast.arg) -> None:
    walk.scope.names.setdefault(node.arg, LOCAL)
    walk.use(node.arg)


def _function(walk: Walk, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    outer = walk.scope
    outer.names.setdefault(node.name, node.name if outer.is_class else LOCAL)
    walk.out.append(KINDS[type(node)] + len(node.decorator_list))
    walk.use(node.name)
    inner = Scope(outer)
    walk.stack.append(outer)
    walk.block(node.body)
    _arguments(walk, inner, node.args)
    walk.stack.extend(node.decorator_list[::-1])


def _lambda(walk: Walk, node: ast.Lambda) -> None:
    walk.out.append(KINDS[ast.Lambda])
    inner = Scope(walk.scope)
    walk.stack.append(walk.scope)
    walk.stack.append(node.body)
    _arguments(walk, inner, node.args)


def _class(walk: Walk, node: ast.ClassDef) -> None:
    outer = walk.scope
    outer.names.setdefault(node.name, node.name if outer.is_class else LOCAL)
    walk.out.append(KINDS[ast.ClassDef] + len(node.decorator_list))
    walk.use(node.name)
    walk.stack.append(outer)
    walk.block(node.body)
    walk.stack.append(Scope(outer, by_name=True, is_class=True))
    walk.stack.extend([*node.keywords[::-1], *node.bases[::-1], LIST + len(node.bases) + len(node.keywords)])
    walk.stack.extend(node.decorator_list[::-1])


def _comprehension(walk: Walk, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
    stack = walk.stack
    walk.out.append(KINDS[type(node)] + len(node.generators))
    inner = Scope(walk.scope, comprehension=True)
    stack.append(walk.scope)
    if isinstance(node, ast.DictComp):
        stack.extend((node.value, node.key))
    else:
        stack.append(node.elt)
    for generator in node.generators[:0:-1]:
        stack.extend((*generator.ifs[::-1], generator.iter, generator.target))
        stack.append(KINDS[ast.comprehension] + len(generator.ifs) + 64 * generator.is_async)
    first = node.generators[0]
    stack.extend((*first.ifs[::-1], first.target, KINDS[ast.comprehension] + len(first.ifs) + 64 * first.is_async))
    # The first iterable is evaluated outside (Python reference, 6.2.4).
    stack.extend((inner, first.iter))


def _handler(walk: Walk, node: ast.ExceptHandler) -> None:
    walk.out.append(KINDS[ast.ExceptHandler])
    walk.block(node.body)
    if node.name is not None:
        walk.scope.bind(node.name)
        walk.stack.append(ast.Name(node.name, ast.Load()))
    walk.stack.append(NONE if node.type is None else node.type)


def _capture(walk: Walk, node: ast.MatchAs | ast.MatchStar | ast.MatchMapping) -> None:
    """Patterns that bind a name."""
    walk.out.append(KINDS[type(node)])
    name = node.rest if isinstance(node, ast.MatchMapping) else node.name
    if name is not None:
        walk.scope.bind(name)
        walk.use(name)
    if isinstance(node, ast.MatchAs):
        walk.stack.append(NONE if node.pattern is None else node.pattern)
    elif isinstance(node, ast.MatchMapping):
        walk.stack.extend([*node.patterns[::-1], *node.keys[::-1], LIST + len(node.keys)])


HANDLERS: Mapping[type, Handler] = {
    ast.Constant: _constant,
    ast.Attribute: _attribute,
    ast.Expr: _expr,
    ast.Pass: _nothing,
    ast.Call: _call,
    ast.keyword: _keyword,
    ast.Tuple: _sequence,
    ast.List: _sequence,
    ast.Set: _sequence,
    ast.Dict: _dict,
    ast.BinOp: _binary,
    ast.UnaryOp: _unary,
    ast.BoolOp: _bool,
    ast.Compare: _compare,
    ast.Subscript: _subscript,
    ast.Assign: _assign,
    ast.AugAssign: _augmented,
    ast.AnnAssign: _annotated,
    ast.Import: _import,
    ast.ImportFrom: _import_from,
    ast.Global: _global,
    ast.Nonlocal: _nonlocal,
    ast.NamedExpr: _named,
    ast.arg: _arg,
    ast.FunctionDef: _function,
    ast.AsyncFunctionDef: _function,
    ast.Lambda: _lambda,
    ast.ClassDef: _class,
    ast.ListComp: _comprehension,
    ast.SetComp: _comprehension,
    ast.GeneratorExp: _comprehension,
    ast.DictComp: _comprehension,
    ast.ExceptHandler: _handler,
    ast.MatchAs: _capture,
    ast.MatchStar: _capture,
    ast.MatchMapping: _capture,
}
