"""The hub's own client against a hub on the loopback interface, and against folders in the hub's layout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lowvram_ft.data.sources import load_rows
from lowvram_ft.errors import DataError, MachineError
from lowvram_ft.recipe import DataSection
from tests.loopback_hub import COMMIT, Hub, serving
from tests.tiny_runs import COMMAND, ONE_THREAD, write_recipe

ROWS = 400
CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
"""


@pytest.fixture(scope="module")
def layout(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a KodCode-shaped data set of two Parquet files, as the hub keeps them."""
    import pyarrow as pa
    from pyarrow import parquet

    root = tmp_path_factory.mktemp("hub")
    model = root / "models" / "someone" / "tiny"
    shutil.copytree(tiny_llama, model)
    (model / "pytorch_model.bin").write_bytes(bytes(1000))
    data = root / "datasets" / "someone" / "rows" / "data"
    data.mkdir(parents=True)
    (data.parent / "README.md").write_text(CARD, encoding="utf-8")
    for part in range(2):
        rows = [_kodcode(number) for number in range(part * ROWS // 2, (part + 1) * ROWS // 2)]
        parquet.write_table(pa.Table.from_pylist(rows), data / f"train-{part:05}-of-00002.parquet", row_group_size=20)
    return root


def _kodcode(number: int) -> dict[str, str]:
    name = f"add_{number}"
    return {
        "question_id": f"q{number}",
        "question": f"Add {number}.",
        "solution": f"def {name}(value):\n    return value + {number}\n",
        "test_code": f"from solution import {name}\n\n\ndef test_one():\n    assert {name}(1) == {1 + number}\n",
        "r1_correctness": "True",
    }


@pytest.fixture
def hub(layout: Path) -> Iterator[Hub]:
    with serving(layout) as server:
        yield server


def _lowvram_ft(hub: Hub, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    client = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0"}
    client["LOWVRAM_FT_CACHE"] = str(folder / "cache")
    return subprocess.run(
        [str(COMMAND), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300.0,
        check=False,
        env=os.environ | ONE_THREAD | client,
    )


def _recipe(folder: Path, **changes: str) -> Path:
    path = write_recipe(folder, Path("someone/tiny"), "[quantization]\nload_in_4bit = false\n")
    text = path.read_text(encoding="utf-8").replace(
        'source = "samples"', 'source = "kodcode"\nhub_id = "someone/rows"', 1
    )
    for old, new in changes.items():
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return path


def test_model_and_rows_come_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    done = _lowvram_ft(hub, tmp_path, "train", _recipe(tmp_path), "--out", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    adapter = Path(json.loads(done.stdout)["adapter"])
    assert (adapter / "adapter_model.safetensors").is_file()
    assert (tmp_path / "hf/hub/models--someone--tiny/snapshots" / COMMIT / "model.safetensors").exists()
    asked = [request for request, _ in hub.sent]
    assert not any("pytorch_model.bin" in request for request in asked), "a second format of the weights was fetched"
    assert any("train-00000" in request for request in asked)
    assert not any("train-00001" in request and request.startswith("GET") for request in asked), "not streamed"


def test_what_was_downloaded_is_used_without_the_hub(hub: Hub, tmp_path: Path) -> None:
    recipe = _recipe(tmp_path)
    assert _lowvram_ft(hub, tmp_path, "data", "prepare", recipe, "--out", tmp_path / "rows").returncode == 0
    before = sum(size for request, size in hub.sent if "model.safetensors" in request)
    assert _lowvram_ft(hub, tmp_path, "data", "prepare", recipe, "--out", tmp_path / "again").returncode == 0
    after = sum(size for request, size in hub.sent if "model.safetensors" in request)
    assert after == before


@pytest.mark.parametrize(
    ("old", "new", "code", "message"),
    [
        ("someone/tiny", "someone/else", 2, "someone/else: no such model on the hub; check the name"),
        ("someone/rows", "someone/else", 3, "someone/else: cannot be loaded (Dataset 'someone/else' doesn't exist"),
        (
            '"someone/rows"',
            '"someone/rows"\nsplit = "dev"',
            2,
            "data.split: someone/rows has no split dev (splits: train)",
        ),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(
    hub: Hub, tmp_path: Path, old: str, new: str, code: int, message: str
) -> None:
    done = _lowvram_ft(hub, tmp_path, "train", _recipe(tmp_path, **{old: new}), "--out", tmp_path / "run")
    assert done.returncode == code
    problem = done.stderr.strip().splitlines()[-2]
    assert problem.startswith(f"error: {message}")
    assert "Traceback" not in done.stderr


def test_a_local_folder_in_the_layout_of_the_hub_is_read_like_one(layout: Path) -> None:
    section = DataSection(source="kodcode", hub_id=str(layout / "datasets/someone/rows"))
    assert [row.id for row in load_rows(section)] == [f"q{number}" for number in range(ROWS)]


def test_a_local_folder_without_data_says_so(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=f"{tmp_path}: cannot be loaded"):
        list(load_rows(DataSection(source="kodcode", hub_id=str(tmp_path))))


def test_a_split_that_is_not_there_names_those_that_are(layout: Path) -> None:
    section = DataSection(source="kodcode", hub_id=str(layout / "datasets/someone/rows"), split="dev")
    with pytest.raises(DataError, match=r"has no split dev \(splits: train\)"):
        list(load_rows(section))


def test_how_far_a_download_is_can_be_read(hub: Hub, tmp_path: Path) -> None:
    code = (
        "import io; from lowvram_ft import models; from lowvram_ft.progress import Progress, progress\n"
        "progress.PLAIN_EVERY_S = 0.0; stream = io.StringIO()\n"
        "models.materialize(models.resolve('someone/tiny'), Progress(stream)); print(stream.getvalue())"
    )
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | env
    )
    lines = done.stdout.split("\n")
    assert lines[0].startswith("download someone/tiny: 0") and "GiB" in lines[0]
    assert "%|" not in done.stderr, "the hub's own bars are not drawn as well"
