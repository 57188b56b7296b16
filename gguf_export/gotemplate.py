"""Reading a Modelfile back: the part of Go's ``text/template`` that ``ollama.modelfile`` writes.

Known: literal text, ``{{ "string" }}``, ``{{ .Field }}``, ``{{ if .Field }}``, ``{{ if eq .Field "x" }}``,
``{{ else if … }}``, ``{{ else }}``, ``{{ range .Field }}``, ``{{ end }}``. Anything else is an error, so that
a template which this module renders is one that it understands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .errors import UnsupportedError
from .templates import Message

_ACTION: Final = re.compile(r'\{\{((?:"(?:\\.|[^"\\])*"|[^"{}])*)\}\}', re.DOTALL)
_BLOCK: Final = r'^{}\s+"""(.*?)"""[ \t]*$'
_CONDITION: Final = re.compile(r'eq\s+\.(\w+)\s+("(?:\\.|[^"\\])*")|\.(\w+)')


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
    modelfile_text: str, messages: Sequence[Message], *, use_default_system: bool = True
) -> str:
    """Render a conversation, and what introduces an answer, as Ollama does.

    Args:
        modelfile_text: the Modelfile.
        messages: the conversation.
        use_default_system: where it has no system message, take the Modelfile's ``SYSTEM``.

    Raises:
        UnsupportedError: the template uses what is not known here.
    """
    template = _field(modelfile_text, "TEMPLATE")
    if template is None:
        raise UnsupportedError("Modelfile: holds no TEMPLATE; write it again")
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    if not system and use_default_system:
        system = _field(modelfile_text, "SYSTEM") or ""
    turns = [{"Role": message["role"], "Content": message["content"]} for message in messages]
    return "".join(_run(_parse(template), {"System": system, "Messages": turns}))


@dataclass(frozen=True)
class _Node:
    """``text``, ``string``, ``field``, or ``if``/``range`` with a body and, for ``if``, an alternative."""

    kind: str
    value: str
    body: tuple[_Node, ...] = ()
    otherwise: tuple[_Node, ...] = ()


def _field(text: str, name: str) -> str | None:
    match = re.search(_BLOCK.format(name), text, re.DOTALL | re.MULTILINE)
    return match.group(1) if match else None


def _tokens(template: str) -> Iterator[tuple[str, str]]:
    position = 0
    for match in _ACTION.finditer(template):
        yield "text", template[position : match.start()]
        yield "action", match.group(1).strip()
        position = match.end()
    yield "text", template[position:]


def _parse(template: str) -> tuple[_Node, ...]:
    tokens = list(_tokens(template))
    nodes, position, _ = _parse_until(tokens, 0)
    if position != len(tokens):
        raise UnsupportedError("Modelfile: an end without a beginning in its template; write it again")
    return nodes


def _parse_until(tokens: list[tuple[str, str]], position: int) -> tuple[tuple[_Node, ...], int, str]:
    """Nodes up to the ``else`` or ``end`` that closes this block, the place after it, and what it was."""
    nodes: list[_Node] = []
    while position < len(tokens):
        kind, value = tokens[position]
        position += 1
        if kind == "text" or value.startswith('"'):
            nodes.append(_Node("text", value if kind == "text" else json.loads(value)))
        elif value == "end" or value.startswith("else"):
            return tuple(nodes), position, value
        elif value.startswith(("if ", "range ")):
            node, position = _parse_block(value, tokens, position)
            nodes.append(node)
        elif re.fullmatch(r"\.\w+", value):
            nodes.append(_Node("field", value[1:]))
        else:
            raise UnsupportedError(f"Modelfile: {{{{ {value} }}}} is not known here; use Ollama itself")
    return tuple(nodes), position, ""


def _parse_block(head: str, tokens: list[tuple[str, str]], position: int) -> tuple[_Node, int]:
    kind, _, value = head.partition(" ")
    body, position, closing = _parse_until(tokens, position)
    otherwise: tuple[_Node, ...] = ()
    if closing.startswith("else if "):
        node, position = _parse_block(closing.removeprefix("else "), tokens, position)
        otherwise = (node,)
    elif closing == "else":
        otherwise, position, _ = _parse_until(tokens, position)
    return _Node(kind, value.strip(), body, otherwise), position


def _run(nodes: Sequence[_Node], scope: Mapping[str, Any]) -> Iterator[str]:
    for node in nodes:
        if node.kind == "text":
            yield node.value
        elif node.kind == "field":
            yield str(scope[node.value])
        elif node.kind == "range":
            for item in scope[node.value.removeprefix(".")]:
                yield from _run(node.body, item)
        else:
            yield from _run(node.body if _holds(node.value, scope) else node.otherwise, scope)


def _holds(condition: str, scope: Mapping[str, Any]) -> bool:
    match = _CONDITION.fullmatch(condition)
    if match is None:
        raise UnsupportedError(f"Modelfile: the condition {condition} is not known here; use Ollama itself")
    compared, literal, alone = match.groups()
    return bool(scope[alone]) if alone else bool(scope[compared] == json.loads(literal))
