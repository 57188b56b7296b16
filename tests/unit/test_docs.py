"""The docs are what the code says, and the check that holds them to it can fail."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def generate():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)  # as where it is run as a script
        yield importlib.import_module("generate")
    for name in ("generate", "blocks"):
        sys.modules.pop(name)


@pytest.fixture
def page(tmp_path):
    def write(text, name="page.md"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_the_docs_are_what_the_code_says(generate, capsys):
    assert generate.main(["--check"]) == 0, capsys.readouterr().out


def test_every_block_is_used_on_some_page(generate):
    text = "".join(path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))
    assert {match["name"] for match in generate.BLOCK.finditer(text)} == set(generate.BLOCKS)


def test_a_stale_block_is_found_and_shown(generate, page):
    path = page("before\n<!-- generated: models -->\n| `some-model` | WTFPL |\n<!-- end generated -->\nafter\n")
    [diff] = generate.stale([path])
    assert "-| `some-model` | WTFPL |" in diff
    assert "+| `smollm2-135m` | Apache-2.0 |" in diff


def test_refreshing_makes_a_page_whole_and_leaves_the_rest_alone(generate, page):
    text = "before\n<!-- generated: models -->\nold\n<!-- end generated -->\nafter\n"
    new = generate.refresh(text)
    assert new.startswith("before\n<!-- generated: models -->\n")
    assert new.endswith("\n<!-- end generated -->\nafter\n")
    assert "old" not in new
    assert generate.stale([page(new)]) == []
    assert generate.refresh(new) == new


def test_an_unknown_block_is_refused(generate):
    with pytest.raises(ValueError, match="generated: colours: nothing makes this block"):
        generate.refresh("<!-- generated: colours -->\n<!-- end generated -->\n")


def test_check_leaves_stale_pages_as_they_are_and_exits_with_1(generate, tmp_path, monkeypatch, capsys):
    docs = tmp_path / "docs"
    shutil.copytree(DOCS, docs)
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"):
        shutil.copy(DOCS.parent / name, tmp_path / name)
    stale = (docs / "cli.md").read_text(encoding="utf-8").replace("lowvram-ft bench [OPTIONS] MODEL", "bench FILE")
    (docs / "cli.md").write_text(stale, encoding="utf-8")
    monkeypatch.setattr(generate, "DOCS", docs)
    assert generate.main(["--check"]) == 1
    assert "-bench FILE" in capsys.readouterr().out
    assert (docs / "cli.md").read_text(encoding="utf-8") == stale


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        ("[x](other.md)", None),
        ("[x](other.md#a-heading-here)", None),
        ("[x](https://example.org/none.md)", None),
        ("```\n[x](nowhere.md)\n```", None),
        ("[x](nowhere.md)", "page.md: nowhere.md: no such file; mend the link"),
        ("[x](other.md#another)", "page.md: other.md#another: no such heading; mend the link"),
        ("[x](#none)", "page.md: #none: no such heading; mend the link"),
    ],
)
def test_links(generate, page, link, problem):
    page("# A heading, here\n", "other.md")
    assert generate.broken_links([page(f"{link}\n")]) == ([problem] if problem else [])


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("cli.md", "## lowvram-ft data verify\n", "cli.md: lowvram-ft data verify is not documented"),
        ("errors.md", "`GateMissed`", "errors.md: GateMissed is not documented"),
        ("evaluation.md", "`pass@3`", "evaluation.md: pass@3 is not documented"),
        ("index.md", "(log.md)", "index.md: log.md is not documented"),
    ],
)
def test_what_no_page_names_is_found(generate, tmp_path, name, text, problem):
    docs = tmp_path / "docs"
    shutil.copytree(DOCS, docs)
    page = docs / name
    page.write_text(page.read_text(encoding="utf-8").replace(text, ""), encoding="utf-8")
    assert [found.partition(";")[0] for found in generate.undocumented(docs)] == [problem]
