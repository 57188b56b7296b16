"""The rows that ship, run: their tests pass and find faults, and every failure trace really fails and is mended."""

import subprocess

import pytest

from lowvram_ft.data.row import Row, make_row
from lowvram_ft.data.sources import load_rows
from lowvram_ft.data.sources.samples import held_out_rows
from lowvram_ft.data.verify import RowVerdict, verify_rows
from lowvram_ft.execution import run_tests
from lowvram_ft.recipe import DataSection

LEAST_MUTATION_SCORE = 0.6
SHOW_HASHES = "def test_it():\n    raise ValueError(len({str(hash(c))[0] for c in 'abcdefgh'}))\n"
SAMPLE = (
    "parsing/eval_rpn", "errors/add_vectors", "modules/stock_room", "modules/invoice_totals", "modules/parcel_labels",
    "traces/swap_halves", "traces/count_vowel_runs", "geometry/shoelace_area",
)  # fmt: skip
"""With the first row of every kind below, 12 or a few more."""


def every_row() -> list[Row]:
    rows = [*load_rows(DataSection()), *held_out_rows()]
    assert sum("failed_test" in row.meta for row in rows) == 40
    return rows


def wrong(verdicts: list[RowVerdict]) -> list[RowVerdict]:
    return [verdict for verdict in verdicts if verdict.problem(LEAST_MUTATION_SCORE) or not verdict.executed]


def test_a_fixed_sample_of_the_rows_holds():
    every = every_row()
    by_id = {row.id: row for row in every}
    firsts: dict[str, Row] = {}
    for row in every:
        firsts.setdefault(row.meta["kind"], row)
    chosen = {name: by_id[name] for name in SAMPLE}
    chosen |= {firsts[kind].id: firsts[kind] for kind in ("strings", "dates", "recursion", "state")}
    assert len(chosen) == 12
    verdicts = verify_rows(list(chosen.values()))
    assert wrong(verdicts) == []
    assert sum(verdict.failed_test_fails is True for verdict in verdicts) == 2


@pytest.mark.slow
def test_every_row_holds():
    verdicts = verify_rows(every_row())
    assert len(verdicts) >= 264
    assert wrong(verdicts) == []


def test_rows_that_do_not_hold_are_noticed():
    code = "def half(n):\n    return n // 2\n"
    good = "from solution import half\n\n\ndef test_half():\n    assert half(5) == 2\n    assert half(-3) == -2\n"
    hashed = int(run_tests(code, "solution", SHOW_HASHES).results[0].message.removeprefix("ValueError: "))
    tests = {
        "good": (good, None),
        "fails": (good.replace("== 2", "== 3"), None),
        "finds nothing": ("from solution import half\n\n\ndef test_half():\n    assert half\n", None),
        "fixed already": (good, good),
        "mended": (good, good.replace("== 2", "== 3")),
        "hangs on order": (f"seen = []\n{good}    seen.append(1)\n\n\ndef test_later():\n    assert seen\n", None),
        "hangs on a hash": (f"{good}    assert len({{str(hash(c))[0] for c in 'abcdefgh'}}) == {hashed}\n", None),
    }
    made = [
        make_row(id=name, group=name, source="s", code=code, test=test, meta={"failed_test": failed} if failed else {})
        for name, (test, failed) in tests.items()
    ]
    verdicts = {verdict.id: verdict for verdict in verify_rows(made)}
    problems = {name: verdict.problem(LEAST_MUTATION_SCORE) for name, verdict in verdicts.items()}
    assert problems == {
        "good": None,
        "fails": "its test fails",
        "finds nothing": "kills less than 60 % of the mutants",
        "fixed already": "its failed test passes",
        "mended": None,
        "hangs on order": "its test is flaky",
        "hangs on a hash": "its test is flaky",
    }
    assert "test_half" in verdicts["fails"].reason
    assert verdicts["fixed already"].failed_test_fails is False
    assert verdicts["mended"].failed_test_fails is True


def test_rows_that_need_a_repository_that_is_not_there_are_not_executed(tmp_path):
    code = "def half(n):\n    return n // 2\n"
    test = "from solution import half\n\ndef test_half():\n    assert half(5) == 2\n"
    meta = {"repo": "owner/name", "code_file": "src/pkg/mod.py", "base_commit": "0" * 40}
    row = make_row(id="1", group="1", source="testgeneval", code=code, test=test, module="pkg.mod", meta=meta)

    def verdict(repos):
        (found,) = verify_rows([row], repos=repos)
        return found.executed, found.passes, found.problem(0.0), found.reason

    nowhere = (False, False, None)
    assert verdict(None) == (*nowhere, "not executed: needs its repository; give --repos")
    assert verdict(tmp_path) == (*nowhere, f"not executed: no checkout of owner/name in {tmp_path}")
    package = tmp_path / "owner__name" / "src" / "pkg"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "mod.py").write_text("raise RuntimeError('not this text')\n")
    assert verdict(tmp_path) == (True, True, None, "")


def test_a_checkout_at_another_commit_is_not_used(tmp_path):
    folder = tmp_path / "name"
    folder.mkdir()
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    (folder / "mod.py").write_text("")
    subprocess.run([*git, "add", "mod.py"], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()

    def verdict(commit):
        meta = {"repo": "owner/name", "code_file": "mod.py", "base_commit": commit}
        code, test = "def f():\n    return 1\n", "from solution import f\n\ndef test_f():\n    assert f() == 1\n"
        row = make_row(id="1", group="1", source="testgeneval", code=code, test=test, module="mod", meta=meta)
        return verify_rows([row], repos=tmp_path)[0]

    assert verdict(head).passes
    other = verdict("f" * 40)
    assert (other.executed, other.reason) == (
        False,
        f"not executed: owner/name is at {head[:12]}, and not at ffffffffffff",
    )
