"""Reading a Modelfile back: the part of Go's ``text/template`` that ``ollama.modelfile`` writes, filled as Ollama does.

Known: literal text, ``{{ "string" }}``, fields (``.System``, ``$.System``), variables (``{{ $x := … }}``,
``{{ $x = … }}``), ``eq``, ``and``, ``len``, ``slice``, Ollama's ``currentDate``, ``if`` with ``else if`` and ``else``,
``range`` with and without variables, ``end``. Anything else is an error, so that a template which this module renders
is one that it understands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from ..errors import UnsupportedError
from ..vocabulary.templates import Message

_ACTION: Final = re.compile(r'\{\{((?:"(?:\\.|[^"\\])*"|[^"{}])*)\}\}', re.DOTALL)
_BLOCK: Final = r'^{}\s+"""(.*?)"""[ \t]*$'
_TOKEN: Final = re.compile(r'\s*("(?:\\.|[^"\\])*"|\d+|\$\w*(?:\.\w+)*|(?:\.\w+)+|\w+|:=|[=(),])')
_FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "eq": lambda one, other: one == other,
    "and": lambda one, other: one and other,
    "len": len,
    "slice": lambda whole, start, end=None: whole[start:end],
}
_TODAY: Final = "currentDate"


def render_modelfile_template(modelfile_text: str, system: str | None, prompt: str) -> str:
    """Render one prompt as Ollama does.

    Args:
        modelfile_text: the Modelfile.
        system: the request's system text; ``None`` takes the Modelfile's.
        prompt: the user's message.

    Raises:
        UnsupportedError: the template uses what is not known here.
    """
    messages = [{"role": "user", "content": prompt}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return render_modelfile_messages(modelfile_text, messages, use_default_system=system is None)


def render_modelfile_messages(
    modelfile_text: str, messages: Sequence[Message], *, use_default_system: bool = True, now: datetime | None = None
) -> str:
    """Render a conversation, and what introduces an answer, as Ollama does.

    Ollama puts the Modelfile's ``SYSTEM`` before a conversation that does not begin with a system message, joins all
    system texts in ``.System``, and makes one message of neighbours with the same role; both by an empty line
    (``template/template.go``, ``collate``).

    Args:
        modelfile_text: the Modelfile.
        messages: the conversation.
        use_default_system: where it does not begin with a system message, take the Modelfile's ``SYSTEM``.
        now: the day that a template writes; the clock's by default.

    Raises:
        UnsupportedError: the template uses what is not known here.
    """
    template = modelfile_block(modelfile_text, "TEMPLATE")
    if template is None:
        raise UnsupportedError("Modelfile: holds no TEMPLATE; write it again")
    turns = [{"Role": message["role"], "Content": message["content"]} for message in messages]
    default = modelfile_block(modelfile_text, "SYSTEM") if use_default_system else None
    if default and (not turns or turns[0]["Role"] != "system"):
        turns.insert(0, {"Role": "system", "Content": default})
    system = "\n\n".join(turn["Content"] for turn in turns if turn["Role"] == "system")
    data = {"System": system, "Messages": _merged(turns)}
    variables = {"$": data, _TODAY: (now or datetime.now()).strftime("%Y-%m-%d")}
    return "".join(_run(_parse(template), data, variables))


def modelfile_block(text: str, name: str) -> str | None:
    """The text of an instruction that is quoted by three quotes; ``None`` where there is none."""
    match = re.search(_BLOCK.format(name), text, re.DOTALL | re.MULTILINE)
    return match.group(1) if match else None


@dataclass(frozen=True)
class _Node:
    """``text``, ``action``, or ``if``/``range`` with a body and, for ``if``, an alternative."""

    kind: str
    value: str
    body: tuple[_Node, ...] = ()
    otherwise: tuple[_Node, ...] = ()


def _merged(turns: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    merged: list[dict[str, str]] = []
    for turn in turns:
        if merged and merged[-1]["Role"] == turn["Role"]:
            merged[-1]["Content"] += f"\n\n{turn['Content']}"
        else:
            merged.append(dict(turn))
    return merged


def _tokens(template: str) -> Iterator[tuple[str, str]]:
    position = 0
    for match in _ACTION.finditer(template):
        yield "text", template[position : match.start()]
        yield "action", match.group(1).strip()
        position = match.end()
    yield "text", template[position:]


def _parse(template: str) -> tuple[_Node, ...]:
    tokens = list(_tokens(template))
    nodes, position, closing = _parse_until(tokens, 0)
    if position != len(tokens) or closing:
        raise UnsupportedError("Modelfile: an end without a beginning in its template; write it again")
    return nodes


def _parse_until(tokens: list[tuple[str, str]], position: int) -> tuple[tuple[_Node, ...], int, str]:
    """Nodes up to the ``else`` or ``end`` that closes this block, the place after it, and what it was."""
    nodes: list[_Node] = []
    while position < len(tokens):
        kind, value = tokens[position]
        position += 1
        if kind == "text":
            nodes.append(_Node("text", value))
        elif value == "end" or value.startswith("else"):
            return tuple(nodes), position, value
        elif value.startswith(("if ", "range ")):
            node, position = _parse_block(value, tokens, position)
            nodes.append(node)
        else:
            nodes.append(_Node("action", value))
    return tuple(nodes), position, ""


def _parse_block(head: str, tokens: list[tuple[str, str]], position: int) -> tuple[_Node, int]:
    kind, _, value = head.partition(" ")
    body, position, closing = _parse_until(tokens, position)
    otherwise: tuple[_Node, ...] = ()
    if closing.startswith("else if "):
        node, position = _parse_block(closing.removeprefix("else "), tokens, position)
        otherwise = (node,)
    elif closing == "else":
        otherwise, position, closing = _parse_until(tokens, position)
    if not closing:
        raise UnsupportedError("Modelfile: a beginning without an end in its template; write it again")
    return _Node(kind, value.strip(), body, otherwise), position


def _run(nodes: Sequence[_Node], dot: Any, variables: dict[str, Any]) -> Iterator[str]:
    for node in nodes:
        if node.kind == "text":
            yield node.value
        elif node.kind == "range":
            names, _, source = node.value.rpartition(":=")
            for index, item in enumerate(_value(source, dot, variables)):
                for name, value in zip(re.findall(r"\$\w+", names), (index, item), strict=False):
                    variables[name] = value
                yield from _run(node.body, item, variables)
        elif node.kind == "if":
            holds = bool(_value(node.value, dot, variables))
            yield from _run(node.body if holds else node.otherwise, dot, variables)
        elif (assigned := re.match(r"(\$\w+)\s*:?=(.*)", node.value, re.DOTALL)) is not None:
            variables[assigned.group(1)] = _value(assigned.group(2), dot, variables)
        else:
            yield str(_value(node.value, dot, variables))


def _value(expression: str, dot: Any, variables: Mapping[str, Any]) -> Any:
    """The value of an expression: one operand, or a function and its operands."""
    tokens: list[str] = []
    position = 0
    text = expression.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _unknown(expression)
        tokens.append(match.group(1))
        position = match.end()
    value, rest = _call(tokens, expression, dot, variables)
    if rest:
        raise _unknown(expression)
    return value


def _call(tokens: list[str], expression: str, dot: Any, variables: Mapping[str, Any]) -> tuple[Any, list[str]]:
    if not tokens:
        raise _unknown(expression)
    if tokens[0] not in _FUNCTIONS:
        return _operand(tokens, expression, dot, variables)
    name, rest = tokens[0], tokens[1:]
    operands = []
    while rest and rest[0] != ")":
        value, rest = _operand(rest, expression, dot, variables)
        operands.append(value)
    try:
        return _FUNCTIONS[name](*operands), rest
    except TypeError as error:
        raise _unknown(expression) from error


def _operand(tokens: list[str], expression: str, dot: Any, variables: Mapping[str, Any]) -> tuple[Any, list[str]]:
    if not tokens:
        raise _unknown(expression)
    token, rest = tokens[0], tokens[1:]
    if token == _TODAY:
        return variables[_TODAY], rest
    if token == "(":
        value, rest = _call(rest, expression, dot, variables)
        if rest[:1] != [")"]:
            raise _unknown(expression)
        return value, rest[1:]
    if token.startswith('"'):
        return json.loads(token), rest
    if token.isdigit():
        return int(token), rest
    start, _, fields = token.partition(".")
    if not token.startswith((".", "$")) or (start and start not in variables):
        raise _unknown(expression)
    found = variables[start] if start else dot
    for field in filter(None, fields.split(".")):
        found = found[field]
    return found, rest


def _unknown(expression: str) -> UnsupportedError:
    return UnsupportedError(f"Modelfile: {{{{ {expression} }}}} is not known here; use Ollama itself")
