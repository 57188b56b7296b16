"""A test file from a model's answer: raw, in a fenced block, with chatter around it, or cut off at the limit."""

from __future__ import annotations

import ast
import re

_FENCE = re.compile(r"^```[a-zA-Z0-9_+-]*[ \t]*\n(.*?)(?:^```|\Z)", re.DOTALL | re.MULTILINE)
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
    blocks = [match.group(1) for match in _FENCE.finditer(text)]
    if blocks:
        text = max(blocks, key=lambda block: block.count("def test"))
    start = _CODE_START.search(text)
    if start is None:
        return answer.strip() + "\n"
    body = text[start.start() :].rstrip() + "\n"
    ends = [len(body), *reversed([match.start() for match in _TOP_LEVEL.finditer(body)])]
    for end in ends:
        part = body[:end].rstrip()
        if part and _parses(part):
            return part + "\n"
    return answer.strip() + "\n"


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
