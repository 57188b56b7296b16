"""The page of a run as text: what is in it, what cannot break out of it, and how large it may become."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lowvram_ft.errors import RunDirectoryError, UsageError
from lowvram_ft.progress import Progress
from lowvram_ft.report.page import build, tasks
from lowvram_ft.report.page.provenance import repeat
from lowvram_ft.report.page.reading import read_runs
from lowvram_ft.report.page.source_lines import colours, coverage_marks, outcome_marks
from lowvram_ft.report.page.training import curves
from lowvram_ft.report.page.vega import bundle, for_html
from lowvram_ft.run_dir import append_jsonl
from tests.page_runs import CODE, HOSTILE, TEST, begin, evaluate, export, finished, plan, record, train


@pytest.fixture(autouse=True)
def _no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The charts' library takes seconds to make, and is the same in every page."""
    monkeypatch.setattr(build, "bundle", lambda: "window.vegaEmbed = null;")


class Reader(HTMLParser):
    """Elements and text of a page, as a browser's parser finds them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._in: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._in.append(tag)
            self.scripts += [""] if tag == "script" else []

    def handle_endtag(self, tag: str) -> None:
        if self._in and self._in[-1] == tag:
            self._in.pop()

    def handle_data(self, data: str) -> None:
        if not self._in:
            self.words.append(data)
        elif self._in[-1] == "script":
            self.scripts[-1] += data

    @property
    def text(self) -> str:
        return re.sub(r"[\s\u00a0]+", " ", " ".join(self.words))

    @property
    def data(self) -> dict[str, Any]:
        found = json.loads(self.scripts[0])
        assert isinstance(found, dict)
        return found


def test_the_page_of_a_finished_run_holds_everything(tmp_path: Path) -> None:
    found = Reader(build.page([finished(tmp_path / "run").path]))
    for words in (
        "Better. 66.7 % of the test files that the trained model writes pass and catch a planted fault; before",
        "+10 to +60 points at 95 % confidence, 6 tasks",
        "1 checks against base + adapter passed",
        "4.00 s at the 95th percentile, within the gate of 10 s",
        "whole files passing 66.7 % wanted at least 80.0 %",
        "planned 400 MiB, measured 390 MiB (98 %), of 3.42 GiB on the card",
        "1 x 2 x 3",
        "+10.0 %",
        "not measured apart",
        "8 longer than max length",
        "10 to train on, 2 for validation",
        "24 answers to 6 tasks",
        "9 fails",
        "RTX 3050 (4.00 GiB, driver 570), 2 CPUs (A Fast One), 16 GiB of memory, linux",
        "f1nger",
        "abc123",
        "d1ge57",
        "lowvram-ft run mine.toml --set 'a.b=c d'",
        "train.learning_rate",
        "--set",
        "2.13.0",
    ):
        assert words in found.text, words
    charts = found.data["charts"]
    assert {name.split("-", 2)[2].rstrip("-0123456789") for name in charts} == {
        "rates",
        "reasons",
        "losses",
        "learning_rate",
        "tok_per_s",
        "memory",
        "funnel",
        "latency",
    }
    drawn = {attributes["data-chart"] for _, attributes in found.elements if "data-chart" in attributes}
    assert drawn == set(charts)


def test_a_row_opens_to_code_test_mutants_and_log(tmp_path: Path) -> None:
    data = Reader(build.page([finished(tmp_path / "run").path])).data
    after, before = data["rows"][3]  # the latest evaluation first
    assert (after["name"], before["name"]) == ("after", "before")
    assert data["texts"][after["code"]][0] == CODE and data["texts"][after["test"]][0] == TEST
    assert after["covered"] == "c cmccc" and after["outcomes"] == "    ff  ff".replace("f", "p", 2)
    assert after["survivors"] == [[6, "NumberReplacer", "-        2 * x\n+        3 * x"]]
    assert data["texts"][before["log"]][0] == "E   assert 6 == 7"
    assert before["mutants"] == [10, 4, 0] and before["lines"] == [3, 4, 1, 2]


def test_mutants_of_the_first_of_several_modules_stand_at_their_lines(tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    found = record("eval:after", "two", passes=True) | {"code": f"# module: first\n{CODE}# module: second\nx = 1\n"}
    append_jsonl(run.samples, found)
    ((row,),) = Reader(build.page([run.path])).data["rows"]
    assert row["survivors"][0][0] == 7 and row["covered"] == " c cmccc"


def test_what_a_model_wrote_stays_text(tmp_path: Path) -> None:
    text = build.page([finished(tmp_path / "run").path])
    found = Reader(text)
    assert len(found.scripts) == 3 and not any(tag == "img" for tag, _ in found.elements)
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert "49" not in {word.strip() for word in found.words}  # {{ 7*7 }} is not rendered
    assert any(HOSTILE in entry[0] for entry in found.data["texts"])
    assert "<" not in found.scripts[0] and ">" not in found.scripts[0] and "\u2028" not in found.scripts[0]


def test_the_policy_names_the_scripts_of_the_page_and_no_address(tmp_path: Path) -> None:
    found = Reader(build.page([finished(tmp_path / "run").path]))
    policy = next(str(attributes["content"]) for _, attributes in found.elements if "http-equiv" in attributes)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in found.scripts[1:]]
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}' 'sha256-{hashes[1]}' 'unsafe-eval'; "
        "style-src 'unsafe-inline'; img-src data:"
    )
    for _, attributes in found.elements:
        assert not {"src", "srcset", "action"} & attributes.keys()
        assert str(attributes.get("href", "#")).startswith("#")


@pytest.mark.parametrize("step", ["nothing", "plan", "one stage", "trained", "exported", "half evaluated"])
def test_a_run_that_is_not_finished_says_what_is_not_there(tmp_path: Path, step: str) -> None:
    run = begin(tmp_path / "run")
    order = ["nothing", "plan", "one stage", "trained", "exported", "half evaluated"]
    done = order[: order.index(step) + 1]
    for name, do in (
        ("plan", lambda: plan(run)),
        ("one stage", lambda: train(run, "first")),
        ("trained", lambda: train(run, "second")),
        ("exported", lambda: export(run)),
        ("half evaluated", lambda: append_jsonl(run.samples, record("eval:before", "a", passes=False))),
    ):
        if name in done:
            do()
    text = Reader(build.page([run.path])).text
    expected = {
        "nothing": ("Not finished: nothing is trained yet.", "This run has not been planned yet."),
        "plan": ("Not finished: nothing is trained yet.", "No stage of this run has been trained yet."),
        "one stage": ("Not finished: 1 of 2 stages are trained.", "This run has not been timed yet."),
        "trained": ("Trained; not exported and not evaluated yet.", "This run has no evaluation yet."),
        "exported": ("Trained and exported; not evaluated yet.", "No task of this run has been evaluated yet."),
        "half evaluated": ("Trained and exported; evaluation has begun.", "This run has no evaluation yet."),
    }[step]
    for words in expected:
        assert words in text
    assert ("This run has not been planned yet." in text) == (step == "nothing")


def test_several_suites_have_tables_of_their_own_and_one_verdict(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", suites=("samples", "humaneval"))
    found = Reader(build.page([run.path]))
    assert "On samples, 66.7 %" in found.text and "On humaneval: 0.0 % before, 66.7 % after" in found.text
    options = [
        attributes for tag, attributes in found.elements if tag == "select" and attributes.get("name") == "suite"
    ]
    assert len(options) == 1


def test_several_runs_stand_side_by_side(tmp_path: Path) -> None:
    one, other = finished(tmp_path / "one"), finished(tmp_path / "other", tasks=4)
    data = json.loads(other.run_json.read_text())
    data["versions"]["torch"] = "2.14.0"
    data["recipe"]["stages"][1]["recipe"]["train"]["learning_rate"] = 5e-4
    other.run_json.write_text(json.dumps(data))
    found = Reader(build.page([one.path, other.path]))
    assert "2 runs side by side" in found.text and "not evaluated on the same tasks" in found.text
    assert "first: 0.001; second: 0.0001" in found.text and "first: 0.001; second: 0.0005" in found.text
    assert "train.method" not in found.text.split("In what they differ")[1].split("Versions")[0]
    assert "2.13.0 2.14.0" in found.text.split("In what they differ")[1]
    assert "Difference to one" in found.text and "tasks of both 4" in found.text
    assert {"together-rates-0", "together-losses", "run-0-losses", "run-1-losses"} <= found.data["charts"].keys()


def test_runs_of_one_recipe_are_called_by_their_folders(tmp_path: Path) -> None:
    for folder in ("a/run", "b/run", "c/other", "d/third"):
        begin(tmp_path / folder, name="else" if folder == "d/third" else "mine")
    runs = read_runs([tmp_path / folder for folder in ("a/run", "b/run", "c/other", "d/third")])
    assert [run.label for run in runs] == ["mine (1)", "mine (2)", "other", "else"]


def test_the_page_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin(tmp_path / "run")
    evaluate(run, tasks=30, hostile=False)
    monkeypatch.setattr(tasks, "MAX_DETAILS_BYTES", 10_000)
    monkeypatch.setattr(tasks.Details, "left", 10_000)
    details = tasks.Details(left=10_000)
    found = tasks.rows(read_runs([run.path])[0], details)
    opening = sum(row is not None for row in details.rows)
    assert 5 < opening < 25 and found["closed"] == 30 - opening and len(found["rows"]) == 30


def test_a_long_text_is_cut_and_says_so(tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    append_jsonl(run.samples, record("eval:after", "long", passes=True, test="x = 1\n" * 10_000))
    shown = [text for text, _ in Reader(build.page([run.path])).data["texts"]]
    assert max(map(len, shown)) < tasks.MAX_TEXT + 100
    assert any(text.endswith("# … 40,000 more characters: see samples.jsonl") for text in shown)


def test_the_same_page_is_not_written_again(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    out = build.write_page([run.path], run.path / build.PAGE)
    before = out.stat().st_mtime_ns, out.stat().st_ino
    run.event("resumed")
    assert build.write_page([run.path], out) == out
    assert (out.stat().st_mtime_ns, out.stat().st_ino) == before
    train(run, "second", 4)
    build.write_page([run.path], out)
    assert out.stat().st_ino != before[1]


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    with pytest.raises(
        UsageError, match="is there already and is no page of lowvram-ft; name another file with --html"
    ):
        build.write_page([run.path], tmp_path / "mine.html")
    assert (tmp_path / "mine.html").read_text() == "<p>mine</p>"


def test_a_run_is_worth_what_it_is_where_its_page_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path / "run")
    (run.path / build.PAGE).mkdir()
    build.write_page_of(run, Progress())
    assert "the page of the run is not written" in capsys.readouterr().err


def test_no_run_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is this a run directory"):
        build.page([tmp_path])


def test_halves_of_surrogate_pairs_do_not_stop_the_page(tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    append_jsonl(run.samples, record("eval:after", "odd \ud83d", passes=True, test="x = '\ud83d'\n"))
    build.write_page([run.path], tmp_path / "page.html")
    assert "x = '?'" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_every_line_of_a_statement_is_marked() -> None:
    coverage = {"covered_lines": [1, 3, 5], "missing_lines": [4]}
    assert coverage_marks(CODE, coverage) == "c cmccc"
    assert coverage_marks(CODE, None) == ""
    several = f"# module: first\n{CODE}# module: second\nx = 1\n"
    assert coverage_marks(several, coverage) == " c cmccc"
    assert coverage_marks("def broken(:\n  pass", {"covered_lines": [1], "missing_lines": [9]}) == "c"


def test_tests_are_marked_by_their_worst_result() -> None:
    test = "class TestA:\n    def test_one(self): ...\n\ndef test_two(): ...\ndef helper(): ...\n"
    results = [
        {"name": "TestA::test_one", "outcome": "skipped"},
        {"name": "test_two[a]", "outcome": "passed"},
        {"name": "test_two[b]", "outcome": "timeout"},
    ]
    assert outcome_marks(test, results) == " s f"
    assert outcome_marks("def broken(:", results) == "" and outcome_marks(test, []) == ""


@pytest.mark.parametrize(
    "text", [CODE, TEST, HOSTILE, "", "x\r\ny\r", "\ttab = 'é'\n\n", "def broken(:\n  '''", "a\x0cb\x00"]
)
def test_colours_take_every_character_once(text: str) -> None:
    lengths = [int(run.lstrip("abcdefghijklmnopqrstuvwxyz")) for run in filter(None, colours(text).split(","))]
    assert sum(lengths) == len(text)


def test_a_curve_counts_on_through_stages_rounds_and_resumed_steps(tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    for stage, step in [
        ("first", 1),
        ("first", 2),
        ("first", 3),
        ("first", 2),
        ("first", 3),
        ("first", 4),
        ("second", 1),
        ("second", 2),
        ("second", 1),
    ]:
        run.event(
            "trained",
            stage=stage,
            step=step,
            steps=4,
            loss=float(step),
            learning_rate=0.1,
            tok_per_s=1.0,
            memory_bytes=1,
        )
    found = curves(read_runs([run.path])[0])
    assert [(point["at"], point["stage"], point["loss"]) for point in found["trained"]] == [
        (1, "first", 1.0),
        (2, "first", 2.0),
        (3, "first", 3.0),
        (4, "first", 4.0),
        (5, "second", 1.0),
        (6, "second", 2.0),
        (7, "second", 1.0),
    ]
    assert [start["at"] for start in found["starts"]] == [0, 4, 6]


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("/x/lowvram_ft/__main__.py demo --out '/a b'", "lowvram-ft demo --out '/a b'"),
        ("lowvram-ft run 'unclosed", "lowvram-ft run 'unclosed"),
        ("", ""),
    ],
)
def test_the_command_is_shown_as_a_user_types_it(command: str, shown: str) -> None:
    assert repeat(command) == shown


def test_a_script_cannot_end_its_element() -> None:
    assert for_html("a('</script>', '<!--', '</SCRIPT', '</p>', '<script>')") == (
        "a('\\x3c/script>', '\\x3c!--', '\\x3c/SCRIPT', '</p>', '\\x3cscript>')"
    )


def test_the_library_of_the_charts_is_made_once(own_cache: Path) -> None:
    text = bundle()
    assert len(text) < 1_500_000 and "vegaEmbed" in text
    assert not re.search(r"</script|<!--", text, re.IGNORECASE)
    (kept,) = (own_cache / "report").iterdir()
    kept.write_text("kept")
    assert bundle() == "kept"
