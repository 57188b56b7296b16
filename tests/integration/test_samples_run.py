"""The rows that ship, run: their tests pass and find faults, and every failure trace really fails and is mended."""

import pytest

from lowvram_ft.data.row import make_row
from lowvram_ft.data.sources import failed_tests, held_out_rows, load_rows
from lowvram_ft.data.verify import RowVerdict, verify_rows
from lowvram_ft.recipe import DataSection

LEAST_MUTATION_SCORE = 0.6
SAMPLE = (
    "parsing/eval_rpn", "errors/add_vectors", "modules/stock_room", "modules/invoice_totals", "modules/parcel_labels",
    "traces/swap_halves", "traces/count_vowel_runs", "geometry/shoelace_area",
)  # fmt: skip
"""With the first row of every kind below, 12 or a few more."""


def jobs():
    """Every row that ships, with its failed test where it has one."""
    failed = failed_tests(DataSection(subset="traces"))
    rows = [*load_rows(DataSection()), *held_out_rows()]
    assert sum(row.id in failed for row in rows) == 40
    return [(row, failed.get(row.id)) for row in rows]


def wrong(verdicts: list[RowVerdict]) -> list[RowVerdict]:
    return [verdict for verdict in verdicts if not verdict.ok(LEAST_MUTATION_SCORE)]


def test_a_fixed_sample_of_the_rows_holds():
    every = jobs()
    by_id = {row.id: (row, failed) for row, failed in every}
    firsts = {}
    for row, failed in every:
        firsts.setdefault(row.meta["kind"], (row, failed))
    chosen = {name: by_id[name] for name in SAMPLE}
    for kind in ("strings", "dates", "recursion", "state"):
        row, failed = firsts[kind]
        chosen[row.id] = (row, failed)
    assert len(chosen) == 12
    verdicts = verify_rows(list(chosen.values()))
    assert wrong(verdicts) == []
    assert sum(verdict.failed_test_fails is True for verdict in verdicts) == 2


@pytest.mark.slow
def test_every_row_holds():
    verdicts = verify_rows(jobs())
    assert len(verdicts) >= 264
    assert wrong(verdicts) == []


def test_rows_that_do_not_hold_are_noticed():
    code = "def half(n):\n    return n // 2\n"
    good = "from solution import half\n\n\ndef test_half():\n    assert half(5) == 2\n    assert half(-3) == -2\n"
    tests = {
        "good": (good, None),
        "fails": (good.replace("== 2", "== 3"), None),
        "finds nothing": ("from solution import half\n\n\ndef test_half():\n    assert half\n", None),
        "fixed already": (good, good),
        "mended": (good, good.replace("== 2", "== 3")),
    }
    made = [
        (make_row(id=name, group=name, source="s", code=code, test=test), failed)
        for name, (test, failed) in tests.items()
    ]
    verdicts = {verdict.id: verdict for verdict in verify_rows(made)}
    assert {verdict.id for verdict in wrong(list(verdicts.values()))} == {"fails", "finds nothing", "fixed already"}
    assert "test_half" in verdicts["fails"].reason
    assert verdicts["fixed already"].failed_test_fails is False
    assert verdicts["mended"].failed_test_fails is True
