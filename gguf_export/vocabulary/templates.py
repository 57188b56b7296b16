"""Rendering a chat template as transformers does, and what it tells about a conversation's end.

Same environment as transformers' ``apply_chat_template``: immutable sandbox, ``trim_blocks``,
``lstrip_blocks``, loop controls, ``raise_exception``, ``strftime_now``, a ``tojson`` that does not escape
HTML, and ``{% generation %}`` blocks, which render their content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import BrokenFileError, UnsupportedError
from ..files import read_json

Message = Mapping[str, str]

_SENTINEL = "zqSENTINELqz"


def render(
    template: str,
    messages: Sequence[Message],
    *,
    bos_token: str = "",
    eos_token: str = "",
    add_generation_prompt: bool = True,
    now: datetime | None = None,
) -> str:
    """Render a conversation through a Jinja chat template.

    Args:
        template: the Jinja text.
        messages: ``{"role": …, "content": …}``, in order.
        bos_token: the text of the token that begins a sequence.
        eos_token: the text of the token that ends an answer.
        add_generation_prompt: end with what introduces an answer.
        now: what the template takes for the present; the clock's by default.

    Raises:
        UnsupportedError: the template is not valid, or refuses this conversation.
    """
    try:
        return _compiled(template).render(
            messages=[dict(message) for message in messages],
            bos_token=bos_token,
            eos_token=eos_token,
            add_generation_prompt=add_generation_prompt,
            tools=None,
            documents=None,
            strftime_now=(now or datetime.now()).strftime,
        )
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UnsupportedError(
            f"chat template: cannot render a conversation of {roles} ({error}); check the template"
        ) from error


def template_of(folder: Path) -> str | None:
    """The chat template of a model folder: ``chat_template.jinja``, else ``tokenizer_config.json``'s."""
    path = Path(folder) / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    config_path = Path(folder) / "tokenizer_config.json"
    if not config_path.is_file():
        return None
    template = read_json(config_path, "a tokenizer needs it").get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default")
    return template if isinstance(template, str) else None


def read_template(path: Path) -> str:
    """A Jinja chat template from a file of its own.

    Raises:
        BrokenFileError: it is missing, or no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BrokenFileError(f"{path}: cannot be read ({error}); give a file with a Jinja chat template") from error


def text_after_answer(template: str, *, bos_token: str = "", eos_token: str = "") -> str:
    """What a template writes after the last answer: the end token, and often a newline."""
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": _SENTINEL}]
    text = render(template, messages, bos_token=bos_token, eos_token=eos_token, add_generation_prompt=False)
    return text.rpartition(_SENTINEL)[2]


class _Generation(jinja2.ext.Extension):
    """``{% generation %} … {% endgeneration %}``: marks an answer for training, renders it as it is."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as an instance attribute

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Replace the block by its body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


@lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment.from_string(template)
