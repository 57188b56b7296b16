"""The normal form of Python code: what is left of it when names, layout and hints do not count.

What counts is the sequence of nodes of the syntax tree. What does not:

- comments, layout, docstrings and every other statement that is a bare constant, ``pass``;
- type annotations: they change nothing at run time, and adding them is the most usual rewrite (a field of a class
  body stays, its type goes);
- import statements, and so their order, their aliases and the unused ones; a name that was imported counts as what
  it stands for (``np`` as ``numpy``, ``sqrt`` as ``math.sqrt``);
- a block under ``if __name__ == "__main__":``, which no test runs;
- names that the code gives itself: arguments, locals, comprehension variables, nested functions, and the functions
  and classes at the top of the module (so the name of the function under test). They are numbered by first use.

Names of attributes, methods, keyword arguments, builtins and module-level variables count, since they are the
interface to something else.

The walk keeps its own stack, so that no depth of nesting exhausts Python's. Tokens are 64-bit hashes of text by BLAKE2b
(RFC 7693): the same in every process and on every machine. They are not meant to outlive a version of Python, whose
syntax tree may change.
"""

from __future__ import annotations

import ast
import hashlib
from array import array
from dataclasses import dataclass

from lowvram_ft.data.duplicates.tree_nodes import HANDLERS
from lowvram_ft.data.duplicates.tree_walk import Walk


@dataclass(frozen=True)
class Part:
    """The normal form of a stretch of code.

    Attributes:
        tokens: 64-bit tokens in the order of the code, in which a local is told by whether it is its first use only.
        digest: 16 bytes; equal for code that differs in nothing that counts, locals told apart by number.
    """

    tokens: array[int]
    digest: bytes


@dataclass(frozen=True)
class NormalForm:
    """The normal form of a module.

    Attributes:
        whole: all of it.
        parts: each function and class at its top on its own; empty where one of them is all there is.
    """

    whole: Part
    parts: tuple[Part, ...]


def normal_form(tree: ast.Module) -> NormalForm:
    """The normal form of a module.

    Args:
        tree: the module; it is not changed. All that `ast.parse` returns is accepted.
    """
    walk = Walk(HANDLERS)
    ends: list[tuple[bool, int, int]] = []
    for statement in tree.body:
        if isinstance(statement, ast.If) and is_main_guard(statement):
            continue
        before = len(walk.out)
        walk.visit(statement)
        if len(walk.out) > before:
            is_definition = isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            ends.append((is_definition, len(walk.out), len(walk.uses)))
    numbers = walk.resolve([uses for _, _, uses in ends])
    tokens = array("Q", walk.out)
    whole = Part(tokens, _digest(tokens, numbers))
    parts: list[Part] = []
    if len(ends) > 1:
        first = first_use = 0
        for is_definition, last, last_use in ends:
            if is_definition:
                part = tokens[first:last]
                parts.append(Part(part, _digest(part, _renumbered(numbers[first_use:last_use]))))
            first, first_use = last, last_use
    return NormalForm(whole, tuple(parts))


def is_main_guard(statement: ast.If) -> bool:
    """Whether it is ``if __name__ == "__main__":``, whose block no test runs."""
    test = statement.test
    return (
        isinstance(test, ast.Compare)
        and isinstance(test.left, ast.Name)
        and test.left.id == "__name__"
        and isinstance(test.ops[0], ast.Eq)
        and not statement.orelse
    )


def _digest(tokens: array[int], numbers: array[int]) -> bytes:
    found = hashlib.blake2b(tokens, digest_size=16)
    found.update(numbers)  # their count follows from the tokens, so that the border needs no mark
    return found.digest()


def _renumbered(numbers: array[int]) -> array[int]:
    order = {0: 0}  # what counts by its text keeps its 0
    return array("I", [order.setdefault(number, len(order)) for number in numbers])
