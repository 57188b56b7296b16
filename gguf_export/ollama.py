"""A Modelfile for Ollama whose Go template renders what the Jinja template renders.

The Jinja template is not translated but *probed*: rendered with sentinels in the place of each message, so
that the literal text around system, user and assistant messages and before an answer comes out. The result
is composed again and compared with Jinja on whole conversations; a template that does more than put text
around messages is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from .errors import UnsupportedError
from .templates import Message, render

_SYSTEM, _USER, _ASSISTANT, _AGAIN = (f"zq{name}qz" for name in ("SYSTEM", "USER", "ASSISTANT", "AGAIN"))

_CONTENTS: Final = (
    "Say hello.",
    "def f(a: int) -> int:\n    return a + 1\n\n\nclass A:\n    pass",
    "Wie heißt du? 你好 🚀 <b>&amp;</b>",
    "Quotes \"double\" and 'single', braces {{ x }} {% y %}, a backslash \\n",
    "### Task: Write pytest tests\n\n### Code Under Test:\ndef g():\n    return {}",
)
_ROLES: Final = (
    ("user",),
    ("system", "user"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user"),
    ("system", "user", "assistant", "user", "assistant", "user"),
)


class _Jinja(Protocol):
    """The template that is probed, its special tokens filled in."""

    def __call__(self, messages: Sequence[Message], generation: bool = False, now: datetime | None = None) -> str: ...


@dataclass(frozen=True)
class TemplateShape:
    """The literal text that a chat template puts around messages.

    Attributes:
        without_system: what opens a conversation that has no system message.
        system: before and after a system message, from the very start; ``None`` where the template takes no
            system message.
        user: before and after a user message.
        assistant: before and after an assistant message.
        generation: what introduces an answer.
        default_system: the system text that the template inserts by itself, if any.
        trims: the template strips white space around messages.
    """

    without_system: str
    system: tuple[str, str] | None
    user: tuple[str, str]
    assistant: tuple[str, str]
    generation: str
    default_system: str | None
    trims: bool

    def compose(self, messages: Sequence[Message]) -> str:
        """Render a conversation and the generation prompt from the parts."""
        parts = []
        if not messages or messages[0]["role"] != "system":
            parts.append(self.without_system)
        for message in messages:
            around = {"system": self.system, "user": self.user, "assistant": self.assistant}[message["role"]]
            if around is None:
                raise UnsupportedError("chat template: takes no system message; leave the system text out")
            content = message["content"].strip() if self.trims else message["content"]
            parts += [around[0], content, around[1]]
        return "".join([*parts, self.generation])


def probe(template: str, *, bos_token: str = "", eos_token: str = "") -> TemplateShape:
    """Find the shape of a Jinja chat template.

    Raises:
        UnsupportedError: the template does more than put text around messages.
    """

    def jinja(messages: Sequence[Message], generation: bool = False, now: datetime | None = None) -> str:
        return render(
            template,
            messages,
            bos_token=bos_token,
            eos_token=eos_token,
            add_generation_prompt=generation,
            now=now,
        )

    first, answer, again = (
        {"role": role, "content": text} for role, text in (("user", _USER), ("assistant", _ASSISTANT), ("user", _AGAIN))
    )
    if jinja([first], now=datetime(2001, 2, 3)) != jinja([first], now=datetime(2031, 11, 22)):
        raise UnsupportedError(
            "chat template: writes today's date, which a Modelfile cannot; use the GGUF, which holds the "
            "Jinja template, or export with a template that has no date"
        )
    opening, user_after = _cut(jinja([first]), _USER)
    _, rest = _cut(jinja([first, answer, again]), _USER)
    before_answer, rest = _cut(rest, _ASSISTANT)
    between, _ = _cut(rest, _AGAIN)
    _, answer_after = _cut(jinja([first, answer]), _ASSISTANT)
    assistant_before = _without(before_answer, prefix=user_after)
    user_before = _without(between, prefix=answer_after)
    without_system = _without(opening, suffix=user_before)
    generation = _without(jinja([first], generation=True), prefix=jinja([first]))
    system = _probe_system(jinja, first, user_before)
    default = None
    if system is not None and without_system.startswith(system[0]) and without_system.endswith(system[1]):
        default = without_system[len(system[0]) : len(without_system) - len(system[1])] or None
    shape = TemplateShape(
        without_system=without_system,
        system=system,
        user=(user_before, user_after),
        assistant=(assistant_before, answer_after),
        generation=generation,
        default_system=default,
        trims=_trims(jinja, opening, user_after),
    )
    _require_same(shape, jinja)
    return shape


def modelfile(
    gguf_name: str,
    *,
    chat_template: str,
    eos_tokens: Sequence[str],
    num_ctx: int,
    system: str | None = None,
    bos_token: str = "",
    add_bos: bool = False,
) -> str:
    """Write a Modelfile.

    Args:
        gguf_name: the file beside the Modelfile.
        chat_template: the Jinja template that was trained.
        eos_tokens: tokens that end an answer; the first is the model's end token.
        num_ctx: context length in tokens.
        system: the system text; by default the one that the template inserts by itself, made explicit.
        bos_token: the text of the token that begins a sequence.
        add_bos: the GGUF makes llama.cpp add that token, so the template must not repeat it.

    Returns:
        The text of the Modelfile.

    Raises:
        UnsupportedError: the template cannot be expressed in Go's.
    """
    shape = probe(chat_template, bos_token=bos_token, eos_token=eos_tokens[0] if eos_tokens else "")
    if system is None:
        system = shape.default_system
    elif system and shape.system is None:
        raise UnsupportedError("chat template: takes no system message; leave the system text out")
    lines = [f"FROM ./{gguf_name}"]
    if shape.trims:
        lines.append("# The trained template strips white space around messages; Go's cannot: send none.")
    lines.append(f"TEMPLATE {_block(_go_template(shape, bos_token if add_bos else ''))}")
    if system:
        lines.append(f"SYSTEM {_block(system)}")
    for token in dict.fromkeys(eos_tokens):
        lines.append(f"PARAMETER stop {json.dumps(token, ensure_ascii=False)}")
    lines.append(f"PARAMETER num_ctx {num_ctx}")
    return "\n".join(lines) + "\n"


def _go_template(shape: TemplateShape, added: str) -> str:
    """The Go template: ``.System`` holds the system text, ``.Messages`` the turns."""
    opening = _go(_without_bos(shape.without_system, added))
    if shape.system is not None:
        before, after = _go(_without_bos(shape.system[0], added)), _go(shape.system[1])
        opening = f"{{{{ if .System }}}}{before}{{{{ .System }}}}{after}{{{{ else }}}}{opening}{{{{ end }}}}"
    user, assistant = (
        f"{_go(before)}{{{{ .Content }}}}{_go(after)}" for before, after in (shape.user, shape.assistant)
    )
    return (
        f'{opening}{{{{ range .Messages }}}}{{{{ if eq .Role "user" }}}}{user}'
        f'{{{{ else if eq .Role "assistant" }}}}{assistant}{{{{ end }}}}{{{{ end }}}}{_go(shape.generation)}'
    )


def _go(literal: str) -> str:
    """Literal text in a Go template, quoted where the text could be read as syntax."""
    if "{{" in literal or literal.endswith(("{", '"')):
        return "{{ " + json.dumps(literal, ensure_ascii=False) + " }}"
    return literal


def _block(text: str) -> str:
    if '"""' in text or text.endswith('"'):
        raise UnsupportedError(
            'Modelfile: a text with """, or one that ends with ", cannot be written; reword the system text'
        )
    return f'"""{text}"""'


