"""Parts of a module that stand by themselves: some definitions whole, and what they use, cut where it is too long."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from lowvram_ft.data.trimming.dependencies import Dependencies, joined, statement_text
from lowvram_ft.data.trimming.statements import DEFINITION, Statement, read_statements, split_lines
from lowvram_ft.testgen.units.members import Form, Member, read_parts, render, shortened, stands_alone

Forms = Callable[[int, Member], Form]

_MAKERS = frozenset({"__init__", "__new__", "__post_init__"})
"""Methods without which a reader does not know how to make an object."""
_HOOKS = frozenset({"__init_subclass__", "__set_name__", "__class_getitem__", "__prepare__"})
"""Methods that Python calls where a class is made or named."""
_DECLARATIONS = frozenset({"__slots__", "__match_args__"})


@dataclass(frozen=True)
class _Cut:
    """How much of what is used is cut.

    Attributes:
        steps: from how many steps away on.
        documented: whether docstrings stay.
        members: whether members of classes stay that nothing shown names.
        on_import: whether functions that run on import stay whole.
    """

    steps: int
    documented: bool = True
    members: bool = True
    on_import: bool = True


class Source:
    """A module taken apart, of which excerpts are made.

    Args:
        code: text of the module.
        tree: of it.
    """

    def __init__(self, code: str, tree: ast.Module) -> None:
        self.lines = split_lines(code)
        self.graph = Dependencies(read_statements(tree.body, self.lines))
        self.statements = self.graph.statements
        self.parts = [read_parts(statement) for statement in self.statements]
        members = [member for parts in self.parts for member in parts.members]
        self._separate = {member for member in members if stands_alone(member.node, self.lines)}
        self._shortened: dict[int, str | None] = {}

    def excerpt(self, places: Collection[int], whole: Collection[Member], max_chars: int | None = None) -> str:
        """The text of some statements with what they use, the least of it cut that must be.

        What is cut, in this order, until the text fits: long constants to their first items, and what the module does
        to objects when it is imported; the bodies of functions that are used, those that are the most steps away
        first; docstrings; members of classes that nothing shown names; last, the bodies of what runs when the
        module is imported: only then may the text be one that cannot be.

        Args:
            places: statements that the excerpt is about.
            whole: members of them that are not cut.
            max_chars: most characters of the text; it is longer where nothing is left to cut. None: nothing is cut.
        """
        text = ""
        for text in self._cuts(places, frozenset(whole)):
            if max_chars is None or len(text) <= max_chars:
                break
        return text

    def used_by(self, places: Collection[int]) -> set[str]:
        """Names of what some statements need of the module, step by step."""
        return {n for place in self._closure(places, _all_whole, True) for n in self.statements[place].binds}

    def length(self, member: Member) -> int:
        """Characters of a member."""
        return sum(len(self.lines[number - 1]) for number in member.lines)

    def _cuts(self, places: Collection[int], whole: frozenset[Member]) -> Iterator[str]:
        """Texts, each shorter than the one before."""
        rest = {m for place in places for m in self.parts[place].members if m.is_function} - whole
        first: dict[Member, Form] = {m: "whole" if m.name in _MAKERS else "documented" for m in rest}

        def uncut(_: int, member: Member) -> Form:
            return first.get(member, "whole")

        everything = self._closure(places, uncut, True)
        yield self._text(everything, uncut, short=False)
        everything = self._closure(places, uncut, False)
        yield self._text(everything, uncut, short=True)
        for steps in range(max(everything.values(), default=0), 0, -1):
            yield self._cut(places, whole, everything, first, _Cut(steps))
        for cut in (_Cut(0, False), _Cut(0, False, False), _Cut(0, False, False, False)):
            yield self._cut(places, whole, everything, first, cut)

    def _cut(
        self,
        places: Collection[int],
        whole: frozenset[Member],
        everything: Mapping[int, int],
        first: Mapping[Member, Form],
        cut: _Cut,
    ) -> str:
        on_import: set[Member] = set()
        named: set[str] = set()

        def form(place: int, member: Member) -> Form:
            if member in whole or (cut.on_import and member in on_import):
                return "whole"
            if everything.get(place, 0) < cut.steps:
                return first.get(member, "whole")
            if (not cut.members or (not cut.documented and member.is_docstring)) and self._can_go(member, named):
                return "gone"
            if not member.is_function or (cut.members and place in places and member.name in _MAKERS):
                return "whole"
            return "documented" if cut.documented else "signature"

        kept = self._closure(places, form, False)
        while True:  # what is cut decides what is used, and that what may be cut
            found, words = self._run_on_import(kept, form), self._named(kept, form)
            if found <= on_import and words <= named:
                return self._text(kept, form, short=True)
            on_import |= found
            named |= words
            kept = self._closure(places, form, False)

    def _closure(self, places: Collection[int], form: Forms, attached: bool) -> dict[int, int]:
        """Places of what some statements need in the form that they are shown in, with the steps that lead there.

        Args:
            places: of the statements.
            form: how members are shown.
            attached: whether statements that change a needed object on import are needed, and all that bind a name.
        """
        stay = [place for place, statement in enumerate(self.statements) if _must_stay(statement)]
        steps = dict.fromkeys([*stay, *sorted(places)], 0)
        own = {name for place in places for name in self.statements[place].binds}
        pending = list(steps)
        for place in pending:
            names = self._uses(place, form)
            wanted = names if attached else names - own
            found = [i for n in wanted for i in self.graph.binders.get(n, ()) if n not in self.parts[i].deletes]
            for name in (names | self.statements[place].binds) if attached else ():
                changed = self.graph.attached.get(name, ())
                found += [i for i in changed if place in places or not _defines(self.statements[i])]
            for other in sorted(found):
                if other not in steps:
                    steps[other] = steps[place] + 1
                    pending.append(other)
        return steps

    def _uses(self, place: int, form: Forms) -> set[str]:
        used = set(self.parts[place].frame)
        for member in self.parts[place].members:
            shown = form(place, member)
            if shown != "gone":
                used |= member.head
            if shown == "whole":
                used |= member.body
        return used

    def _run_on_import(self, kept: Collection[int], form: Forms) -> set[Member]:
        """Functions that run when what is kept is imported, as far as names tell."""
        shown = [(m, form(place, m)) for place in kept for m in self.parts[place].members]
        found = {m for m, how in shown if how != "gone" and (m.is_called or _is_hook(m))}
        pending = [name for place in kept for name in self.parts[place].on_import]
        for member, how in shown:
            if how != "gone":
                pending += member.head if member.is_function else member.body
        seen = set(pending)
        while pending:
            name = pending.pop()
            for place in self.graph.binders.get(name, ()):
                for member in self.parts[place].members:
                    if member.path == name:
                        found.add(member)
                        pending += member.body - seen
                        seen |= member.body
        return found

    def _alone_binds(self, member: Member) -> list[str]:
        """Names that nothing but a function's ``global`` gives the module."""
        return sorted(name for name in member.declares if len(self.graph.binders.get(name, ())) == 1)

    def _named(self, kept: Collection[int], form: Forms) -> set[str]:
        """Names after a dot in what is shown, and those that class bodies use."""
        found: set[str] = set()
        for place in kept:
            found |= self.parts[place].attributes | self.parts[place].frame
            for member in self.parts[place].members:
                shown = form(place, member)
                if shown == "whole":
                    found |= member.attributes
                if shown != "gone":
                    found |= member.head_attributes
                    found |= member.head if member.is_function else member.body - member.binds
        return found

    def _can_go(self, member: Member, named: Collection[str]) -> bool:
        if member.owner is None or not member.binds.isdisjoint(named) or member.name in _MAKERS | _HOOKS:
            return False
        if not member.is_function and member.name in _DECLARATIONS:
            return False
        if member.owner.decorator_list and member.name.startswith("__"):  # functools.total_ordering looks for them
            return False
        return member in self._separate

    def _text(self, kept: Mapping[int, int], form: Forms, short: bool) -> str:
        needed = {name for place in kept for name in self._uses(place, form)}
        needed |= {name for place, steps in kept.items() if steps == 0 for name in self.statements[place].binds}
        shown = []
        for place in sorted(kept):
            statement = self.statements[place]
            forms = [(member, form(place, member)) for member in self.parts[place].members]
            text = self._short(place) if short and kept[place] > 0 else None
            if any(how != "whole" for _, how in forms):
                text = render(statement, self.lines, forms)
                lost = [n for m, how in forms if how != "whole" for n in self._alone_binds(m) if n in needed]
                text += "".join(f"{name} = ...\n" for name in lost)
            shown.append((statement, text or statement_text(statement, self.lines, needed)))
        return joined(shown)

    def _short(self, place: int) -> str | None:
        if place not in self._shortened:
            self._shortened[place] = shortened(self.statements[place])
        return self._shortened[place]


def _all_whole(_: int, __: Member) -> Form:
    return "whole"


def _must_stay(statement: Statement) -> bool:
    """Whether a statement decides what others mean: ``from __future__``, ``from x import *``."""
    node = statement.nodes[0]
    return isinstance(node, ast.ImportFrom) and (node.module == "__future__" or node.names[0].name == "*")


def _defines(statement: Statement) -> bool:
    return isinstance(statement.nodes[0], DEFINITION)


def _is_hook(member: Member) -> bool:
    """Whether Python may call a method on import: ``__new__`` of an enumeration or a metaclass among them."""
    return member.name in _HOOKS or (
        member.name == "__new__" and member.owner is not None and bool(member.owner.bases or member.owner.keywords)
    )
