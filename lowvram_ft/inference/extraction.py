"""A test file from a model's answer: raw, in a fenced block, with chatter around it, or cut off at the limit."""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator

_FENCE = re.compile(r"^(?P<indent> *)(?P<mark>`{3,}|~{3,})(?P<info>[^\n`]*)$", re.MULTILINE)
_CODE_START = re.compile(r"^(import |from |def |async def |class |@)", re.MULTILINE)
_STATEMENT = re.compile(r"^(?!(?:else|finally)\s*:|(?:elif|except)\b.*:)[^\s#)\]}]", re.MULTILINE)
_MEMBER = re.compile(r"^[ \t]+(?=[^\s#)\]}])", re.MULTILINE)
_DONE = re.compile(r"(\n\n\n|\n#[^\n]*\n*)\Z")
"""What stands between a function that has ended and the next one."""
_THINKING = re.compile(r"\s*<(think|thinking)>.*?</\1>\s*", re.DOTALL)
_THOUGHT = re.compile(r"</think(?:ing)?>\s*")
_MOST_TRIES = 40
"""Ends or beginnings that are tried in a text that does not parse: long junk costs seconds otherwise."""


def extract_test(answer: str, *, cut_off: bool = False) -> str:
    """The test file in an answer.

    Reasoning in ``<think>`` is left out, a fenced block is unwrapped (the one with the most tests), chatter before the
    first import or definition is dropped, and what does not parse at the end (prose, a test that was cut off) is
    dropped down to the last whole statement, or the last whole method of a class. Nothing is added and nothing inside
    is changed. Never raises.

    Args:
        answer: what the model wrote.
        cut_off: whether it was stopped at the limit of tokens: then a last function that parses may be half a one, and
            is left out as well.

    Returns:
        A file that parses, or the answer as it is where no part of it does.
    """
    text = answer.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    found = _raw(text, cut_off)
    if not found:
        text = _without_thoughts(text)
        found = _raw(text, cut_off) or _fenced(text, cut_off) or _somewhere(text, cut_off)
    return _ended(found) if found else answer.strip() + "\n"


def _ended(file: str) -> str:
    """A file that parses, with one line break at its end, and without a backslash there that continues nothing."""
    stripped = file.strip("\n") + "\n"
    return stripped if _parses(stripped) else file.strip("\n").rstrip("\\ \t\n") + "\n"


def _raw(text: str, cut_off: bool) -> str:
    """The text itself, where it is a file and nothing else: fences and tags in it are in its strings."""
    return _whole(text, cut_off) if _CODE_START.search(text) and _parses(text) else ""


def _without_thoughts(text: str) -> str:
    """The text after the reasoning; its opening tag may stand in the prompt. Reasoning that never ends is no answer."""
    closed = _THINKING.match(text)
    if closed is not None:
        return _without_thoughts(text[closed.end() :])
    if text.lstrip().startswith(("<think>", "<thinking>")):
        return ""
    end = _THOUGHT.search(text)
    return text[end.end() :] if end is not None and "<think" not in text[: end.start()] else text


def _fenced(text: str, cut_off: bool) -> str:
    """The file in the fenced block with the most tests, the later one of two with as many; empty without any."""
    files = [_somewhere(body, cut_off and not closed) for body, closed in _blocks(text)]
    return max(reversed(files), key=_n_tests, default="")


def _blocks(text: str) -> Iterator[tuple[str, bool]]:
    """The fenced blocks of a text, and whether each is closed.

    Each reaches to the last closing fence up to which it parses, else to the first: a fence may stand in a string.
    """
    position = 0
    fences = list(_FENCE.finditer(text))
    for number, opening in enumerate(fences[: 4 * _MOST_TRIES]):
        if opening.start() < position:
            continue
        start = opening.end() + 1
        ends = [fence.start() for fence in fences[number + 1 :] if _closes(fence, opening)]
        tried = ends[:1] + ends[1:][-_MOST_TRIES:]
        end = next((end for end in reversed(tried) if _parses(_dedent(text[start:end], opening))), None)
        end = end if end is not None else ends[0] if ends else len(text)
        yield _dedent(text[start:end], opening), bool(ends)
        line_end = text.find("\n", end)
        position = line_end if line_end >= 0 else len(text)