def _without_bos(text: str, added: str) -> str:
    if not text.startswith(added):
        raise UnsupportedError(
            f"chat template: does not begin with {added!r}, which the file makes llama.cpp add; "
            "export with a template that begins with it"
        )
    return text[len(added) :]


def _cut(text: str, sentinel: str) -> tuple[str, str]:
    if text.count(sentinel) != 1:
        raise UnsupportedError(
            f"chat template: repeats, drops or changes a message ({text.count(sentinel)} times in its "
            "output); it cannot be written as a Modelfile: use the GGUF, which holds the Jinja template"
        )
    before, _, after = text.partition(sentinel)
    return before, after


def _without(text: str, prefix: str = "", suffix: str = "") -> str:
    if not (text.startswith(prefix) and text.endswith(suffix) and len(text) >= len(prefix) + len(suffix)):
        raise UnsupportedError(
            "chat template: the text around a message depends on its place in the conversation; "
            "it cannot be written as a Modelfile: use the GGUF, which holds the Jinja template"
        )
    return text[len(prefix) : len(text) - len(suffix)]


def _probe_system(jinja: _Jinja, first: Message, user_before: str) -> tuple[str, str] | None:
    try:
        text = jinja([{"role": "system", "content": _SYSTEM}, first])
    except UnsupportedError:
        return None
    if _SYSTEM not in text:
        return None
    before, rest = _cut(text, _SYSTEM)
    return before, _without(_cut(rest, _USER)[0], suffix=user_before)


def _trims(jinja: _Jinja, opening: str, user_after: str) -> bool:
    return jinja([{"role": "user", "content": f" \n{_USER}\n "}]) == f"{opening}{_USER}{user_after}"


def _require_same(shape: TemplateShape, jinja: _Jinja) -> None:
    for index, roles in enumerate(_ROLES):
        if shape.system is None and "system" in roles:
            continue
        for shift in range(len(_CONTENTS)):
            messages = [
                {"role": role, "content": _CONTENTS[(index + shift + place) % len(_CONTENTS)]}
                for place, role in enumerate(roles)
            ]
            if not shape.trims:
                messages[-1]["content"] += "\n"
            if shape.compose(messages) != jinja(messages, generation=True):
                raise UnsupportedError(
                    f"chat template: a conversation of {', '.join(roles)} comes out differently when "
                    "composed of its parts; it cannot be written as a Modelfile: use the GGUF, which "
                    "holds the Jinja template"
                )
