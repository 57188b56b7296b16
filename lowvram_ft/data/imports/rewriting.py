"""Rewrite a test's imports of the code under test: the cases that need the test's tree."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from lowvram_ft.data.imports.edits import Edits
from lowvram_ft.data.imports.parts import Code, Part, Plan, Reference, Use, find_parts
from lowvram_ft.data.imports.scopes import BUILTINS, MODULE_ATTRIBUTES, Scope, resolve
from lowvram_ft.data.imports.writing import write
from lowvram_ft.execution.modules import SOLUTION

_BY_STRING = re.compile(r"\b(?:eval|exec|globals|locals|vars|getattr|Timer|timeit)\s*\(")
_COLLECTED = ("test", "Test", "pytest_", "setup", "teardown", "setUp", "tearDown", "load_tests")
"""Beginnings of names that pytest or unittest would take for their own, were they imported."""
_READS_MODULE = frozenset(
    {"dir", "hasattr", "getattr", "setattr", "delattr", "isinstance", "type", "id", "repr", "str"}
)


class NothingTested(Exception):
    """The test uses no name of the code."""


def rewrite(
    test: str,
    tree: ast.Module,
    code: Code,
    module: str,
    package: str,
    reexports: Mapping[str, Collection[str]],
) -> str:
    """The test with its imports of the code by the convention of `import_from_solution`.

    Raises:
        NothingTested: it uses no name of the code.
    """
    names = resolve(tree.body)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    references: defaultdict[tuple[Scope, str], list[Reference]] = defaultdict(list)
    for node, scope in names.references:
        references[scope.owner(node.id), node.id].append((node, scope))
    parts = find_parts(test, names, parents, code, module, package, reexports)
    plan = Plan(test, module, tree, names, code, parents, parts, Edits(test), references)
    _read_modules(plan)
    _plan_stars(plan)
    _plan_names(plan)
    _plan_attributes(plan)
    _plan_objects(plan)
    kept = any((part.in_place or part.stays) and part.exact and plan.refers(part) for part in parts)
    named = {part.alias.name for part in parts if part.in_place and part.kind == "name"}
    named |= {target for target, _ in plan.entries | plan.starred}
    if not (named - code.imported or plan.objects or plan.escapes or kept):
        raise NothingTested
    write(plan)
    return plan.edits.result()


def _plan_stars(plan: Plan) -> None:
    """Import by name what comes by a star, or what is taken for granted."""
    stars = [part for part in plan.parts if part.kind == "star"]
    bare = [(name, name) for name in _bare_names(plan)]
    if stars and not stars[0].direct:
        stars[0].in_place = bool(bare)
        plan.starred.update(bare)
    else:
        plan.entries.update(bare)


def _bare_names(plan: Plan) -> list[str]:
    """Names that the test takes for granted and the code has."""
    top = plan.names.top
    imported = any(part.kind != "other" for part in plan.parts)
    starred = any(part.kind == "star" for part in plan.parts)
    free = {name for scope, name in plan.references if scope is top and name not in top.bound} - MODULE_ATTRIBUTES
    if _BY_STRING.search(plan.test) and (starred or not imported):
        free |= _words_in_strings(plan.tree) - top.bound.keys()
    if not (starred or (plan.module == SOLUTION and not imported)):
        free -= BUILTINS  # the module's own would have been imported by name
    else:
        free |= _read_before_bound(plan)
    other_star = any(part.alias.name == "*" and part.kind == "other" for part in plan.parts)
    unknown = plan.code.is_open and not other_star
    return sorted(n for n in free if n in plan.code.names or (unknown and n not in BUILTINS))


def _read_before_bound(plan: Plan) -> set[str]:
    """Names of the code that the test reads at its top before it binds them itself."""
    shadowed = plan.names.top.bound.keys() & plan.code.names
    found: set[str] = set()
    for statement in plan.tree.body if shadowed else ():
        names = resolve([statement])
        for node, scope in names.references:
            loads = isinstance(node.ctx, ast.Load) and not scope.deferred and names.is_global(node, scope)
            if loads and node.id in shadowed:
                found.add(node.id)
        shadowed -= names.top.bound.keys()
    return found


def _words_in_strings(tree: ast.AST) -> set[str]:
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {word for text in texts for word in re.findall(r"\w+", text)}


def _read_modules(plan: Plan) -> None:
    """Sort the uses of imported modules: attributes that are the code's, and the module itself."""
    for part in plan.parts:
        if part.kind != "module":
            continue
        siblings = plan.siblings(part)
        alone = part.scope.bound[part.local] == len(siblings) and all(sibling.movable for sibling in siblings)
        if not alone or part.scope.kind == "class":
            part.in_place = part.exact and not part.path
            part.stays = not part.in_place
        elif part is next(sibling for sibling in siblings if sibling.kind == "module"):
            modules = sorted((s for s in siblings if s.kind == "module"), key=lambda s: not s.exact)
            for node, scope in plan.refers(part):
                _read_use(plan, node, scope, modules, siblings)
    patched, every = _patched_names(plan)
    for use in [use for use in plan.uses if every or use.target in patched]:
        plan.uses.remove(use)
        plan.escapes.append((use.node.value, use.part))


