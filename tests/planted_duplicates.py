"""Rewrites of a piece of code that leave it a duplicate, made without the kit's own normal form.

Names of locals are taken from what Python's compiler says of them, so that a wrong scope in the kit shows.
"""

from __future__ import annotations

import ast
import io
import json
import random
import sysconfig
import tokenize
import types
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path

from lowvram_ft.data.syntax import parse


def sample_codes() -> list[str]:
    """The different pieces of code among the kit's sample rows, the held-out ones included."""
    folder = files("lowvram_ft.data") / "samples"
    names = ("functions", "modules", "traces", "held_out")
    lines = [line for name in names for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
    return list(dict.fromkeys(json.loads(line)["code"] for line in lines))


@cache
def library_codes(count: int) -> tuple[str, ...]:
    """Functions at the top of the standard library's modules, in a fixed order."""
    found: dict[str, None] = {}
    folder = Path(sysconfig.get_paths()["stdlib"])
    paths = [*sorted(folder.glob("*.py")), *sorted(folder.glob("[a-z]*/*.py"))]
    for path in paths:
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(path.parts):
            continue
        text = path.read_text("utf-8", "replace")
        tree, lines = parse(text), text.splitlines(keepends=True)
        for node in tree.body if tree is not None else ():
            if isinstance(node, ast.FunctionDef):
                found["".join(lines[node.lineno - 1 : node.end_lineno])] = None
        if len(found) >= count:
            break
    return tuple(found)[:count]


ADDED = (
    "print({name})",
    "calls = 0",
    "assert {name} is not None",
    "spare = [{name}]",
    "logger.debug('called')",
    "del unused[0]",
)


def renamed_locals(code: str, rng: random.Random) -> str | None:
    """Every local that the compiler knows gets another name."""
    tree = ast.parse(code)
    found, taken = set[str](), set[str]()
    pending = [compile(code, "<planted>", "exec", dont_inherit=True)]
    while pending:
        block = pending.pop()
        taken.update(block.co_names)
        if block.co_flags & 2:  # CO_NEWLOCALS: a function, not a class or the module
            found.update(block.co_varnames, block.co_cellvars)
        pending += [constant for constant in block.co_consts if isinstance(constant, types.CodeType)]
    taken.update(node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg)
    taken.update(("self", "cls", "__class__", ".0"))
    names = sorted(name for name in found - taken if name.isidentifier())
    if not names:
        return None
    fresh = [f"v{number}_{rng.randrange(100)}" for number in range(len(names))]
    rng.shuffle(fresh)
    new = dict(zip(names, fresh, strict=True))
    for node in ast.walk(tree):
        for field in ("id", "arg", "name", "rest"):
            if getattr(node, field, None) in new and not isinstance(node, ast.alias | ast.keyword):
                setattr(node, field, new[getattr(node, field)])
        if isinstance(node, ast.Nonlocal):
            node.names = [new.get(name, name) for name in node.names]
        if isinstance(node, ast.Import | ast.ImportFrom) and any(
            (alias.asname or alias.name).partition(".")[0] in new for alias in node.names
        ):
            return None  # an import inside a function: its name is no local that may be called anything
    return ast.unparse(tree)


def reordered_imports(code: str, rng: random.Random) -> str | None:
    """The imports at the top in another order, and one that nothing uses."""
    tree = ast.parse(code)
    kinds = (ast.Import, ast.ImportFrom)
    imports = [n for n in tree.body if isinstance(n, kinds) and getattr(n, "module", "") != "__future__"]
    rest = [n for n in tree.body if n not in imports]
    rng.shuffle(imports)
    after = sum(isinstance(n, ast.ImportFrom) or _is_docstring(n) for n in rest[:2])
    tree.body = [*rest[:after], *imports, *ast.parse("import unused_module").body, *rest[after:]]
    return ast.unparse(tree)


def changed_docstrings(code: str, rng: random.Random) -> str | None:
    """Other docstrings, and one where there was none."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            rest = node.body[1:] if _is_docstring(node.body[0]) else node.body
            node.body = [*ast.parse(f"'''Says something else, {rng.random()}.'''").body, *rest]
    return ast.unparse(tree)


def comments(code: str, rng: random.Random) -> str | None:
    """A comment after every logical line, and a blank line here and there."""
    lines = code.splitlines()
    ends = {t.start[0] for t in tokenize.generate_tokens(io.StringIO(code).readline) if t.type == tokenize.NEWLINE}
    return "\n".join(
        f"{line}  # note {rng.randrange(9)}\n" if number in ends else line for number, line in enumerate(lines, 1)
    )


def formatting(code: str, rng: random.Random) -> str | None:
    """As `ast.unparse` writes it: other quotes, parentheses, line breaks, no comments."""
    return ast.unparse(ast.parse(code))


def type_hints(code: str, rng: random.Random) -> str | None:
    """Hints on every argument and result that has none, and on assignments of one name."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is None:
            node.annotation = ast.parse(rng.choice(("int", "list[int]", "Optional[str]")), mode="eval").body
        elif isinstance(node, ast.FunctionDef) and node.returns is None:
            node.returns = ast.Name("Any", ast.Load())
    tree.body[:0] = ast.parse("from __future__ import annotations\nfrom typing import Any, Optional").body
    for lambdas in ast.walk(tree):
        if isinstance(lambdas, ast.Lambda):
            for argument in ast.walk(lambdas.args):
                if isinstance(argument, ast.arg):
                    argument.annotation = None
    return ast.unparse(tree)


def renamed_function(code: str, rng: random.Random) -> str | None:
    """Another name for the first function at the top."""
    tree = ast.parse(code)
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if not names:
        return None
    bound = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    if names[0] in bound:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == names[0]:
            node.name = "another_name"
        elif isinstance(node, ast.Name) and node.id == names[0]:
            node.id = "another_name"
    return ast.unparse(tree)


def changed_constant(code: str, rng: random.Random) -> str | None:
    """One constant that is no docstring has another value."""
    tree = ast.parse(code)
    bare = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
    bare |= {id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in ast.walk(n)}
    for node in ast.walk(tree):  # a constant of a hint changes nothing that counts
        for hint in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(hint, ast.AST):
                bare |= {id(part) for part in ast.walk(hint)}
    kinds = (bool, int, float, str)
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and type(n.value) in kinds and id(n) not in bare]
    if not found:
        return None
    node = rng.choice(found)
    old = node.value
    node.value = not old if isinstance(old, bool) else f"{old}x" if isinstance(old, str) else old + 1
    return ast.unparse(tree)


