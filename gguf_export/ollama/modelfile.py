"""A Modelfile for Ollama whose Go template renders what the Jinja template renders.

The Jinja template is not translated but *probed* (``template_shape``): what literal text it puts around each message
is found out, and written as a Go template under the rules by which Ollama fills it (``template/template.go``):
``.System`` holds the system text, ``.Messages`` all messages, neighbours of one role made one. What Go's templates
cannot say, stripping white space for one, is said in a comment; what they cannot come near to is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

from ..errors import UnsupportedError
from .template_shape import DATE, TemplateShape, probe

_MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def modelfile(
    gguf_name: str,
    *,
    chat_template: str,
    eos_tokens: Sequence[str],
    num_ctx: int,
    system: str | None = None,
    bos_token: str = "",
    add_bos: bool = False,
    adapter_name: str | None = None,
    license_text: str | None = None,
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
        adapter_name: a LoRA GGUF beside the Modelfile; ``gguf_name`` is then its base.
        license_text: what Ollama shows as the model's licence.

    Returns:
        The text of the Modelfile.

    Raises:
        UnsupportedError: the template cannot be expressed in Go's, or a text cannot be quoted.
    """
    shape = probe(chat_template, bos_token=bos_token, eos_token=eos_tokens[0] if eos_tokens else "")
    if system is None:
        system = shape.default_system
    elif system and shape.system is None:
        raise UnsupportedError("chat template: takes no system message; leave the system text out")
    lines = [f"FROM ./{gguf_name}"]
    if adapter_name is not None:
        lines.append(f"ADAPTER ./{adapter_name}")
    if shape.trims:
        whose = " and ".join(sorted(shape.trims))
        lines.append(f"# The trained template strips white space around {whose} messages; Go's cannot: send none.")
    if shape.date_format is not None:
        lines.append("# The trained template writes the day: this needs an Ollama that knows currentDate.")
    lines.append(f"TEMPLATE {_block(_go_template(shape, bos_token if add_bos else ''))}")
    if system:
        lines.append(f"SYSTEM {_block(system)}")
    lines += [f"PARAMETER stop {_quoted(token)}" for token in dict.fromkeys(eos_tokens)]
    lines.append(f"PARAMETER num_ctx {num_ctx}")
    if license_text:
        lines.append(f"LICENSE {_block(license_text)}")
    return "\n".join(lines) + "\n"


def _go_template(shape: TemplateShape, added: str) -> str:
    """The Go template: ``.System`` holds the system text, ``.Messages`` the turns."""

    def go(literal: str) -> str:
        return _dated(literal, shape.date_format)

    opening = go(_without_bos(shape.without_system, added))
    loop, user_before = "range .Messages", go(shape.user[0])
    if shape.system is not None:
        before, after = shape.system
        if shape.system_place == "opening":
            around = f"{go(_without_bos(before, added))}{{{{ .System }}}}{go(after)}"
            opening = f"{{{{ if .System }}}}{around}{{{{ else }}}}{opening}{{{{ end }}}}"
        elif shape.system_place == "first_user":
            opening += "{{ $system := .System }}"
            around = f'{go(before)}{{{{ $system }}}}{go(after)}{{{{ $system = "" }}}}'
            user_before = f"{{{{ if $system }}}}{around}{{{{ else }}}}{user_before}{{{{ end }}}}"
        else:
            loop = "range $i, $_ := .Messages"
            around = f"{go(before)}{{{{ $.System }}}}{go(after)}"
            is_last = "if and $.System (eq (len (slice $.Messages $i)) 1)"
            user_before = f"{{{{ {is_last} }}}}{around}{{{{ else }}}}{user_before}{{{{ end }}}}"
    user = f"{user_before}{{{{ .Content }}}}{go(shape.user[1])}"
    assistant = f"{go(shape.assistant[0])}{{{{ .Content }}}}{go(shape.assistant[1])}"
    return (
        f'{opening}{{{{ {loop} }}}}{{{{ if eq .Role "user" }}}}{user}'
        f'{{{{ else if eq .Role "assistant" }}}}{assistant}{{{{ end }}}}{{{{ end }}}}{go(shape.generation)}'
    )


def _dated(literal: str, date_format: str | None) -> str:
    if date_format is None:
        return _go(literal)
    return _go_date(date_format).join(map(_go, literal.split(DATE)))


def _go_date(date_format: str) -> str:
    """The day in a form of ``strftime``, cut out of Ollama's ``currentDate``, which is ``2006-01-02``."""
    if date_format == "%Y-%m-%d":
        return "{{ currentDate }}"
    parts = []
    for piece in re.split("(%.)", date_format):
        if piece in ("%b", "%B"):
            names = [month[:3] if piece == "%b" else month for month in _MONTHS]
            cases = [f'if eq (slice currentDate 5 7) "{number:02}" }}}}{name}' for number, name in enumerate(names, 1)]
            parts.append("{{ " + "{{ else ".join(cases) + "{{ end }}")
        elif piece in ("%d", "%Y"):
            parts.append("{{ slice currentDate 8 10 }}" if piece == "%d" else "{{ slice currentDate 0 4 }}")
        else:
            parts.append(_go(piece))
    return "".join(parts)


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


def _quoted(token: str) -> str:
    """A stop token in the quotes that Ollama takes off; it knows no escapes in them."""
    if '"' in token or "\n" in token:
        raise UnsupportedError(
            f"Modelfile: the end token {token!r} cannot be written as a stop parameter; give another"
        )
    return f'"{token}"'


def _without_bos(text: str, added: str) -> str:
    if not text.startswith(added):
        raise UnsupportedError(
            f"chat template: does not begin with {added!r}, which the file makes llama.cpp add; "
            "export with a template that begins with it"
        )
    return text[len(added) :]
