"""What a contributor is told to touch is there: files, and the names in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = ("A data source", "A model family", "A suite", "A metric")
PATH = re.compile(r"(?:lowvram_ft|gguf_export|recipes|tests|docs)/[\w./]*")


def steps(title: str) -> list[str]:
    """The numbered items of a section, each in one line."""
    section = TEXT.split(f"### {title}\n")[1].split("\n### ")[0].split("\n## ")[0]
    return [" ".join(item.split()) for item in re.findall(r"(?m)^\d\. ((?:.+\n)(?:   .+\n)*)", section)]


def where(step: str) -> Path | None:
    """The file or folder that a step begins with; of ``NAME.py``, its folder."""
    match = PATH.search(step)
    if match is None:
        return None
    path = ROOT / match[0].rstrip(".")
    return path.parent if path.stem == "NAME" else path


@pytest.mark.parametrize("title", RECIPES)
def test_each_is_a_list_of_few_files_that_are_there(title: str) -> None:
    found = [where(step) for step in steps(title)]
    assert 3 <= len(found) <= 6
    named = [path for path in found if path is not None]
    assert len(named) >= 2
    assert [path for path in named if not path.exists()] == []


@pytest.mark.parametrize("title", RECIPES)
def test_the_names_that_it_mentions_are_in_those_files(title: str) -> None:
    for step in steps(title):
        place = where(step)
        if place is None:
            continue
        files = [place] if place.is_file() else sorted(place.rglob("*.py"))
        text = "".join(path.read_text(encoding="utf-8") for path in files)
        for name in re.findall(r"`(_?[A-Za-z]\w+)`", step):
            assert re.search(rf"\b{name}\b", text), f"{title}: {name} is not in {place.relative_to(ROOT)}"


def test_a_name_that_is_gone_would_be_seen() -> None:
    assert steps("A metric")[0].startswith("`lowvram_ft/evaluation/metrics.py`")
    assert where("`lowvram_ft/evaluation/none.py`: x") == ROOT / "lowvram_ft/evaluation/none.py"
    assert where("`gguf_export/families/NAME.py`: x") == ROOT / "gguf_export/families"


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda p: p.name)
def test_an_issue_template_is_a_form_that_asks_for_doctor(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.name == "config.yml":
        links = [link["url"].rpartition("/main/")[2] for link in form["contact_links"]]
        assert [link for link in links if not (ROOT / link).is_file()] == []
        return
    assert {"name", "description", "body"} <= form.keys()
    ids = [entry["id"] for entry in form["body"] if "id" in entry]
    assert len(ids) == len(set(ids)) and "doctor" in ids
    labels = {entry["id"]: entry["attributes"]["label"] for entry in form["body"] if "id" in entry}
    assert "lowvram-ft doctor --json" in labels["doctor"]
    assert all(entry["type"] in ("markdown", "textarea", "checkboxes", "dropdown", "input") for entry in form["body"])