def added_statement(code: str, rng: random.Random) -> str | None:
    """One more statement somewhere in a function."""
    tree = ast.parse(code)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    if not functions:
        return None
    function = rng.choice(functions)
    blocks = [function.body]
    blocks += [node.body for node in ast.walk(function) if isinstance(node, ast.For | ast.While | ast.If)]
    block = rng.choice(blocks)
    names = [argument.arg for argument in function.args.args] or ["None"]
    first = 1 if block is function.body and _is_docstring(block[0]) else 0
    statement = rng.choice(ADDED).format(name=rng.choice(names))
    block[(place := rng.randint(first, len(block))) : place] = ast.parse(statement).body
    return ast.unparse(tree)


Rewrite = Callable[[str, random.Random], str | None]
SAME: tuple[Rewrite, ...] = (
    renamed_locals, reordered_imports, changed_docstrings, comments, formatting, type_hints, renamed_function,
)  # fmt: skip
"""Rewrites that change nothing that counts."""
NEAR: tuple[Rewrite, ...] = (changed_constant, added_statement)
"""Rewrites that change a little."""


def rewritten(code: str, rewrites: tuple[Rewrite, ...], seed: int) -> Iterator[tuple[str, str]]:
    """Name of the rewrite and the rewritten code, for each that applies."""
    for rewrite in rewrites:
        found = rewrite(code, random.Random(f"{seed}{rewrite.__name__}"))
        if found is not None:
            yield rewrite.__name__, found


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
