"""What a module defines, by the names that a user would give."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping

from lowvram_ft.data.from_repo.import_graph import statements
from lowvram_ft.errors import UsageError

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_SHOWN = 12


def definitions(tree: ast.Module) -> dict[str, Definition]:
    """Functions, classes and methods of a module, also those under a condition, in the order of the text.

    Args:
        tree: of the module.

    Returns:
        By name, such as ``parse``, ``Reader``, ``Reader.read`` or ``Outer.Inner.method``. What is defined twice stands
        for its last definition, as when the module is imported.
    """
    found: dict[str, Definition] = {}
    _collect(tree.body, "", found)
    return found


def _collect(body: Iterable[ast.stmt], prefix: str, found: dict[str, Definition]) -> None:
    for node in statements(body):
        if isinstance(node, Definition):
            name = prefix + node.name
            for old in [key for key in found if key == name or key.startswith(f"{name}.")]:
                del found[old]
            found[name] = node
            if isinstance(node, ast.ClassDef):
                _collect(node.body, f"{name}.", found)


def require_definition(tree: ast.Module, name: str, place: str) -> Definition:
    """The definition of a name.

    Args:
        tree: of the module.
        name: such as ``Reader.read``.
        place: the file, for the message.

    Raises:
        UsageError: there is none; the message says what it is instead, or which there are.
    """
    found = definitions(tree)
    if name in found:
        return found[name]
    what = _other_names(tree).get(name)
    if what is not None:
        raise UsageError(
            f"{place}: {name} is {what}, and tests are written for functions, classes and methods; {_hint(found)}"
        )
    close = difflib.get_close_matches(name, found, n=1) or [key for key in found if key.endswith(f".{name}")]
    hint = f"did you mean {place}::{close[0]}?" if len(close) == 1 else _hint(found)
    raise UsageError(f"{place}: no function, class or method of the name (got {name}); {hint}")


def _hint(found: Mapping[str, Definition]) -> str:
    if not found:
        return "it defines none; name another file"
    if len(found) <= _SHOWN:
        return f"name one of {', '.join(found)}"
    shown = ", ".join([name for name in found if "." not in name][:_SHOWN])
    return f"name one of its {len(found)}, such as {shown}"


def _other_names(tree: ast.Module) -> dict[str, str]:
    """What the names are that a module binds without a definition."""
    found: dict[str, str] = {}
    for prefix, body in [
        ("", tree.body),
        *((f"{n}.", d.body) for n, d in definitions(tree).items() if isinstance(d, ast.ClassDef)),
    ]:
        for node in statements(body):
            if isinstance(node, ast.Import | ast.ImportFrom):
                origin = "." * node.level + (node.module or "") if isinstance(node, ast.ImportFrom) else ""
                for alias in node.names:
                    bound = alias.asname or alias.name.partition(".")[0]
                    found[prefix + bound] = f"imported from {origin}" if origin else "an imported module"
            elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    for part in ast.walk(target):
                        if isinstance(part, ast.Name):
                            found[prefix + part.id] = "a variable"
    return found
