"""The pages read the same on a code host and on the site, and the site builds without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
TAGS = ("li", "ul", "ol", "table", "tr", "td", "pre", "h1", "h2", "h3", "h4", "a", "strong", "em", "blockquote", "img")
markdown = pytest.importorskip("markdown", reason="the extra docs is not installed")
pytest.importorskip("pymdownx", reason="the extra docs is not installed")


def tags(html: str) -> dict[str, int]:
    return {tag: len(re.findall(rf"<{tag}[ >]", html)) for tag in TAGS}


def differences(text: str) -> dict[str, tuple[int, int]]:
    """Elements whose number differs between CommonMark with tables, and the site's Markdown."""
    host = tags(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    extensions = ["tables", "attr_list", "toc", "pymdownx.superfences"]
    site = tags(markdown.markdown(text, extensions=extensions))
    return {tag: (host[tag], site[tag]) for tag in TAGS if host[tag] != site[tag]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_the_same_elements_on_a_code_host_and_on_the_site(page: Path) -> None:
    assert differences(page.read_text(encoding="utf-8")) == {}


@pytest.mark.parametrize(
    "text",
    ["Words:\n- a\n- b\n", "- a\n\n  ```ini\n  x\n  ```\n- b\n"],
    ids=["list without a blank line", "fence of two spaces in a list"],
)
def test_what_only_one_of_them_understands_is_found(text: str) -> None:
    assert differences(text)


def test_the_pages_use_no_syntax_of_one_generator() -> None:
    for page in PAGES:
        text = re.sub(r"(?ms)^ *```.*?^ *```$|`[^`]*`", "", page.read_text(encoding="utf-8"))
        found = re.search(r"^(!!!|\?\?\?|===|:::)|\{:? ?[.#][\w-]+|\{\{|\[\[\w", text, re.MULTILINE)
        assert found is None, f"{page.name}: {found and found[0]}"


def build(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    # not --quiet: what is not logged is not counted by --strict
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(folder / "mkdocs.yml"), "-d", str(site)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the extra docs is not installed")
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert {page.stem for page in PAGES} - {"index"} <= {path.name for path in (tmp_path / "site").iterdir()}
    errors = (tmp_path / "site" / "errors" / "index.html").read_text(encoding="utf-8")
    assert 'id="recipeerror"' in errors, "the anchor that messages name"
    home = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "https://github.com/lowvram-ft/lowvram-ft/blob/main/CONTRIBUTING.md" in home
    assert 'href="../' not in re.sub(r'href="\.\./?"', "", home)


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the extra docs is not installed")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# A\n\n[b](b.md#none)\n")
    (tmp_path / "docs" / "b.md").write_text("# B\n")
    settings = re.sub(r"(?ms)^(nav|hooks|plugins):.*?(?=^\S|\Z)", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    (tmp_path / "mkdocs.yml").write_text(settings)
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0 and "does not contain an anchor" in done.stderr + done.stdout
