"""What a Jinja chat template does, found out by rendering it: the literal text around each message.

The template is not read but *probed*: rendered with sentinels in the place of each message. What comes out is put
together again and compared with Jinja on whole conversations; a template that does more than put text around messages
is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, Protocol

from ..errors import UnsupportedError
from ..vocabulary.templates import Message, render

_SYSTEM, _USER, _ASSISTANT, _AGAIN = (f"zq{name}qz" for name in ("SYSTEM", "USER", "ASSISTANT", "AGAIN"))
DATE: Final = "zqDATEqz"
"""Stands for the day in the literal texts of a shape."""

_DATE_FORMATS: Final = ("%d %b %Y", "%Y-%m-%d", "%d %B %Y", "%B %d, %Y", "%b %d, %Y")
_DAYS: Final = (datetime(2001, 2, 3), datetime(2031, 11, 22))

_ELSEWHERE: Final = "it cannot be written as a Modelfile: use the GGUF, which holds the Jinja template"

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

    def __call__(self, messages: Sequence[Message], generation: bool = False) -> str: ...


@dataclass(frozen=True)
class TemplateShape:
    """The literal text that a chat template puts around messages.

    Attributes:
        without_system: what opens a conversation that has no system message.
        system: before and after the system text; ``None`` where the template takes none.
        system_place: where it goes: before all messages (``system`` then stands in the place of
            ``without_system``), or into the first or the last message (then in the place of what is before a user
            message).
        user: before and after a user message.
        assistant: before and after an assistant message.
        generation: what introduces an answer.
        default_system: the system text that the template inserts by itself, if any.
        trims: the roles whose messages the template strips of white space.
        date_format: how `DATE`, in any of these texts, is written (``strftime``); ``None`` where no day is.
    """

    without_system: str
    system: tuple[str, str] | None
    system_place: Literal["opening", "first_user", "last"]
    user: tuple[str, str]
    assistant: tuple[str, str]
    generation: str
    default_system: str | None
    trims: frozenset[str]
    date_format: str | None

    def compose(self, messages: Sequence[Message], now: datetime | None = None) -> str:
        """Render a conversation and the generation prompt from the parts.

        Raises:
            UnsupportedError: there is a system message, and the template takes none.
        """
        turns = [(m["role"], m["content"].strip() if m["role"] in self.trims else m["content"]) for m in messages]
        system = turns.pop(0)[1] if turns and turns[0][0] == "system" else None
        if system is not None and self.system is None:
            raise UnsupportedError("chat template: takes no system message; leave the system text out")
        around = "" if self.system is None or system is None else f"{self.system[0]}{system}{self.system[1]}"
        opening = around if around and self.system_place == "opening" else self.without_system
        place = {"first_user": 0, "last": len(turns) - 1}.get(self.system_place) if around else None
        parts = [opening]
        for index, (role, content) in enumerate(turns):
            before, after = self.user if role == "user" else self.assistant
            parts += [around if index == place and role == "user" else before, content, after]
        text = "".join([*parts, self.generation])
        return text.replace(DATE, (now or datetime.now()).strftime(self.date_format)) if self.date_format else text


def probe(template: str, *, bos_token: str = "", eos_token: str = "") -> TemplateShape:
    """Find the shape of a Jinja chat template.

    Raises:
        UnsupportedError: the template does more than put text around messages.
    """
    first, answer, again = (
        {"role": role, "content": text} for role, text in (("user", _USER), ("assistant", _ASSISTANT), ("user", _AGAIN))
    )
    date_format = _date_format(
        [render(template, [first], bos_token=bos_token, eos_token=eos_token, now=day) for day in _DAYS]
    )

    def jinja(messages: Sequence[Message], generation: bool = False) -> str:
        text = render(
            template,
            messages,
            bos_token=bos_token,
            eos_token=eos_token,
            add_generation_prompt=generation,
            now=_DAYS[0],
        )
        return text.replace(_DAYS[0].strftime(date_format), DATE) if date_format else text

    opening, user_after = _cut(jinja([first]), _USER)
    _, rest = _cut(jinja([first, answer, again]), _USER)
    before_answer, rest = _cut(rest, _ASSISTANT)
    between, _ = _cut(rest, _AGAIN)
    _, answer_after = _cut(jinja([first, answer]), _ASSISTANT)
    assistant_before = _without(before_answer, prefix=user_after)
    user_before = _without(between, prefix=answer_after)
    without_system = _without(opening, suffix=user_before)
    generation = _without(jinja([first], generation=True), prefix=jinja([first]))
    system, place = _probe_system(jinja, [first, answer, again], without_system, user_before, answer_after)
    default = None
    starts = system is not None and place == "opening"
    if starts and system and without_system.startswith(system[0]) and without_system.endswith(system[1]):
        default = without_system[len(system[0]) : len(without_system) - len(system[1])] or None
    if default is not None and DATE in default:
        default = None  # a SYSTEM text cannot name the day; the template does where none is given
    shape = TemplateShape(
        without_system=without_system,
        system=system,
        system_place=place,
        user=(user_before, user_after),
        assistant=(assistant_before, answer_after),
        generation=generation,
        default_system=default,
        trims=_trims(jinja, takes_system=system is not None),
        date_format=date_format,
    )
    _require_same(shape, jinja)
    return shape


def _date_format(texts: Sequence[str]) -> str | None:
    """How a template writes the day; ``None`` where it does not."""
    if texts[0] == texts[1]:
        return None
    for known in _DATE_FORMATS:
        without = {text.replace(day.strftime(known), DATE) for text, day in zip(texts, _DAYS, strict=True)}
        if len(without) == 1:
            return known
    raise UnsupportedError(
        "chat template: writes today's date in a form that a Modelfile cannot; use the GGUF, which holds the "
        "Jinja template, or export with a template that has no date"
    )


def _probe_system(
    jinja: _Jinja, turns: Sequence[Message], without_system: str, user_before: str, answer_after: str
) -> tuple[tuple[str, str] | None, Literal["opening", "first_user", "last"]]:
    """What is before and after the system text, and where that goes."""
    try:
        text = jinja([{"role": "system", "content": _SYSTEM}, *turns])
    except UnsupportedError:
        return None, "opening"
    if _SYSTEM not in text:
        return None, "opening"
    before, after = _cut(text, _SYSTEM)
    if _ASSISTANT in before:
        own = _without(_cut(before, _ASSISTANT)[1], prefix=answer_after)
        return (own, _cut(after, _AGAIN)[0]), "last"
    between = _cut(after, _USER)[0]
    if between.endswith(user_before):
        return (before, _without(between, suffix=user_before)), "opening"
    return (_without(before, prefix=without_system), between), "first_user"


def _trims(jinja: _Jinja, *, takes_system: bool) -> frozenset[str]:
    """The roles whose messages come out the same with white space around them."""
    turns = [("user", _USER), ("assistant", _ASSISTANT), ("user", _AGAIN)]

    def is_trimmed(role: str) -> bool:
        every = [("system", _SYSTEM), *turns] if role == "system" else turns
        plain = [{"role": name, "content": text} for name, text in every]
        wide = [{"role": name, "content": f" \n{text}\n " if name == role else text} for name, text in every]
        return jinja(plain) == jinja(wide)

    roles = ("system", "user", "assistant") if takes_system else ("user", "assistant")
    return frozenset(filter(is_trimmed, roles))


def _require_same(shape: TemplateShape, jinja: _Jinja) -> None:
    for index, roles in enumerate(_ROLES):
        if shape.system is None and "system" in roles:
            continue
        for shift in range(len(_CONTENTS)):
            messages = [
                {"role": role, "content": _CONTENTS[(index + shift + place) % len(_CONTENTS)]}
                for place, role in enumerate(roles)
            ]
            # White space at one end alone shows a template that strips only that one.
            for message in messages:
                if message["role"] in shape.trims:
                    continue
                message["content"] = f"\n {message['content']}" if shift % 2 else f"{message['content']} \n"
            whole = jinja(messages, generation=True)
            composed = shape.compose(messages, _DAYS[0])
            if shape.date_format:
                composed = composed.replace(_DAYS[0].strftime(shape.date_format), DATE)
            if composed != whole:
                raise UnsupportedError(
                    f"chat template: a conversation of {', '.join(roles)} comes out differently when "
                    f"composed of its parts; {_ELSEWHERE}"
                )


def _cut(text: str, sentinel: str) -> tuple[str, str]:
    if text.count(sentinel) != 1:
        raise UnsupportedError(
            f"chat template: repeats, drops or changes a message ({text.count(sentinel)} times in its "
            f"output); {_ELSEWHERE}"
        )
    before, _, after = text.partition(sentinel)
    return before, after


def _without(text: str, prefix: str = "", suffix: str = "") -> str:
    if not (text.startswith(prefix) and text.endswith(suffix) and len(text) >= len(prefix) + len(suffix)):
        raise UnsupportedError(
            f"chat template: the text around a message depends on its place in the conversation; {_ELSEWHERE}"
        )
    return text[len(prefix) : len(text) - len(suffix)]