def _read_use(plan: Plan, node: ast.Name, scope: Scope, modules: Sequence[Part], siblings: Sequence[Part]) -> None:
    for part in modules:
        for path, offered in part.routes:
            expression = _follow(plan, node, path)
            if expression is None:
                continue
            above = plan.parents[expression]
            if isinstance(above, ast.Attribute) and _can_be_a_name(plan, offered, above):
                plan.uses.append(Use(above, above.attr, scope, part))
                return
            if offered is None:
                plan.escapes.append((expression, part))
                for sibling in siblings:  # a module below it that another import brings in
                    below = sibling.alias.name.split(".")[1:]
                    sibling.stays |= not sibling.exact and len(below) > len(path) and bool(_follow(plan, node, below))
                return
    meant = [sibling for sibling in siblings if _follow(plan, node, sibling.alias.name.split(".")[1:]) is not None]
    for sibling in meant or siblings:
        sibling.stays = True


def _follow(plan: Plan, node: ast.expr, path: Sequence[str]) -> ast.expr | None:
    """The expression that leads from a name along ``path``; None where it leads elsewhere."""
    for attribute in path:
        above = plan.parents[node]
        if not (isinstance(above, ast.Attribute) and above.attr == attribute):
            return None
        node = above
    return node


def _can_be_a_name(plan: Plan, offered: Collection[str] | None, node: ast.Attribute) -> bool:
    """Whether the code's own name can stand in the place of an attribute of its module."""
    known = plan.code.may_have(node.attr) if offered is None else node.attr in offered
    return known and isinstance(node.ctx, ast.Load) and _is_where_it_says(plan, node)


def _is_where_it_says(plan: Plan, node: ast.expr) -> bool:
    """Whether a node's position is right: inside an f-string it need not be, before Python 3.12."""
    return "".join(plan.edits.text_of(node).split()) == ast.unparse(node)


