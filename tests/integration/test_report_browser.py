"""The page of a run in a browser: it draws, asks nobody for anything, filters, sorts, opens, prints, fits a phone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lowvram_ft.report.page.build import write_page
from tests.page_runs import CODE, HOSTILE, begin, finished

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
TASKS = 6
ALL_DRAWN = """[...document.querySelectorAll('.chart')].every(
    (chart) => !chart.offsetWidth || chart.dataset.drawn === 'done')"""


@dataclass
class Shown:
    """A page in a browser, and what the browser said of it."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def rows(self) -> list[str]:
        """Names of the tasks that are shown, in their order."""
        found: list[str] = self.page.locator(".list .row:visible .name button").all_text_contents()
        return [name.strip() for name in found]


Show = Callable[..., Shown]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of a finished run, of one that has done nothing, and of two side by side."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWVRAM_FT_CACHE", str(folder / "cache"))
        run = finished(folder / "run", suites=("samples", "humaneval"), tasks=TASKS).path
        fresh = begin(folder / "fresh", name="fresh").path
        return {
            "run": write_page([run], folder / "run.html"),
            "fresh": write_page([fresh], folder / "fresh.html"),
            "both": write_page([run, fresh], folder / "both.html"),
        }


@pytest.fixture
def show(browser: Any, files: dict[str, Path]) -> Iterator[Show]:
    contexts = []

    def open_one(file: str | Path = "run", *, width: int = 1200, scheme: str = "light", charts: bool = False) -> Shown:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        found = Shown(context.new_page())
        found.page.on("console", lambda message: found.said.append(f"{message.type}: {message.text}"))
        found.page.on("pageerror", lambda error: found.said.append(f"error: {error}"))
        found.page.on("request", lambda request: found.asked.append(request.url))
        path = files[file] if isinstance(file, str) else file
        found.page.goto(path.as_uri())
        if charts:
            found.page.wait_for_function(ALL_DRAWN)
        return found

    yield open_one
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", ["run", "fresh", "both"])
def test_it_draws_says_nothing_and_asks_nobody(show: Show, files: dict[str, Path], name: str) -> None:
    found = show(name, charts=True)
    assert found.said == [] and found.asked == [files[name].as_uri()]
    drawn = found.page.locator(".chart:visible svg").count()
    assert drawn == found.page.locator(".chart:visible").count()
    assert drawn >= {"run": 9, "fresh": 0, "both": 3}[name]
    assert files[name].stat().st_size < 5_000_000


def test_charts_show_the_figures(show: Show) -> None:
    page = show(charts=True).page
    texts = page.locator("[data-chart='run-0-rates-0'] svg text").all_text_contents()
    assert {"passes and kills", "mutation score", "before", "after"} <= set(texts)
    assert "gate 10 s" in page.locator("[data-chart='run-0-latency'] svg text").all_text_contents()
    assert page.locator("[data-chart='run-0-memory-0'] svg path[aria-label*='measured']").count() >= 2


def test_rows_are_filtered(show: Show) -> None:
    found = show()
    form = found.page.locator(".filters")
    assert len(found.rows()) == 2 * TASKS and form.locator(".shown").text_content() == f"{2 * TASKS} rows"
    form.locator("[name=suite]").select_option("humaneval")
    assert len(found.rows()) == TASKS
    form.locator("[name=kind]").select_option("some tests fail")
    assert found.rows() == ["pack/task_3"]
    form.locator("[name=kind]").select_option("")
    form.locator("[name=change]").select_option("gained")
    assert len(found.rows()) == 4
    form.locator("[name=find]").fill("TASK_5")
    assert found.rows() == ["pack/task_5"] and form.locator(".shown").text_content() == f"1 of {2 * TASKS} rows"
    form.locator("[name=find]").fill("no such task")
    assert found.rows() == []


def test_rows_are_sorted_both_ways_and_keep_what_they_opened(show: Show) -> None:
    found = show()
    found.page.locator(".filters [name=suite]").select_option("samples")
    found.page.locator(".row:visible .name button", has_text="task_1").click()
    by_number = found.page.locator("th[data-sort=mutants]")
    by_number.locator("button").click()
    assert by_number.get_attribute("aria-sort") == "descending"
    assert found.rows()[:4] == ["pack/task_1", "pack/task_2", "pack/task_4", "pack/task_5"]
    next_row = found.page.locator(".row:visible", has_text="task_1").locator("xpath=following-sibling::tr[1]")
    assert next_row.get_attribute("class") == "detail" and next_row.is_visible()
    by_number.locator("button").click()
    assert by_number.get_attribute("aria-sort") == "ascending" and found.rows()[1] == "pack/task_3"
    found.page.locator("th[data-sort=task] button").click()
    names = found.rows()
    assert names == sorted(names) and by_number.get_attribute("aria-sort") is None


