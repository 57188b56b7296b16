"""Files that lie beside a test when it runs, and how a ``conftest.py`` among them takes part in the session.

A ``conftest.py`` is the user's own, so its fixtures and its hooks have a say, as under ``pytest`` itself: what it
adds to the session before the test file is imported counts as part of pytest from then on, and only what is added or
changed later is the test file's doing. It is imported as ``conftest`` with all of pytest set up: its options have
their defaults, ``pytest_configure`` and ``pytest_sessionstart`` are called at once, ``pytest_plugins`` is followed.
``pytest_sessionfinish`` and what comes after it are not called. Functions that are no hooks, and what they read, are
not guarded: where a hook changes outcomes by a variable, a test file that sets the variable changes outcomes too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from lowvram_ft.errors import DataError
from lowvram_ft.execution.workspace import TEST_FILE

CONFTEST = "conftest.py"
_MODULE = "conftest"


def check_beside(beside: Mapping[str, str]) -> None:
    """Refuse what cannot lie beside a test.

    Args:
        beside: texts by their paths, relative to the folder of the test.

    Raises:
        DataError: a path leads out of the folder, is not in its shortest form, is the test file's own, or goes
            through another one as through a folder.
    """
    for name in beside:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or set("\\\0") & set(name):
            raise DataError(f"beside: {name!r} leads out of the test's folder; give a relative path such as {CONFTEST}")
        if str(path) != name or not path.parts:
            raise DataError(f"beside: {name!r} is no path in its shortest form; give {str(path)!r} or another one")
        if path.parts[0].partition(".")[0] == PurePosixPath(TEST_FILE).stem:
            raise DataError(f"beside: {name!r} would stand for the test file; give it another name")
        through = [str(parent) for parent in path.parents if str(parent) in beside]
        if through:
            raise DataError(f"beside: {name!r} lies in {through[0]!r}, which is a file; leave one of them out")


def admit_conftest(session: Any) -> None:
    """Import the ``conftest.py`` of the current folder, and give its fixtures and hooks their say.

    Args:
        session: of pytest, before its collection.

    Raises:
        BaseException: whatever the file raises.
    """
    import importlib
    import sys

    manager = session.config.pluginmanager
    before = set(manager.get_plugins())
    sys.path.insert(0, str(Path.cwd()))
    manager.register(importlib.import_module(_MODULE), _MODULE)
    others = [plugin for plugin in manager.get_plugins() if plugin in before]
    manager.subset_hook_caller("pytest_sessionstart", others)(session=session)


def failure_of_conftest(error: BaseException) -> str:
    """An error at the import of the ``conftest.py`` in the current folder, as pytest prints it."""
    import pytest

    found = pytest.ExceptionInfo.from_exception(error)
    inner = found.traceback.cut(path=Path.cwd() / CONFTEST)
    if len(inner) == len(found.traceback):  # not in the file: it does not parse, or pytest refuses it
        return f"ImportError while loading {CONFTEST}\nE   {found.exconly()}"
    found.traceback = inner
    return f"ImportError while loading {CONFTEST}\n{found.getrepr(style='short', chain=False)}"
