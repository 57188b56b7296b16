"""Write a test file as its project does: tests in a class, the usual quotation mark."""

from __future__ import annotations

import ast
import io
import re
import tokenize

from lowvram_ft.data.syntax import parse

_PLAIN_STRING = re.compile(r"""(?s)([rRuUbBfF]*)(["'])([^"'\\{}\n]*)\2""")


def grouped(test: str, name: str) -> str:
    """The tests of a file in one class; the file as it is where they are in classes already, or cannot be moved.

    A string of several lines would be indented with its test, so a file with one in a test is left alone.

    Args:
        test: a test file.
        name: of the class, such as ``TestReader``.
    """
    tree = ast.parse(test)
    names = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    tests = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test")
    ]
    if not tests or name in names or any(_has_long_string(node) for node in tests):
        return test
    if any(arg.arg == "self" for node in tests for arg in node.args.posonlyargs + node.args.args):
        return test
    lines = test.splitlines(keepends=True)
    moved = []
    for node in tests:
        start = min([node.lineno, *(part.lineno for part in node.decorator_list)]) - 1
        end = node.end_lineno or node.lineno
        own = lines[start:end]
        head = node.lineno - 1 - start
        own[head] = re.sub(r"(def\s+\w+\s*\()(\s*)(\))?", _with_self, own[head], count=1)
        moved.append("".join("    " + line if line.strip() else line for line in own).rstrip("\n") + "\n")
        for number in range(start, end):
            lines[number] = ""
    rest = re.sub(r"\n{4,}", "\n\n\n", "".join(lines)).rstrip() + "\n"
    text = f"{rest}\n\nclass {name}:\n" + "\n".join(moved)
    after = parse(text)
    return text if after is not None and len(ast.dump(after)) > len(ast.dump(tree)) else test


def _with_self(found: re.Match[str]) -> str:
    return f"{found[1]}self)" if found[3] else f"{found[1]}self, {found[2]}"


def _has_long_string(node: ast.AST) -> bool:
    return any(
        isinstance(part, ast.Constant | ast.JoinedStr) and (part.end_lineno or part.lineno) > part.lineno
        for part in ast.walk(node)
    )


def quoted(test: str, quote: str) -> str:
    """The plain strings of a file in the usual quotation mark; those with quotes, escapes or braces stay as they are.

    Args:
        test: a test file.
        quote: ``"`` or ``'``.
    """
    lines = test.splitlines(keepends=True)
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(test).readline) if token.type == tokenize.STRING]
    for token in reversed(tokens):
        found = _PLAIN_STRING.fullmatch(token.string)
        if found is None or found[2] == quote or token.start[0] != token.end[0]:
            continue
        line = lines[token.start[0] - 1]
        new = f"{found[1]}{quote}{found[3]}{quote}"
        lines[token.start[0] - 1] = line[: token.start[1]] + new + line[token.end[1] :]
    return "".join(lines)
