"""What an OpenAI-compatible server sends: a stream of events, or one JSON object; taken apart without trust."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

MOST_BYTES = 64 << 20
"""Of one reply: more is no test file."""
MOST_SHOWN = 300
"""Characters of a server's own words in an error."""


class BrokenReplyError(Exception):
    """A reply that is no answer, and may be one when it is asked for again.

    Attributes:
        ended: whether the server ended a stream of its own accord before the answer was whole.
    """

    def __init__(self, what: str, ended: bool = False) -> None:
        super().__init__(what)
        self.ended = ended


class RefusedError(Exception):
    """The server says in its reply that it will not answer; asking again does not help."""


@dataclass
class Choice:
    """One answer of a reply.

    Attributes:
        text: what has come of it.
        finish: as the server names it; None while it goes on.
        n_pieces: pieces that it came in; about one a token in a stream.
    """

    text: str = ""
    finish: str | None = None
    n_pieces: int = 0


@dataclass
class Reply:
    """What has come so far.

    Attributes:
        choices: by their number.
        n_prompt_tokens: as the server counts them; None where it does not say.
        n_tokens: of all answers together, as above.
        done: whether ``[DONE]`` has come.
    """

    choices: dict[int, Choice] = field(default_factory=dict)
    n_prompt_tokens: int | None = None
    n_tokens: int | None = None
    done: bool = False

    def add_event(self, data: str) -> None:
        """One event of a stream.

        Raises:
            BrokenReplyError: it is no JSON, or not of the protocol's shape.
            RefusedError: it tells of an error that would come again.
        """
        if data.strip() == "[DONE]":
            self.done = True
        else:
            self._add(_object(data), "delta")

    def add_whole(self, body: str) -> None:
        """A reply that is not a stream.

        Raises:
            BrokenReplyError: it is no JSON, or not of the protocol's shape.
            RefusedError: it tells of an error that would come again.
        """
        self._add(_object(body), "message")
        self.done = True
        for choice in self.choices.values():
            choice.finish = choice.finish or "stop"

    def whole(self) -> list[Choice]:
        """The answers in their order, once the reply has ended.

        Raises:
            BrokenReplyError: one of them has not ended, or there is none.
        """
        if not self.choices:
            raise BrokenReplyError("the reply holds no answer", self.done)
        found = [self.choices[number] for number in sorted(self.choices)]
        if any(choice.finish is None for choice in found):
            raise BrokenReplyError("the answer stops in the middle", self.done)
        return found

    def _add(self, value: dict[str, Any], part: str) -> None:
        if value.get("error"):
            _raise_error(value)
        usage = value.get("usage")
        if isinstance(usage, dict):
            self.n_prompt_tokens = _count(usage.get("prompt_tokens"), self.n_prompt_tokens)
            self.n_tokens = _count(usage.get("completion_tokens"), self.n_tokens)
        choices = value.get("choices")
        if not isinstance(choices, list):
            raise BrokenReplyError(f"the reply has no choices ({shortened(json.dumps(value))})")
        for number, entry in enumerate(choices):
            self._add_choice(entry, number, part)

    def _add_choice(self, entry: Any, number: int, part: str) -> None:
        message = entry.get(part) if isinstance(entry, dict) else None
        if not isinstance(message, dict | None) or not isinstance(entry, dict):
            raise BrokenReplyError(f"an answer is not of the protocol's shape ({shortened(json.dumps(entry))})")
        index = entry.get("index", number)
        text, finish = (message or {}).get("content"), entry.get("finish_reason")
        if not isinstance(index, int) or not isinstance(text, str | None) or not isinstance(finish, str | None):
            raise BrokenReplyError(f"an answer is not of the protocol's shape ({shortened(json.dumps(entry))})")
        choice = self.choices.setdefault(index, Choice())
        if text:
            choice.text += text
            choice.n_pieces += 1
        choice.finish = finish or choice.finish


class EventStream:
    """Server-sent events from bytes, however they are cut: the data of each.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[str]:
        """The events that are whole with these bytes; comments, which keep a connection alive, are none."""
        self._buffer += chunk
        found = []
        held = b"\r" if self._buffer.endswith(b"\r") else b""  # its line feed may come with the next bytes
        *lines, self._buffer = re.split(rb"\r\n|\n|\r", self._buffer.removesuffix(held))
        self._buffer += held
        for line in lines:
            text = line.decode("utf-8", errors="replace").removeprefix("\ufeff")
            if not text and self._data:
                found.append("\n".join(self._data))
                self._data = []
            name, _, value = text.partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
        return found

    def rest(self) -> list[str]:
        """The last event of a server that leaves out the empty line at the end."""
        return self.feed(b"\n\n")


def words_of(body: str) -> str:
    """What a server says in an error, in one short line."""
    try:
        value = json.loads(body)
    except ValueError:
        return shortened(re.sub(r"<[^>]*>", " ", body))  # a gateway's page
    return shortened(_message(value) or body)


def parameter_of(body: str) -> str | None:
    """The parameter that an error blames in OpenAI's form; None where it blames none."""
    try:
        value = json.loads(body)
    except ValueError:
        return None
    error = value.get("error") if isinstance(value, dict) else None
    found = error.get("param") if isinstance(error, dict) else None
    return found if isinstance(found, str) else None


def shortened(text: str) -> str:
    """One line without control characters, which a terminal would obey."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= MOST_SHOWN else line[: MOST_SHOWN - 1] + "…"


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenReplyError(f"the reply is no JSON ({shortened(text) or 'empty'})") from error
    if not isinstance(value, dict):
        raise BrokenReplyError(f"the reply is no JSON object ({shortened(text)})")
    return value


def _message(value: Any) -> str | None:
    """OpenAI: ``error.message``; Ollama's own interface: ``error``; FastAPI: ``detail``."""
    if isinstance(value, dict):
        for key in ("error", "message", "detail"):
            if value.get(key):
                return _message(value[key]) or str(value[key])
    return value if isinstance(value, str) else None


def _raise_error(value: dict[str, Any]) -> None:
    """An error inside a reply that began with 200: a client's fault is final, anything else may pass."""
    error, said = value["error"], shortened(_message(value) or "")
    code = error.get("code") if isinstance(error, dict) else None
    if str(code).startswith("4") and str(code) not in ("408", "429"):
        raise RefusedError(said)
    raise BrokenReplyError(f"the server reports an error ({said})")


def _count(value: Any, before: int | None) -> int | None:
    return value if isinstance(value, int) and value >= 0 else before
