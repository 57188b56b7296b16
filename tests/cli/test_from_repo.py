"""``data from-repo``: a user's repository becomes rows that training reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.running import failed
from tests.tiny_runs import write_recipe

MODULE = '''from .rates import RATE


def net(price):
    return round(price / (1 + RATE), 2)


def total(prices, discount=0):
    """Sum of prices, less a discount in percent."""
    if not 0 <= discount <= 100:
        raise ValueError("discount")
    return sum(prices) * (100 - discount) / 100
'''
TESTS = """import pytest
import shop
from shop.prices import net


@pytest.fixture
def prices():
    return [1, 2, 3]


def test_total(prices):
    assert shop.total(prices) == 6


def test_bad():
    with pytest.raises(ValueError):
        shop.total([], 101)


def test_net():
    assert net(125) == 100


def test_wrong():
    assert net(1) == 2
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "shop"
    package = root / "src" / "shop"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from .prices import total\n")
    (package / "rates.py").write_text("RATE = 0.25\n")
    (package / "prices.py").write_text(MODULE)
    (root / "tests").mkdir()
    (root / "tests" / "test_prices.py").write_text(TESTS)
    return root


def test_a_repository_becomes_rows_that_pass(here: Cli, repository: Path, tmp_path: Path) -> None:
    outcome = here("data", "from-repo", "shop", "--out", "rows.jsonl", "-q", "--json")
    found = json.loads(outcome.stdout)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert found["rows"] == {"made": 3, "file": 1, "function": 2}
    assert [(pair["module"], pair["test_file"]) for pair in found["pairs"]] == [("shop.prices", "tests/test_prices.py")]
    assert found["left_out"] == {"test failed": 2}
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(row["kind"], row["module"]) for row in rows] == [
        ("file", "shop.prices"),
        ("function", "solution"),
        ("function", "solution"),
    ]
    assert rows[0]["code_src"] == MODULE
    assert "from solution import net, total\n" in rows[0]["test_src"]
    assert not any("test_wrong" in row["test_src"] for row in rows)
    assert "from shop.rates import RATE" in rows[1]["code_src"]


def test_its_rows_are_prepared_and_verified(here: Cli, repository: Path, tmp_path: Path, tiny_llama: Path) -> None:
    assert here("data", "from-repo", "shop", "--out", "rows.jsonl", "-q").code == 0
    write_recipe(tmp_path, tiny_llama)
    use = ("--set", "data.source=repository", "--set", "data.path=rows.jsonl")
    verified = here("data", "verify", "tiny.toml", "-q", "--json", *use)
    found = json.loads(verified.stdout)
    assert (verified.code, found["executed"], found["passing"], found["flaky"]) == (0, 3, 3, 0)
    prepared = here("data", "prepare", "tiny.toml", "--out", "out", "-q", "--json", "--set", "data.verify=true", *use)
    assert prepared.code == 0
    facts = json.loads(prepared.stdout)["tiny"]
    assert facts["train"] + facts["eval"] == 3


def test_rows_that_were_not_run_are_found_out_by_verification(here: Cli, repository: Path, tmp_path: Path) -> None:
    outcome = here("data", "from-repo", "shop", "--out", "rows.jsonl", "-q", "--no-run", "--kind", "function")
    assert (outcome.code, outcome.stdout.splitlines()[-1]) == (
        0,
        "rows.jsonl: 2 rows of 2 were not run: 0 whole files, 2 functions and classes",
    )
    assert "test_wrong" in (tmp_path / "rows.jsonl").read_text()


def test_a_folder_that_holds_no_repository(here: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    outcome = here("data", "from-repo", "empty", "--out", "rows.jsonl", "-q")
    where = tmp_path / "empty"
    assert outcome == failed(2, f"{where}: holds no Python file that can be imported; name the folder of a repository")
    missing = here("data", "from-repo", "gone", "--out", "rows.jsonl", "-q")
    assert missing.code == 2
    assert missing.stderr.startswith(f"error: {tmp_path / 'gone'}: there is no such folder; ")
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_repository_none_of_whose_tests_pass(here: Cli, repository: Path, tmp_path: Path) -> None:
    wrong = "from shop.prices import net\n\n\ndef test_a():\n    assert net(1) == 2\n"
    (repository / "tests" / "test_prices.py").write_text(wrong)
    outcome = here("data", "from-repo", "shop", "--out", "rows.jsonl", "-q")
    assert outcome.code == 2
    assert "no row passes when it is run" in outcome.stderr
    assert list(tmp_path.glob("*rows.jsonl*")) == []
