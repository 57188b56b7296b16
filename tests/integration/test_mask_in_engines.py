"""The batches that each engine's trainer sees: loss on the completion and the end token alone.

Every source, in every family of chat templates; the rows that ship with the kit are among them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lowvram_ft.data.sources import SOURCES
from tests.chat_templates import FAMILIES, SPECIAL
from tests.gguf_models import make_tiny_model
from tests.mask_oracle import through_the_trainer
from tests.source_objects import OBJECTS, Task

TEXTS = ("", "plain", "日本 🙂 \t\n", "'''\"\"\"\\", "<|im_ end|> <s", "  two  spaces  ", "123 4567")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model for each family, and a file for each source."""
    root = tmp_path_factory.mktemp("masks")
    for name, family in FAMILIES.items():
        make_tiny_model(root / "models" / name, template=family[0], more_special=SPECIAL, max_position_embeddings=4096)
    (root / "sources").mkdir()
    for source, to_object in OBJECTS.items():
        tasks = [Task(i, f"size_{i}", TEXTS[i % len(TEXTS)], 1 + i % 5, "\n" * (i % 3)) for i in range(28)]
        lines = [json.dumps(to_object(task)) + "\n" for task in tasks]
        (root / "sources" / f"{source}.jsonl").write_text("".join(lines), encoding="utf-8")
    return root / "models", root / "sources"


def _hold(found: dict[str, dict[str, Any]]) -> None:
    assert {source: counted["wrong"] for source, counted in found.items()} == {source: {} for source in SOURCES}
    rows = {source: counted["rows"] for source, counted in found.items()}
    assert rows.pop("samples") > 200
    assert all(15 <= count <= 28 for count in rows.values()), rows  # some of each are kept for validation


@pytest.mark.parametrize("family", FAMILIES)
def test_in_the_reference_engine(family: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    models, sources = inputs
    _hold(through_the_trainer("reference", models / family, sources, tmp_path, family))


@pytest.mark.skipif(
    importlib.util.find_spec("unsloth") is None,
    reason="Unsloth is not installed; run: pip install --no-deps -r tests/unsloth-cpu-requirements.txt",
)
def test_in_the_unsloth_engine(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "tests.mask_oracle", "unsloth", *map(str, inputs), str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    for family in FAMILIES:
        _hold(json.loads((tmp_path / f"{family}.json").read_text(encoding="utf-8")))
