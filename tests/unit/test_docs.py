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
    for name in ("generate", "blocks", "pictures"):
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


def copy_the_rest(folder):
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "mkdocs.yml"):
        shutil.copy(DOCS.parent / name, folder / name)


def test_check_leaves_stale_pages_as_they_are_and_exits_with_1(generate, tmp_path, monkeypatch, capsys):
    docs = tmp_path / "docs"
    shutil.copytree(DOCS, docs)
    copy_the_rest(tmp_path)
    stale = (docs / "cli.md").read_text(encoding="utf-8").replace("lowvram-ft bench [OPTIONS] [MODEL]", "bench FILE")
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
        ("errors.md", "### GateMissed\n", "errors.md: GateMissed is not documented"),
        ("evaluation.md", "`pass@3`", "evaluation.md: pass@3 is not documented"),
        ("index.md", "(log.md)", "index.md: log.md is not documented"),
    ],
)
def test_what_no_page_names_is_found(generate, tmp_path, name, text, problem):
    docs = tmp_path / "docs"
    shutil.copytree(DOCS, docs)
    copy_the_rest(tmp_path)
    page = docs / name
    page.write_text(page.read_text(encoding="utf-8").replace(text, ""), encoding="utf-8")
    assert [found.partition(";")[0] for found in generate.undocumented(docs)] == [problem]


def test_a_command_without_a_word_of_its_own_and_a_page_without_a_place_are_found(generate, tmp_path):
    docs = tmp_path / "docs"
    shutil.copytree(DOCS, docs)
    copy_the_rest(tmp_path)
    for page in [*docs.glob("*.md"), tmp_path / "README.md"]:
        page.write_text(page.read_text(encoding="utf-8").replace("lowvram-ft serve", "a server"), encoding="utf-8")
    site = tmp_path / "mkdocs.yml"
    site.write_text(site.read_text(encoding="utf-8").replace("      - Data: data.md\n", ""), encoding="utf-8")
    found = [problem.partition(";")[0] for problem in generate.undocumented(docs)]
    assert "lowvram-ft serve: no page tells what it is for" in found
    assert "mkdocs.yml: data.md has no place in the navigation" in found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("`lowvram_ft/errors.py`", None),
        ("`lowvram_ft/execution/`", None),
        ("`gguf_export/families/NAME.py`", None),
        ("`recipes/demo.toml --set x=1`", None),
        ("`lowvram_ft/evaluation/suites.py`", "page.md: lowvram_ft/evaluation/suites.py: no such file; mend the path"),
        ("`tests/gpu`", "page.md: tests/gpu: no such file; mend the path"),
    ],
)
def test_paths_of_the_project_that_a_page_names_are_there(generate, page, text, problem):
    assert generate.missing_paths([page(f"See {text}.\n")]) == ([problem] if problem else [])


def test_a_picture_that_shows_other_figures_is_found(generate, tmp_path):
    from pictures import stale_pictures

    for path in (DOCS / "images").glob("memory-*.svg"):
        shutil.copy(path, tmp_path / path.name)
    assert stale_pictures(tmp_path) == []
    path = tmp_path / "memory-phases.svg"
    path.write_text(path.read_text(encoding="utf-8").replace("&quot;budget_mib&quot;: 3", "&quot;budget_mib&quot;: 4"))
    assert stale_pictures(tmp_path) == [
        "images/memory-phases.svg: is not what the code says; run: python docs/pictures.py"
    ]
    path.unlink()
    assert len(stale_pictures(tmp_path)) == 1


def test_the_figures_in_words_beside_a_picture_are_its_own(generate):
    from pictures import levers

    peaks = list(levers()["peaks"].values())
    assert f"falls from {peaks[0]:,} to {peaks[-1]:,} MiB" in (DOCS / "why-it-fits.md").read_text(encoding="utf-8")


def test_the_drawn_imports_are_few_enough_to_read_and_follow_the_layers(generate):
    drawn = (DOCS / "architecture.md").read_text(encoding="utf-8")
    edges = [line.split() for line in drawn.splitlines() if " --> " in line]
    assert ["improve", "-->", "pipeline"] in edges and 20 < len(edges) < 60
    assert not [edge for edge in edges if edge[0] in ("errors", "gguf_export")]
