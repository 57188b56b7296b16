"""Write the generated parts of the docs anew, or check that they are what the code says.

    python docs/generate.py           rewrites what stands between the markers
    python docs/generate.py --check   exits 1 where something is stale, a link is broken, or something is undocumented

A generated part stands between ``<!-- generated: NAME -->`` and ``<!-- end generated -->``; `blocks.BLOCKS` says what
makes each. Nothing outside the markers is touched.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from blocks import BLOCKS, commands, error_classes
from pictures import stale_pictures

from lowvram_ft.evaluation.metrics import AMOUNTS, ERRORS, METRICS

DOCS = Path(__file__).resolve().parent
BLOCK = re.compile(r"(?ms)^<!-- generated: (?P<name>[\w-]+) -->\n(?P<body>.*?)^<!-- end generated -->$")
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"(?ms)^ *```.*?^ *```$")
FOLDERS = ("lowvram_ft", "gguf_export", "tests", "benchmarks", "recipes", "docs", "scripts")
PATH = re.compile(rf"`(?P<path>(?:{'|'.join(FOLDERS)})/[\w./-]*)[^`]*`")


def refresh(text: str) -> str:
    """A page with its generated blocks made anew.

    Raises:
        ValueError: a block has a name that nothing makes.
    """

    def made(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in BLOCKS:
            raise ValueError(f"generated: {name}: nothing makes this block; use one of {', '.join(BLOCKS)}")
        return f"<!-- generated: {name} -->\n\n{BLOCKS[name]()}\n<!-- end generated -->"

    return BLOCK.sub(made, text)


def stale(pages: Sequence[Path]) -> list[str]:
    """A diff for each page whose generated blocks are not what the code says."""
    found = []
    for page in pages:
        old = page.read_text(encoding="utf-8")
        if (new := refresh(old)) != old:
            name = page.name
            lines = difflib.unified_diff(old.splitlines(), new.splitlines(), name, f"{name} (as the code says)", n=1)
            found.append("\n".join(lines))
    return found


def broken_links(pages: Sequence[Path]) -> list[str]:
    """Relative links that lead nowhere: no such file, or no such heading in it."""
    found = []
    for page in pages:
        for match in LINK.finditer(FENCE.sub("", page.read_text(encoding="utf-8"))):
            file, _, anchor = match["target"].partition("#")
            if re.match(r"[a-z]+:", file):
                continue
            target = page.parent / file if file else page
            if not target.exists():
                found.append(f"{page.name}: {match['target']}: no such file; mend the link")
            elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
                found.append(f"{page.name}: {match['target']}: no such heading; mend the link")
    return found


def missing_paths(pages: Sequence[Path], root: Path = DOCS.parent) -> list[str]:
    """Paths of the project that a page names, and that are not there; ``NAME`` stands for any name.

    The changelog and the log tell of the past, and may name what is gone.
    """
    found = []
    for page in pages:
        for match in PATH.finditer(page.read_text(encoding="utf-8")):
            path = match["path"].rstrip(".")
            if "NAME" in path or page.name in ("CHANGELOG.md", "log.md"):
                continue
            if not (root / path).exists():
                found.append(f"{page.name}: {path}: no such file; mend the path")
    return found


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def undocumented(docs: Path = DOCS) -> list[str]:
    """Commands, errors and metrics that the page meant for them does not name, and pages that the map leaves out."""
    wanted = {
        "cli.md": [f"## {name}\n" for name, _ in commands()],
        "errors.md": [f"### {kind.__name__}\n" for classes in error_classes().values() for kind in classes],
        "evaluation.md": [f"`{metric}`" for metric in (*METRICS, *ERRORS, *AMOUNTS, "pass@1", "pass@3")],
        "index.md": [f"({page.name})" for page in sorted(docs.glob("*.md")) if page.name != "index.md"],
    }
    pages = [*sorted(docs.glob("*.md")), docs.parent / "README.md"]
    written = {page: page.read_text(encoding="utf-8") for page in pages}
    navigation = (docs.parent / "mkdocs.yml").read_text(encoding="utf-8")
    by_hand = "".join(BLOCK.sub("", text) for text in written.values())
    return [
        *(
            f"{page}: {name.strip('#`() ').strip()} is not documented; name it there"
            for page, names in wanted.items()
            for name in names
            if name not in written[docs / page]
        ),
        *(f"{name}: no page tells what it is for; show it in one" for name, _ in commands() if name not in by_hand),
        *(
            f"mkdocs.yml: {page.name} has no place in the navigation; give it one"
            for page in pages
            if page.parent == docs and f": {page.name}\n" not in navigation
        ),
    ]


def main(arguments: Sequence[str]) -> int:
    """Rewrite the pages, or check them; the exit code."""
    pages = sorted(DOCS.glob("*.md"))
    if "--check" not in arguments:
        for page in pages:
            page.write_text(refresh(page.read_text(encoding="utf-8")), encoding="utf-8")
    linked = [*pages, *sorted(DOCS.parent.glob("*.md"))]
    problems = [*stale(pages), *stale_pictures(), *broken_links(linked), *missing_paths(linked), *undocumented()]
    for problem in problems:
        print(problem)
    if problems:
        print(f"docs: {len(problems)} problems; python docs/generate.py mends what is stale", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
