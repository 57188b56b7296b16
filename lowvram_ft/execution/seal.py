"""Whether pytest is still itself: its functions, and what its hooks call."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import types
from collections.abc import Mapping
from typing import Any

_OURS = (
    *("_pytest", "pluggy", "lowvram_ft.execution"),
    *("coverage.control", "coverage.results", "coverage.parser", "coverage.python", "coverage.sqldata"),
)
_WITHOUT_A_SAY = frozenset(
    f"_pytest.{name}"
    for name in (
        *("cacheprovider", "debugging", "doctest", "faulthandler", "helpconfig", "junitxml", "legacypath", "pastebin"),
        *("pytester", "pytester_assertions", "setuponly", "setupplan", "stepwise", "terminalprogress"),
        *("threadexception", "unraisableexception", "_io.pprint", "_io.terminalwriter", "_io.wcwidth"),
    )
)
"""Modules that no outcome goes through: to look at a function writes to its memory page, which a fork has to copy."""
_SET_BY_PYTEST = "_pytest_diamond_inheritance_warning_shown"
"""The one name that pytest adds to its classes while it runs."""


_IN_EVERY_TEST = (
    *("_pytest.runner", "_pytest.python", "_pytest.nodes", "_pytest.reports", "_pytest.skipping", "_pytest.unittest"),
    *("_pytest.outcomes", "_pytest._code.code", "pluggy"),
    *("lowvram_ft.execution.gate", "lowvram_ft.execution.session", "lowvram_ft.execution.fork"),
)
"""Modules that every outcome goes through: they are looked at after each test, the others once in the end."""

_Sealed = tuple[Any, int, list[tuple[str, Any, Any, types.CodeType | None]]]


class Seal:
    """Every function of pytest, its plugin system, coverage.py's numbers and this kit's executor, as they are now."""

    def __init__(self) -> None:
        self.in_every_test: list[_Sealed] = []
        self.others: list[_Sealed] = []
        self._methods: dict[type, frozenset[str]] = {}
        for module_name, module in list(sys.modules.items()):
            if not module_name.startswith(_OURS) or module_name in _WITHOUT_A_SAY:
                continue
            for owner in [module, *(value for value in vars(module).values() if isinstance(value, type))]:
                if getattr(owner, "__module__", module_name) == module_name:
                    size = _size(vars(owner)) if isinstance(owner, type) else -1
                    sealed = self.in_every_test if module_name.startswith(_IN_EVERY_TEST) else self.others
                    sealed.append((owner, size, _functions(owner)))

    def broken(self, *, wholly: bool) -> str:
        """What is not the object, with the code, that it was, or a class that has got more names; empty for nothing.

        Args:
            wholly: look at all, and not only at what every outcome goes through.
        """
        for owner, size, functions in itertools.chain(self.in_every_test, self.others if wholly else ()):
            names = vars(owner)
            if size >= 0 and _size(names) != size:
                return str(owner.__qualname__)
            for name, value, function, code in functions:
                if names.get(name) is not value or (function is not None and function.__code__ is not code):
                    return f"{owner.__name__}.{name}"
        return ""

    def hidden(self, thing: Any) -> str:
        """An attribute of an object's own that hides a method of its class; empty for none."""
        kind = type(thing)
        if kind not in self._methods:
            names = (name for owner in kind.__mro__ for name, value in vars(owner).items() if callable(value))
            self._methods[kind] = frozenset(names)
        return next((f"{kind.__name__}.{name}" for name in vars(thing) if name in self._methods[kind]), "")


def _size(names: Mapping[str, Any]) -> int:
    return len(names) - (_SET_BY_PYTEST in names)


def _functions(owner: Any) -> list[tuple[str, Any, Any, types.CodeType | None]]:
    """Functions, and what makes or hides them in a class: methods of classes, properties."""
    found: list[tuple[str, Any, Any, types.CodeType | None]] = []
    for name, value in vars(owner).items():
        function = getattr(value, "__func__", value)
        if isinstance(function, types.FunctionType):
            found.append((name, value, function, function.__code__))
        elif isinstance(owner, type) and isinstance(value, property):
            found.append((name, value, None, None))
    return found


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What each hook calls, in order: function, plugin and code of every implementation.

    Attributes:
        calls: by the name of the hook.
    """

    calls: dict[str, tuple[tuple[Any, Any, Any], ...]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, manager: Any) -> Hooks:
        """As they are now."""
        return cls({name: _calls(caller) for name, caller in _callers(manager)})

    def broken(self, manager: Any) -> str:
        """A hook that calls anything else than it did; empty for none."""
        now = Hooks.of(manager).calls
        for name in now.keys() | self.calls.keys():
            before, after = self.calls.get(name, ()), now.get(name, ())
            flat = zip(itertools.chain(*before), itertools.chain(*after), strict=False)
            if len(before) != len(after) or not all(one is two for one, two in flat):
                return name
        return ""


def _callers(manager: Any) -> list[tuple[str, Any]]:
    return [(name, caller) for name, caller in vars(manager.hook).items() if hasattr(caller, "get_hookimpls")]


def _calls(caller: Any) -> tuple[tuple[Any, Any, Any], ...]:
    found = ((implementation.function, implementation.plugin) for implementation in caller.get_hookimpls())
    return tuple((function, plugin, getattr(function, "__code__", None)) for function, plugin in found)
