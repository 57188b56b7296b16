"""Which functions a test can pin down: what they give hangs on their arguments alone. Told from the text; nothing runs.

Each reason is a few words, the same for all functions of a kind, so that they can be counted.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

from lowvram_ft.data.filters import imported_modules, outside_of_the_process

LEAST_PARTS = 4
"""Statements and branches of a function at the least: a shorter one has hardly a mutant."""
MOST_LINES = 60
"""Lines of a function at the most, its docstring included."""

Function = ast.FunctionDef
_PURE = frozenset(
    {"__future__", "abc", "array", "base64", "binascii", "bisect", "cmath", "codecs", "collections", "colorsys", "copy"}
    | {
        "copyreg",
        "dataclasses",
        "decimal",
        "difflib",
        "enum",
        "fnmatch",
        "fractions",
        "functools",
        "graphlib",
        "hashlib",
    }
    | {"heapq", "hmac", "html", "ipaddress", "itertools", "json", "keyword", "math", "ntpath", "numbers", "operator"}
    | {"posixpath", "pprint", "quopri", "re", "reprlib", "shlex", "statistics", "string", "struct", "textwrap", "token"}
    | {
        "types",
        "typing",
        "unicodedata",
        "urllib.parse",
        "warnings",
        "zlib",
        "calendar",
        "datetime",
        "ast",
    }
)
"""Modules of the standard library whose functions hang on their arguments, but for `_UNSTEADY_NAMES`."""
_ALLOWED = {
    "os": frozenset(
        {"fspath", "sep", "altsep", "extsep", "pardir", "curdir", "linesep", "PathLike", "fsencode", "fsdecode"}
    ),
    "sys": frozenset({"maxsize", "version_info", "byteorder", "float_info", "maxunicode", "hexversion", "int_info"}),
}
"""Of these modules, only so much."""
_UNSTEADY = frozenset(
    {"random", "secrets", "uuid", "time", "threading", "_thread", "asyncio", "concurrent", "ctypes", "gc", "inspect"}
    | {"signal", "select", "selectors", "tempfile", "weakref", "locale", "platform", "pwd", "grp", "resource", "mmap"}
    | {"traceback", "tracemalloc", "faulthandler", "atexit", "getpass", "curses", "readline", "tkinter", "contextvars"}
)
"""Modules whose functions give something else each time, or hang on the machine."""
_UNSTEADY_NAMES = frozenset(
    {
        "today",
        "now",
        "utcnow",
        "localtime",
        "fromtimestamp",
        "_getframe",
        "stdin",
        "stdout",
        "stderr",
        "environ",
        "getenv",
    }
    | {"getcwd", "f_back", "f_globals", "f_locals", "tb_frame", "gi_frame", "__globals__", "__code__", "__subclasses__"}
    | {"open", "read_text", "write_text", "read_bytes", "write_bytes", "readline", "readlines", "writelines", "fileno"}
    | {"expanduser", "expandvars", "abspath", "realpath", "exists", "isfile", "isdir", "islink", "stat", "lstat"}
)
"""Attributes that stand for a clock, a file, the machine's state or the interpreter's own frames."""
_BUILTINS = frozenset(
    {
        "open",
        "input",
        "print",
        "exec",
        "eval",
        "compile",
        "__import__",
        "globals",
        "locals",
        "vars",
        "breakpoint",
        "exit",
    }
    | {"quit", "id", "hash", "help"}
)


def unfit(function: Function) -> str | None:
    """Why a function by itself is no task; None where it may be one."""
    if function.name.startswith("_"):
        return "is private"
    if function.name.startswith("test"):
        return "is a test"
    arguments = function.args
    if not (arguments.posonlyargs or arguments.args or arguments.kwonlyargs or arguments.vararg or arguments.kwarg):
        return "has no parameter"
    if any(isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith) for node in ast.walk(function)):
        return "is asynchronous"
    if not any(_gives(node) for node in _own(function)):
        return "gives nothing back"
    if (function.end_lineno or function.lineno) - function.lineno >= MOST_LINES:
        return f"has more than {MOST_LINES} lines"
    if parts(function) < LEAST_PARTS:
        return f"has fewer than {LEAST_PARTS} statements and branches"
    return None


def parts(function: Function) -> int:
    """Statements and branches of a function, without its docstring."""
    body = list(function.body)
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    inner = [node for statement in body for node in ast.walk(statement)]
    branches = sum(
        len(node.values) - 1 if isinstance(node, ast.BoolOp) else len(node.ifs) + 1
        for node in inner
        if isinstance(node, ast.BoolOp | ast.comprehension)
    )
    return sum(isinstance(node, ast.stmt | ast.IfExp) for node in inner) + branches


def unsteady(tree: ast.Module) -> str | None:
    """What in a text may make its functions give something else another time, or elsewhere; None where nothing does."""
    found = outside_of_the_process(tree)
    if found is not None:
        return found
    roots = {name.partition(".")[0] for name in imported_modules(tree)}
    if roots & _UNSTEADY:
        return "hangs on time, chance or the machine"
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            return "keeps state in a global variable"
        if isinstance(node, ast.Attribute) and node.attr in _UNSTEADY_NAMES:
            return "hangs on time, chance or the machine"
        if isinstance(node, ast.Name) and node.id in _BUILTINS and isinstance(node.ctx, ast.Load):
            return "calls what looks outside of it, or writes"
    return None


def beyond_the_standard_library(tree: ast.Module) -> str | None:
    """What a text imports that a function which stands alone does not; None where it imports nothing of the kind."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or node.names[0].name == "*"):
            return "imports from its own package"
    for name in imported_modules(tree):
        root = name.partition(".")[0]
        if root not in sys.stdlib_module_names:
            return "imports other packages"
        if root not in _ALLOWED and not any(
            f"{name}.".startswith(f"{pure}.") or pure.startswith(f"{name}.") for pure in _PURE
        ):
            return "imports a module that is not known to be pure"
    return next(_too_much_of_a_module(tree), None)


def _too_much_of_a_module(tree: ast.Module) -> Iterator[str]:
    """Of `os` and `sys`, names that are not in `_ALLOWED`."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases.update({alias.asname or alias.name: alias.name for alias in node.names if alias.name in _ALLOWED})
        elif isinstance(node, ast.ImportFrom):
            allowed = _ALLOWED.get(node.module or "")
            if allowed is not None and any(alias.name not in allowed for alias in node.names):
                yield "hangs on time, chance or the machine"
    whole = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            if node.attr not in _ALLOWED[aliases[node.value.id]]:
                yield "hangs on time, chance or the machine"
        elif isinstance(node, ast.Name) and node.id in aliases and id(node) not in whole:
            yield "hangs on time, chance or the machine"


def _own(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function without those of the functions in it."""
    pending: list[ast.AST] = list(function.body)
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            pending += ast.iter_child_nodes(node)


def _gives(node: ast.AST) -> bool:
    if isinstance(node, ast.Yield | ast.YieldFrom):
        return True
    given = node.value if isinstance(node, ast.Return) else None
    return given is not None and not (isinstance(given, ast.Constant) and given.value is None)