def _patched_names(plan: Plan) -> tuple[set[str], bool]:
    """Names that the test may change in the module, and whether these may be all."""
    found = set(plan.code.rebound)
    for node in ast.walk(plan.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for path in {SOLUTION, plan.module}:
                if node.value.startswith(f"{path}."):
                    found.add(node.value[len(path) + 1 :].partition(".")[0])
    every = False
    for expression, _ in plan.escapes:
        above = plan.parents[expression]
        if isinstance(above, ast.Attribute):
            found.add(above.attr)
        elif isinstance(above, ast.Call) and expression in above.args:
            called = ast.unparse(above.func)
            following = above.args[above.args.index(expression) + 1 :]
            if following and isinstance(following[0], ast.Constant) and isinstance(following[0].value, str):
                found.add(following[0].value)
            else:
                every |= not (called.startswith("inspect.") or called in _READS_MODULE)
        else:
            every |= not isinstance(above, ast.Compare)
    return found, every


def _plan_names(plan: Plan) -> None:
    """Decide on each imported name: at the top, or where it stands, or not at all."""
    quoted = {(scope.owner(node.id), node.id) for node, scope in plan.names.quoted}
    words = _words_in_strings(plan.tree) if _BY_STRING.search(plan.test) else set()
    for part in (part for part in plan.parts if part.kind == "name"):
        target, local = part.alias.name, part.local
        siblings = plan.siblings(part)
        same = all(sibling.kind == "name" and sibling.alias.name == target for sibling in siblings)
        alone = same and part.scope.bound[local] == len(siblings) and all(s.movable for s in siblings)
        used = plan.refers(part) or (part.scope, local) in quoted or local in words or part.scope.kind == "class"
        if not used:
            continue
        if part.scope is plan.names.top and part.direct and alone:
            plan.entries.add((target, local))
        elif not alone or part.scope.kind == "class" or not _move_up(plan, part):
            part.in_place = True


def _move_up(plan: Plan, part: Part) -> bool:
    """Import a function's own import at the top instead, under another name if need be; whether that can be."""
    uses = plan.refers(part)
    target = part.alias.name
    for name in (part.local, f"{SOLUTION}_{target}"):
        if not _is_free(plan, name, target, [scope for _, scope in uses], {(part.scope, part.local)}):
            continue
        if name != part.local:
            if not all(_is_where_it_says(plan, node) and isinstance(node.ctx, ast.Load) for node, _ in uses):
                return False
            if part is plan.siblings(part)[0]:
                for node, _ in uses:
                    plan.edits.replace(node, name)
        plan.entries.add((target, name))
        return True
    return False


def _is_free(
    plan: Plan, name: str, target: str, scopes: Iterable[Scope], leaving: Collection[tuple[Scope, str]] = ()
) -> bool:
    """Whether ``name`` can be the code's ``target`` at the top and is seen as such from all of ``scopes``."""
    top = plan.names.top
    if any(local == name and other != target for other, local in plan.entries):
        return False
    leaving = {*leaving, *plan.leaving()}
    here = [part for part in plan.parts if part.scope is top and part.local == name]
    same = [part for part in here if part.kind == "name" and part.alias.name == target and part.direct]
    if (top, name) not in leaving:
        if top.bound[name] != len(same):
            return False
        if not same and (top, name) in plan.references and (target, name) not in plan.entries:
            return False  # a built-in name, or one that comes by a star
    for scope in scopes:
        inner: Scope | None = scope
        while inner is not None and inner is not top:
            if name in inner.bound and (inner, name) not in leaving:
                return False
            inner = inner.parent
    return True


def _plan_attributes(plan: Plan) -> None:
    """Make names of the module's attributes."""
    by_target: defaultdict[str, list[Use]] = defaultdict(list)
    for use in plan.uses:
        by_target[use.target].append(use)
    for target, uses in sorted(by_target.items()):
        scopes = [use.scope for use in uses]
        given = sorted(local for name, local in plan.entries if name == target)
        prefixes = dict.fromkeys([*(use.part.path[-1] if use.part.path else use.part.local for use in uses), SOLUTION])
        own = [] if target.startswith(_COLLECTED) else [target]
        for name in [*given, *own, *(f"{prefix}_{target}" for prefix in prefixes)]:
            if _is_free(plan, name, target, scopes):
                plan.entries.add((target, name))
                for use in uses:
                    plan.edits.replace(use.node, name)
                break
        else:
            plan.escapes.extend((use.node.value, use.part) for use in uses)


def _plan_objects(plan: Plan) -> None:
    """Keep an import of the module where the test needs the module itself."""
    for expression, part in plan.escapes:
        if isinstance(expression, ast.Name):
            if not part.exact:
                part.stays = True
            elif part.direct:
                plan.objects.add(part.local)
            else:
                part.in_place = True
        elif part.direct and _is_where_it_says(plan, expression) and _can_be_called_solution(plan, expression):
            plan.objects.add(SOLUTION)
            plan.edits.replace(expression, SOLUTION)
        else:
            part.stays = True


def _can_be_called_solution(plan: Plan, expression: ast.expr) -> bool:
    root = expression
    while isinstance(root, ast.Attribute):
        root = root.value
    scope = next((scope for node, scope in plan.names.references if node is root), plan.names.top)
    while scope.parent is not None:
        if SOLUTION in scope.bound:
            return False
        scope = scope.parent
    ours = [part for part in plan.parts if part.scope is scope and part.local == SOLUTION and part.exact]
    return scope.bound[SOLUTION] == len(ours)
