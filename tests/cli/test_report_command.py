"""``report``: where the page goes, for one run and for several, and who opens it."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path

import pytest

from lowvram_ft.report.page import build
from tests.cli.conftest import Cli
from tests.cli.running import failed
from tests.page_runs import begin, finished


@pytest.fixture(autouse=True)
def _no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "bundle", lambda: "window.vegaEmbed = null;")


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path) -> None:
    finished(tmp_path / "one")
    begin(tmp_path / "two", name="other")


def test_the_page_of_one_run_goes_into_it(here: Cli, tmp_path: Path) -> None:
    outcome = here("report", "one")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("samples: 6 tasks") and outcome.stdout.endswith("page: one/report.html\n")
    assert "Better." in (tmp_path / "one" / "report.html").read_text(encoding="utf-8")


def test_the_page_of_several_goes_into_the_current_folder(here: Cli, tmp_path: Path) -> None:
    outcome = here("report", "one", "two")
    assert (outcome.code, outcome.stderr) == (0, "")
    for words in ("samples, after training", "what they cost", "2 of 2", "0 of 2", "page: report.html\n"):
        assert words in outcome.stdout
    assert "2 runs side by side" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_of_several_the_table_says_how_they_differ_task_by_task(here: Cli, tmp_path: Path) -> None:
    finished(tmp_path / "three", name="third")
    shown = here("report", "one", "three", "--no-html").stdout
    table = shown.split("difference to mine")[1].split("what they cost")[0]
    assert "tasks of both" in table and "undecided" in table and "paired by task" in table


def test_json_writes_no_page_unless_it_is_asked_for(here: Cli, tmp_path: Path) -> None:
    assert json.loads(here("report", "one", "--json").stdout)["recipe"] == "mine"
    found = json.loads(here("report", "one", "two", "--json").stdout)
    assert [run["recipe"] for run in found["runs"]] == ["mine", "other"]
    assert found["differences"] == {"samples": [{"run": "other", "to": "mine", "tasks": 0, "metrics": {}}]}
    assert not list(tmp_path.rglob("*.html"))
    assert json.loads(here("report", "one", "--json", "--html", "sub/page.html").stdout)["recipe"] == "mine"
    assert (tmp_path / "sub" / "page.html").is_file()


def test_the_page_is_opened(here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    assert here("report", "one", "--open").code == 0
    assert opened == [(tmp_path / "one" / "report.html").as_uri()]
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    outcome = here("report", "one", "--open")
    assert (outcome.code, outcome.stderr) == (
        3, "error: one/report.html: no browser could be started; open the file in one\n",
    )  # fmt: skip


def test_contradicting_options_and_foreign_files_are_refused(here: Cli, tmp_path: Path) -> None:
    outcome = here("report", "one", "--no-html", "--open")
    assert outcome.code == 2 and "--no-html goes neither with --html nor with --open" in outcome.stderr
    (tmp_path / "mine.html").write_text("mine")
    problem = "mine.html: is there already and is no page of lowvram-ft; name another file with --html"
    assert here("report", "one", "--html", "mine.html", "--json").stderr == failed(2, problem).stderr
    assert here("report", "one", "nowhere").code == 2
