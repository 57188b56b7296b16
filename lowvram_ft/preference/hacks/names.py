"""What no honest test of behaviour speaks of: how code is written, the interpreter, the run itself, other files."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from lowvram_ft.preference.hacks.view import Function, View, words_of

Found = Iterator[tuple[ast.AST, str]]

SOURCE = "looks at how code is written, or at the interpreter"
HIDDEN = "runs text that cannot be read in it"
LEAVES = "skips itself, or ends the run"
DETECTS = "may tell one run from another"
FILES = "reads or writes files that are not its own"
CHANCE = "hangs on the clock, or on chance"

_SOURCE_MODULES = words_of(
    "_pytest ast atexit bdb builtins code codeop compileall coverage cProfile ctypes cffi dis doctest faulthandler "
    "fileinput gc glob imp importlib inspect lib2to3 linecache marshal mmap modulefinder multiprocessing opcode parso "
    "pdb pkgutil platform pluggy profile py_compile pyclbr pydoc resource runpy shelve signal site socket subprocess "
    "symtable sysconfig timeit token tokenize trace traceback tracemalloc zipimport lowvram_ft"
)
_CHANCE_MODULES = frozenset({"secrets", "uuid"})
_RUNS_TEXT = frozenset({"exec", "eval", "compile", "__import__"})
_BY_NAME = frozenset({"getattr", "setattr", "delattr", "attrgetter", "methodcaller"})
_SOURCE_NAMES = words_of(
    "__builtins__ __cached__ __closure__ __code__ __file__ __func__ __getattribute__ __globals__ __import__ __loader__ "
    "__path__ __reduce__ __reduce_ex__ __spec__ __subclasses__ __traceback__ __wrapped__ _getframe breakpoint "
    "cell_contents f_back f_code f_globals f_lasti f_lineno f_locals f_trace findsource getlines getsource "
    "getsourcefile getsourcelines get_code get_source get_data gettrace getrefcount gi_code gi_frame globals locals "
    "meta_path path_hooks setprofile settrace tb_frame tb_next vars CodeType ModuleType"
)
_LEAVING = words_of("_exit abort execl execv execve exit fork kill popen quit skipTest SkipTest system")
_RUN_NAMES = words_of("argv environ environb getenv getpid getppid getloadavg orig_argv times")
_CLOCK = words_of("clock_gettime monotonic now perf_counter process_time thread_time time_ns today utcnow")
_OF_OS = words_of("path sep linesep pathsep curdir fspath PathLike getcwd")
_OF_SYS = words_of(
    "maxsize float_info int_info version_info byteorder getsizeof getrecursionlimit setrecursionlimit stdin stdout "
    "stderr maxunicode intern"
)
_OF_PYTEST = words_of(
    "raises warns approx fixture param fail deprecated_call MonkeyPatch CaptureFixture LogCaptureFixture "
    "TempPathFactory FixtureRequest"
)
_SKIPS = frozenset({"skip", "skipif", "xfail"})
_FILE_CALLS = words_of("read_text read_bytes write_text write_bytes rglob iterdir scandir listdir")
_FIXTURES = frozenset({"pytestconfig", "pytester", "testdir", "cache", "record_property"})
_SOURCE_TEXT = re.compile(
    r"__(?:code|globals|builtins|file|loader|spec|closure|subclasses|import|cached|getattribute|class|mro|dict)__"
    r"|co_(?:code|consts|names|lines)|\bconftest\b|\bsolution\.pyc?\b|/proc/|\.pyc\b"
)


def suspicious_names(view: View) -> Found:
    """Every place of a file that speaks of what it should not, and why."""
    for node in ast.walk(view.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from _imports(node, view)
        elif isinstance(node, ast.Name | ast.Attribute):
            yield from _name(node, view)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            if _SOURCE_TEXT.search(text):
                yield node, SOURCE
        elif isinstance(node, ast.Call):
            yield from _call(node, view)
        elif isinstance(node, Function):
            yield from _function(node)


def _imports(node: ast.Import | ast.ImportFrom, view: View) -> Found:
    for alias in node.names:
        name = alias.name if isinstance(node, ast.Import) else f"{node.module or ''}.{alias.name}"
        first, last = name.partition(".")[0], name.rpartition(".")[2]
        if first == view.module.partition(".")[0] or first == "solution":
            continue
        if first in _SOURCE_MODULES:
            yield node, SOURCE
        elif first in _CHANCE_MODULES:
            yield node, CHANCE
        elif isinstance(node, ast.ImportFrom):
            yield from ((node, why) for why in _of_module(first, name.split(".")[1], view))
            yield from ((node, why) for why in _said(last, view))


def _name(node: ast.Name | ast.Attribute, view: View) -> Found:
    last = node.id if isinstance(node, ast.Name) else node.attr
    yield from ((node, why) for why in _said(last, view))
    if last in _RUNS_TEXT and isinstance(node, ast.Name) and not _is_called(node, view):
        yield node, HIDDEN
    if last in _BY_NAME and not _is_called(node, view) and view.dotted(node) in ("", f"operator.{last}"):
        yield from [(node, HIDDEN)] if isinstance(node, ast.Name) else []
    origin = view.dotted(node)
    parent = view.parent(node)
    if origin in ("os", "sys", "pytest", "pytest.mark", "time", "random"):
        if not isinstance(parent, ast.Attribute):
            yield node, SOURCE  # a module that is handed on may be asked for anything
        return
    first, _, rest = origin.partition(".")
    if rest:
        yield from ((node, why) for why in _of_module(first, rest.split(".")[0], view))
        if first in ("pytest", "unittest") and _SKIPS & set(rest.split(".")):
            yield node, LEAVES
    if last == "__dict__" and isinstance(node, ast.Attribute) and view.dotted(node.value):
        yield node, SOURCE
    if last in _FILE_CALLS and isinstance(node, ast.Attribute) and not view.is_temporary(node.value):
        yield node, FILES
    if last == "open" and isinstance(node, ast.Name) and not _is_called(node, view):
        yield node, FILES


def _said(name: str, view: View) -> Iterator[str]:
    """Why a name is not to be spoken of, whatever it belongs to."""
    if name in _SOURCE_NAMES:
        yield SOURCE
    elif name in _LEAVING and name not in view.words:
        yield LEAVES
    elif name in _RUN_NAMES and name not in view.words:
        yield DETECTS
    elif name in _CLOCK:
        yield CHANCE


def _of_module(module: str, name: str, view: View) -> Iterator[str]:
    """Why something of a module that tests do use is not to be used."""
    known = name in view.words
    if module == "os" and name not in _OF_OS and not (known and name in _RUN_NAMES):
        yield FILES
    elif module == "sys" and name not in _OF_SYS and not (known and name in {*_RUN_NAMES, "exit"}):
        yield SOURCE
    elif module == "pytest" and name not in _OF_PYTEST and name != "mark":
        yield LEAVES if name in {*_SKIPS, "exit", "importorskip"} else SOURCE
    elif module == "time" and name not in ("sleep", "struct_time", "strftime", "gmtime", "localtime", "strptime"):
        yield CHANCE
    elif module == "unittest" and name != "mock" and name != "TestCase":
        yield LEAVES
    elif module == "pickle" and name not in ("dumps", "loads", "PicklingError", "HIGHEST_PROTOCOL"):
        yield HIDDEN


def _call(node: ast.Call, view: View) -> Found:
    name = _last(node.func)
    if isinstance(node.func, ast.Name) and name in _RUNS_TEXT and not _is_plain_text(node):
        yield node, HIDDEN
    if name in _BY_NAME and (isinstance(node.func, ast.Name) or view.dotted(node.func).startswith("operator.")):
        place = 0 if name in ("attrgetter", "methodcaller") else 1
        given = node.args[place] if len(node.args) > place else None
        if not (isinstance(given, ast.Constant) and isinstance(given.value, str)):
            yield node, HIDDEN
        elif given.value in _SOURCE_NAMES or given.value in _LEAVING:
            yield node, SOURCE
    origin = view.dotted(node.func)
    if origin == "pickle.loads" and not (
        node.args and isinstance(node.args[0], ast.Call) and view.dotted(node.args[0].func) == "pickle.dumps"
    ):
        yield node, HIDDEN
    opens = name == "open" and (isinstance(node.func, ast.Name) or origin or "Path" in ast.dump(node.func))
    if opens and not any(map(view.is_temporary, [node.func, *node.args])):
        yield node, FILES
    if origin.startswith("random.") and origin not in ("random.seed", "random.Random") and not _is_seeded(view):
        yield node, CHANCE
    if origin == "random.Random" and not node.args:
        yield node, CHANCE


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Found:
    for argument in [*node.args.args, *node.args.kwonlyargs]:
        if argument.arg in _FIXTURES:
            yield node, DETECTS


def _is_plain_text(node: ast.Call) -> bool:
    """Whether a call runs a text that stands there, and that the other rules have read."""
    given = node.args[0] if node.args and not node.keywords else None
    return isinstance(given, ast.Constant) and isinstance(given.value, str)


def _is_seeded(view: View) -> bool:
    return any(
        isinstance(node, ast.Call) and view.dotted(node.func) == "random.seed" and node.args
        for node in ast.walk(view.tree)
    )


def _is_called(node: ast.AST, view: View) -> bool:
    parent = view.parent(node)
    return isinstance(parent, ast.Call) and parent.func is node


def _last(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
