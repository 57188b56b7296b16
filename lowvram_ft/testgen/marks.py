"""The first line of a file that testgen wrote: how it is told from what a person wrote, or has edited since."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

_LINE = re.compile(
    r"# Written by lowvram-ft testgen \((?P<model>[^\n]*)\): code (?P<code>\w{12}), file (?P<file>\w{12})\n"
)


@dataclass(frozen=True)
class Mark:
    """What the first line says.

    Attributes:
        model: that wrote the tests.
        code: digest of the module under test as it was.
    """

    model: str
    code: str


def digest(text: str) -> str:
    """Twelve hexadecimal digits of a text's SHA-256, its line ends aside."""
    return hashlib.sha256("\n".join(text.splitlines()).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def marked(body: str, model: str, code: str) -> str:
    """A test file with its first line.

    Args:
        body: the test file.
        model: that wrote it.
        code: text of the module under test.
    """
    name = re.sub(r"[^\w .:/#@+-]+", "-", model)
    return f"# Written by lowvram-ft testgen ({name}): code {digest(code)}, file {digest(body)}\n{body}"


def read_mark(text: str) -> Mark | None:
    """The mark of a file that testgen wrote and nobody has changed since; None for every other file."""
    found = _LINE.match(text.replace("\r\n", "\n"))
    if found is None or digest(text.replace("\r\n", "\n")[found.end() :]) != found["file"]:
        return None
    return Mark(found["model"], found["code"])
