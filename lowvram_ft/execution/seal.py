"""Whether pytest is still itself: its functions, and what its hooks call."""

from __future__ import annotations

import dataclasses
import sys
import types
from typing import Any

_OURS = ("_pytest", "pluggy", "lowvram_ft.execution")
_WITHOUT_A_SAY = frozenset(
    f"_pytest.{name}"
    for name in (
        *("cacheprovider", "debugging", "doctest", "faulthandler", "helpconfig", "junitxml", "legacypath", "pastebin"),
        *("pytester", "pytester_assertions", "setuponly", "setupplan", "stepwise", "terminal", "terminalprogress"),
        *("threadexception", "unraisableexception", "_io.pprint", "_io.terminalwriter", "_io.wcwidth"),
    )
)
"""Modules that no outcome goes through: to look at a function writes to its memory page, which a fork has to copy."""


class Seal:
    """Every function of pytest, its plugin system and this kit's executor, as they are now."""

    def __init__(self) -> None:
        self.functions: list[tuple[Any, list[tuple[str, types.FunctionType, types.CodeType]]]] = []
        for module_name, module in list(sys.modules.items()):
            if not module_name.startswith(_OURS) or module_name in _WITHOUT_A_SAY:
                continue
            for owner in [module, *(value for value in vars(module).values() if isinstance(value, type))]:
                if getattr(owner, "__module__", module_name) == module_name:
                    self.functions.append((owner, _functions(owner)))

    def holds(self) -> bool:
        """Whether each is the same object with the same code under the same name."""
        for owner, functions in self.functions:
            names = vars(owner)
            for name, function, code in functions:
                found = names.get(name)
                if getattr(found, "__func__", found) is not function or function.__code__ is not code:
                    return False
        return True


def _functions(owner: Any) -> list[tuple[str, types.FunctionType, types.CodeType]]:
    found = ((name, getattr(value, "__func__", value)) for name, value in vars(owner).items())
    return [(name, value, value.__code__) for name, value in found if isinstance(value, types.FunctionType)]


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What each hook calls, in order: function and plugin of every implementation.

    Attributes:
        calls: by the name of the hook.
    """

    calls: dict[str, tuple[tuple[Any, Any], ...]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, manager: Any) -> Hooks:
        """As they are now."""
        return cls({name: _calls(caller) for name, caller in _callers(manager)})

    def hold(self, manager: Any) -> bool:
        """Whether nothing but pytest's own plugins has come in, and nothing has gone."""
        now = Hooks.of(manager).calls
        for name, before in self.calls.items():
            known = {(id(function), id(plugin)) for function, plugin in before}
            after = {(id(function), id(plugin)): function for function, plugin in now.get(name, ())}
            added = [function for key, function in after.items() if key not in known]
            if known - after.keys() or not all(_is_pytests_own(function) for function in added):
                return False
        return True


def _callers(manager: Any) -> list[tuple[str, Any]]:
    return [(name, caller) for name, caller in vars(manager.hook).items() if hasattr(caller, "get_hookimpls")]


def _calls(caller: Any) -> tuple[tuple[Any, Any], ...]:
    return tuple((implementation.function, implementation.plugin) for implementation in caller.get_hookimpls())


def _is_pytests_own(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith(_OURS)
