"""Cut pytest's output down to what a reader, or a model with a short context, can use."""

from __future__ import annotations

import re

LOG_CHARS = 2000
"""How long the failure log of a verdict may be, about 600 tokens."""

_SECTION = re.compile(r"^_{3,} (?P<name>.+?) _{3,}$")
_RULE = re.compile(r"^=+(?: (?P<title>.+?) =+)?$")
_CAPTURED = re.compile(r"^-{3,} .+ -{3,}$")
_FRAME = re.compile(r"^(?P<file>[^\s:]+):\d+: (?:in )?\S")
_MAX_E_LINES = 8


def trim_log(log: str, max_chars: int = LOG_CHARS) -> str:
    """The failures of pytest's output: test names, the failing line, the ``E`` lines, the summary.

    Progress dots, headers, warnings and captured output go; a log that is short enough after that keeps
    its tracebacks, a longer one only their last frame, and failures at the end give way to a count.

    Args:
        log: what pytest printed, best with ``--tb=short``.
        max_chars: upper bound for the length of the answer.
    """
    sections, summary = _split(log)
    if not sections and not summary:
        return _cut(log.strip(), max_chars)
    whole = "\n".join(line for section in sections for line in section)
    text = "\n".join(part for part in (whole, *summary) if part)
    if len(text) <= max_chars:
        return text
    kept: list[str] = []
    used = 0
    short = ["\n".join(_last_frame(section)) for section in sections]
    for position, section_text in enumerate(short):
        note = f"... and {len(short) - position} more failures"
        if kept and used + len(section_text) + len(note) + 2 > max_chars:
            kept.append(note)
            break
        kept.append(section_text)
        used += len(section_text) + 1
    for line in summary:
        if used + len(line) + 40 > max_chars:
            break
        kept.append(line)
        used += len(line) + 1
    return _cut("\n".join(kept), max_chars)


def _split(log: str) -> tuple[list[list[str]], list[str]]:
    """One list of lines for each failure, and the lines of the short summary."""
    sections: list[list[str]] = []
    summary: list[str] = []
    target: list[str] | None = None
    for line in log.splitlines():
        rule = _RULE.match(line)
        if rule:
            title = rule["title"] or ""
            target = summary if title.startswith("short test summary") else None
            continue
        if _SECTION.match(line):
            target = [line]
            sections.append(target)
        elif _CAPTURED.match(line) or (target is summary and not line.startswith(("FAILED", "ERROR"))):
            target = None
        elif target is not None and line.strip():
            target.append(line)
    return sections, summary


def _last_frame(section: list[str]) -> list[str]:
    """Heading, last frame in the test file or else the last one at all, and the first ``E`` lines."""
    frames = [at for at, line in enumerate(section) if _FRAME.match(line)]
    in_test = [at for at in frames if section[at].startswith("test_")]
    start = (in_test or frames or [0])[-1]
    frame = section[start : start + 1] if start else []
    for line in section[start + 1 :] if start else []:
        if not line.startswith("    "):
            break
        frame.append(line)
    errors = [line for line in section if line.startswith("E")]
    return [section[0], *frame, *errors[:_MAX_E_LINES]]


def _cut(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    mark = "\n[...]\n"
    if max_chars <= len(mark) + 2:
        return text[:max_chars]
    head = (max_chars - len(mark)) // 2
    return text[:head] + mark + text[len(text) - (max_chars - len(mark) - head) :]
