"""A test file from a model's answer: raw, in a fenced block, with chatter around it, or cut off at the limit."""

from __future__ import annotations

import ast
import re

_OPENING = re.compile(r"^```[a-zA-Z0-9_+-]*[ \t]*\n", re.MULTILINE)
_CLOSING = re.compile(r"^```[ \t]*$", re.MULTILINE)
_CODE_START = re.compile(r"^(import |from |def |async def |class |@)", re.MULTILINE)
_TOP_LEVEL = re.compile(r"^[^\s#)\]}]", re.MULTILINE)


def extract_test(answer: str) -> str:
    """The test file in an answer.

    A fenced block is unwrapped (the one with the most tests), chatter before the first import or definition is
    dropped, and what does not parse at the end (prose, a test that was cut off) is dropped down to the last whole
    top-level statement. Nothing is added and nothing inside is changed.

    Args:
        answer: what the model wrote.

    Returns:
        A file that parses, or the answer as it is where no part of it does.
    """
    text = answer.replace("\r\n", "\n")
    first = _CODE_START.search(text)
    if first is not None and _parses(text[first.start() :]):  # raw: fences in it are in its strings
        return text[first.start() :].rstrip() + "\n"
    blocks = _blocks(text)
    if blocks:
        text = max(blocks, key=lambda block: block.count("def test"))
    for start in _CODE_START.finditer(text):  # prose may begin with "from" or "import" as well
        part = _whole_statements(text[start.start() :])
        if part:
            return part.rstrip() + "\n"
    return answer.strip() + "\n"


def _blocks(text: str) -> list[str]:
    """The fenced blocks of a text, each to the last closing fence up to which it parses, else to the first."""
    blocks = []
    position = 0
    while opening := _OPENING.search(text, position):
        start = opening.end()
        ends = [match.start() for match in _CLOSING.finditer(text, start)] or [len(text)]
        end = next((end for end in reversed(ends) if _parses(text[start:end])), ends[0])
        blocks.append(text[start:end])
        line_end = text.find("\n", end)
        position = line_end if line_end >= 0 else len(text)
    return blocks


def _whole_statements(body: str) -> str:
    """The longest beginning that parses, in whole top-level statements; empty where there is none."""
    ends = [len(body), *reversed([match.start() for match in _TOP_LEVEL.finditer(body)])]
    return next((body[:end] for end in ends if body[:end].strip() and _parses(body[:end])), "")


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