def _closes(fence: re.Match[str], opening: re.Match[str]) -> bool:
    return not fence["info"].strip() and fence["mark"].startswith(opening["mark"])


def _dedent(body: str, opening: re.Match[str]) -> str:
    """A block of a list item stands as far to the right as its fence."""
    return textwrap.dedent(body) if opening["indent"] else body


def _somewhere(text: str, cut_off: bool) -> str:
    """The file in a text, with prose before it or behind it: the first beginning from which a statement is whole."""
    if found := _whole(text, cut_off):
        return found
    for number, start in enumerate(_CODE_START.finditer(text)):  # prose may begin with "from" or "import" as well
        if number == _MOST_TRIES:
            break
        if found := _whole(text[start.start() :], cut_off):
            return found
    return ""


def _whole(text: str, cut_off: bool) -> str:
    """The longest beginning of whole statements, without words at either end that only look like one."""
    parts = _statements(text)
    end = parts[-1][1] if parts else 0
    rest = text[end:]
    if cut_off and parts and not rest.strip() and not _DONE.search(text):
        end = parts.pop()[0]
        rest = text[end:]
    kept = _members(rest)
    if kept:
        parts.append((end, end + len(kept)))
    first = parts[0] if parts else None
    while parts and _is_noise(text[slice(*parts[0])]):
        parts.pop(0)
    while parts and _is_noise(text[slice(*parts[-1])]):
        parts.pop()
    if not parts:
        return ""
    begins = [0, parts[0][0]] if parts[0] == first else [parts[0][0]]  # comments may stand before the first statement
    found = [text[begin : parts[-1][1]] for begin in begins]
    return next((file for file in found if _CODE_START.search(file) and _parses(file)), "")


def _statements(text: str) -> list[tuple[int, int]]:
    """Where the whole top-level statements at the beginning of a text stand; ends at the first that does not parse."""
    starts = [match.start() for match in _STATEMENT.finditer(text)]
    ends = [*starts[1:], len(text)]
    parts = []
    number = 0
    while number < len(starts):
        tried = range(number, min(number + _MOST_TRIES, len(starts)))  # a string may hold what looks like a beginning
        last = next((i for i in tried if _parses(text[starts[number] : ends[i]])), None)
        if last is None:
            break
        parts.append((starts[number], ends[last]))
        number = last + 1
    return parts


def _members(rest: str) -> str:
    """What is whole of a class that was cut off: the class up to its last whole test; empty without one."""
    if not rest.lstrip().startswith(("class ", "@")):
        return ""
    for end in [member.start() for member in _MEMBER.finditer(rest)][: -_MOST_TRIES - 1 : -1]:
        tree = _tree(rest[:end])
        if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], ast.ClassDef):
            continue
        body = tree.body[0].body
        indent = len(rest[end:]) - len(rest[end:].lstrip(" \t"))
        if indent == body[0].col_offset and any(
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in body
        ):
            return rest[:end]
    return ""


def _is_noise(part: str) -> bool:
    """Whether a statement is a word or two of prose: ``Done``, ``Note: this``."""
    tree = _tree(part)
    node = tree.body[0] if tree is not None and tree.body else None
    if isinstance(node, ast.AnnAssign):
        return node.value is None
    return isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call | ast.Constant | ast.Await)


def _n_tests(text: str) -> int:
    return len(re.findall(r"^\s*(?:async )?def test", text, re.MULTILINE))


def _parses(text: str) -> bool:
    return _tree(text) is not None


def _tree(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in the answer is the answer's
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