def test_a_row_opens_to_code_test_mutants_and_log(show: Show) -> None:
    found = show()
    found.page.locator(".row .name button", has_text="task_3").first.click()
    panel = found.page.locator(".panel")
    code = panel.locator(".code").first
    assert code.locator(".line > span").all_text_contents() == CODE.rstrip("\n").split("\n")
    marks = [line.get_attribute("data-mark") for line in code.locator(".line").all()]
    assert marks == ["c", None, "c", "m", "c", "c", "c"]
    tests = [line.get_attribute("data-mark") for line in panel.locator(".code").nth(1).locator(".line").all()]
    assert tests == [None] * 4 + ["p"] * 2 + [None] * 2 + ["f"] * 2
    assert code.locator(".survives").get_attribute("data-n") == "6"
    assert panel.locator(".mutants .del").all_text_contents() == ["-        2 * x"]
    assert panel.locator(".mutants .add").all_text_contents() == ["+        3 * x"]
    assert panel.locator("pre.log").first.text_content() == "E   assert 6 == 7"
    assert "3 of 4 statements and 1 of 2 branches covered · 4 of 10 mutants caught" in str(panel.text_content())
    found.page.locator(".row .name button", has_text="task_3").first.click()
    assert not panel.is_visible()


def test_a_row_shows_each_evaluation(show: Show) -> None:
    found = show()
    found.page.locator(".row .name button", has_text="task_1").first.click()
    panel = found.page.locator(".panel")
    assert panel.locator(".switch button").all_text_contents() == ["after", "before"]
    assert panel.locator("b").first.text_content() == "passes and kills" and panel.locator("pre.log").count() == 1
    panel.locator(".switch button", has_text="before").click()
    assert panel.locator("b").first.text_content() == "some tests fail: 1 failed of 2 tests"
    assert panel.locator("pre.log").first.text_content() == "E   assert 6 == 7"


def test_what_a_model_wrote_is_shown_and_does_nothing(show: Show) -> None:
    found = show()
    found.page.locator(".row .name button").first.click()
    found.page.locator(".panel details summary").click()
    found.page.wait_for_timeout(200)
    assert found.page.evaluate("window.hacked") is None and found.page.locator("img").count() == 0
    assert HOSTILE.replace("\u2028", "") in str(found.page.locator(".panel").text_content()).replace("\u2028", "")
    assert found.said == [] and len(found.asked) == 1


@pytest.mark.parametrize(("policy", "hacked"), [(True, None), (False, 1)])
def test_the_policy_stops_a_script_that_got_in_all_the_same(
    show: Show, files: dict[str, Path], tmp_path: Path, policy: bool, hacked: int | None
) -> None:
    text = files["fresh"].read_text(encoding="utf-8").replace("<main>", "<main><script>window.hacked = 1</script>")
    if not policy:
        text = text.replace("Content-Security-Policy", "nothing")
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    found = show(tmp_path / "page.html")
    assert found.page.evaluate("window.hacked") == hacked
    assert bool(found.said) is policy


def _background(page: Any) -> tuple[int, ...]:
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return tuple(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


def _axis_colour(page: Any) -> str:
    found: str = page.evaluate("getComputedStyle(document.querySelector('.role-axis-label text')).fill")
    return found


@pytest.mark.parametrize(("scheme", "other"), [("light", "dark"), ("dark", "light")])
def test_it_is_light_or_dark_as_the_system_is_and_as_the_reader_wants(show: Show, scheme: str, other: str) -> None:
    found = show(scheme=scheme)
    found.page.wait_for_selector(".role-axis-label text")
    before = _background(found.page), _axis_colour(found.page)
    found.page.locator("#theme").click()
    after = _background(found.page), _axis_colour(found.page)
    light, dark = (before, after) if scheme == "light" else (after, before)
    assert min(light[0]) > 240 and max(dark[0]) < 40
    assert light[1] != dark[1]  # the charts follow
    assert found.page.evaluate("document.documentElement.dataset.theme") == other


@pytest.mark.parametrize(("name", "width"), [("run", 360), ("both", 360), ("run", 768)])
def test_nothing_makes_a_small_screen_scroll_sideways(show: Show, name: str, width: int) -> None:
    found = show(name, width=width)
    found.page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    for place in (0, 3):
        found.page.locator(".row .name button").nth(place).click()
    found.page.wait_for_function(ALL_DRAWN)
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width
    assert found.page.locator(".panel").first.bounding_box()["width"] <= width
    if width == 360:
        found.page.locator(".filters [name=sort]").select_option("task")
        assert found.rows() == sorted(found.rows())


def test_it_prints_on_white_without_what_is_to_be_clicked(show: Show) -> None:
    found = show(scheme="dark")
    found.page.locator(".row .name button", has_text="task_3").first.click()
    found.page.emulate_media(media="print")
    assert _background(found.page) == (255, 255, 255)
    for hidden in (".top", ".filters", ".copy"):
        assert not found.page.locator(hidden).is_visible()
    assert found.page.locator(".panel .mutants").is_visible()
    ink = found.page.evaluate("getComputedStyle(document.querySelector('h1')).color")
    assert max(int(part) for part in ink.removeprefix("rgb(").removesuffix(")").split(",")) < 80
    assert found.page.pdf().startswith(b"%PDF")


def test_a_link_unfolds_a_run_and_its_charts_are_drawn(show: Show) -> None:
    found = show("both")
    assert not found.page.locator("#run-0 .tasks").is_visible()
    found.page.locator(".top a[href='#run-0']").click()
    found.page.locator("#run-0 .tasks").wait_for(state="visible")
    found.page.wait_for_function(ALL_DRAWN)
    assert found.page.locator("#run-0 .chart svg:visible").count() >= 9
    assert found.said == []
