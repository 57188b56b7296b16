"""Which rows teach what the prompt asks for: pytest only, nothing outside the process, and tests that check something.

Static: nothing of a row runs here. Each filter answers with a reason in a few words, the same for all rows of a kind.
"""

from __future__ import annotations

import ast
import re

from lowvram_ft.data.row import Row
from lowvram_ft.data.sources.source import may_use_unittest, parse
from lowvram_ft.data.unittest_style import uses_unittest
from lowvram_ft.execution import check_counts

_NETWORK = frozenset(
    (
        *("socket", "requests", "httpx", "aiohttp", "urllib3", "ftplib", "smtplib", "poplib", "imaplib", "telnetlib"),
        *("websocket", "websockets", "paramiko"),
    )
)
_NETWORK_MODULES = frozenset({"urllib.request", "http.client", "http.server", "xmlrpc.client"})
_CLOCKS = frozenset({"time", "perf_counter", "monotonic", "process_time", "perf_counter_ns", "time_ns", "monotonic_ns"})
_FILES = frozenset(
    (
        *("mkdir", "makedirs", "remove", "unlink", "rmdir", "removedirs", "rename", "replace", "chdir", "listdir"),
        *("symlink", "chmod", "truncate"),
    )
)
_PATH_METHODS = frozenset({"write_text", "write_bytes", "read_text", "read_bytes", "touch", "iterdir", "rglob"})
_PROCESSES = frozenset({"subprocess", "multiprocessing", "pexpect"})
_PRIVATE_FOLDERS = frozenset({"tmp_path", "tmp_path_factory", "tmpdir", "tmpdir_factory"})
_SUSPECT = re.compile(
    r"\b(hypothesis|unittest|socket|requests|httpx|aiohttp|urllib3?|http|xmlrpc|ftplib|smtplib|poplib|imaplib|telnetlib|"
    r"websockets?|paramiko|sleep|timeit|time|perf_counter\w*|monotonic\w*|process_time|open|os|shutil|tempfile|Path|"
    r"subprocess|multiprocessing|pexpect|input|stdin)\b"
)
"""A text without any of these words passes every constraint: most rows need no walk over their syntax tree."""


def broken_constraint(row: Row) -> str | None:
    """Why a row's test is not what the prompt asks for; None where it is.

    No hypothesis, no unittest, no network, no sleep, no clock, no other process, no file outside of pytest's own
    temporary folder, no standard input (in the code neither).
    """
    if re.search(r"\b(input|stdin)\b", row.code) and _reads_stdin(parse(row.code)):
        return "reads standard input"
    if not _SUSPECT.search(row.test):
        return None
    tree = parse(row.test)
    if may_use_unittest(row.test) and uses_unittest(tree):
        return "unittest style"
    if "hypothesis" in {name.partition(".")[0] for name in imported_modules(tree)}:
        return "uses hypothesis"
    return outside_of_the_process(tree)


def outside_of_the_process(tree: ast.Module) -> str | None:
    """What code does outside of its own process, or asks of a clock; None where it does nothing of the kind."""
    imports = imported_modules(tree)
    roots = {name.partition(".")[0] for name in imports}
    if roots & _NETWORK or imports & _NETWORK_MODULES:
        return "uses the network"
    if roots & _PROCESSES:
        return "starts processes"
    if _reads_stdin(tree):
        return "reads standard input"
    return _broken_by_a_call(tree, roots)


def too_few_assertions(row: Row, least: int) -> str | None:
    """Why a row's test checks too little; None where it does not.

    Args:
        row: the row.
        least: assertions that a file has to hold.
    """
    tree = parse(row.test)
    if least == 1 and _every_test_asserts(tree):
        return None
    counts = check_counts(tree)
    if not counts:
        return "no test function"
    if sum(counts) < least:
        return f"fewer than {least} assertion{'s' if least > 1 else ''}"
    if 2 * sum(count == 0 for count in counts) > len(counts):
        return "most tests assert nothing"
    return None


def _every_test_asserts(tree: ast.Module) -> bool:
    """Whether all is well at a glance: there are test functions, and each has an assertion right in its body."""
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test")]
    classes = any(isinstance(node, ast.ClassDef) for node in tree.body)
    return bool(tests) and not classes and all(any(map(_is_assertion, test.body)) for test in tests)


def _is_assertion(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assert) and not isinstance(node.test, ast.Constant)


def imported_modules(tree: ast.AST) -> set[str]:
    """What a piece of code imports by absolute names: modules, and names of modules as if they were such."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _broken_by_a_call(tree: ast.Module, roots: set[str]) -> str | None:
    private = any(isinstance(node, ast.arg) and node.arg in _PRIVATE_FOLDERS for node in ast.walk(tree))
    if "timeit" in roots:
        return "measures time"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        owner, name = _called(node.func)
        if name == "sleep":
            return "sleeps"
        if name in _CLOCKS and (owner == "time" or (not owner and "time" in roots and name != "time")):
            return "measures time"
        if (owner, name) in {("os", "system"), ("os", "popen"), ("os", "fork")}:
            return "starts processes"
        if not private and _touches_files(owner, name):
            return "touches files outside of tmp_path"
    return None


def _touches_files(owner: str, name: str) -> bool:
    if owner in ("os", "shutil") and (name in _FILES or owner == "shutil"):
        return True
    return (not owner and name == "open") or owner == "tempfile" or name in _PATH_METHODS


def _reads_stdin(tree: ast.Module) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "input":
            return True
        if isinstance(node, ast.Attribute) and node.attr == "stdin":
            return True
    return False


def _called(function: ast.expr) -> tuple[str, str]:
    """Owner and name of what is called: ``("os", "remove")``, ``("", "open")``; an owner that is no name is ``"?"``."""
    if isinstance(function, ast.Name):
        return "", function.id
    if isinstance(function, ast.Attribute):
        return function.value.id if isinstance(function.value, ast.Name) else "?", function.attr
    return "?", ""
