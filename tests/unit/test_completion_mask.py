"""Loss falls on the completion and the end token alone: every source, in every family of chat templates, on any text.

What an engine's trainer then sees of it is in ``tests/integration/test_mask_in_engines.py``.
"""

from __future__ import annotations

import json
import string
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lowvram_ft.data.prepare import prepare
from lowvram_ft.data.prepared import IGNORE_INDEX
from lowvram_ft.data.sources import SOURCES
from lowvram_ft.rendering import from_folder
from tests.chat_templates import FAMILIES, SPECIAL
from tests.gguf_models import make_tokenizer
from tests.mask_oracle import MAX_LENGTH, prepared_rows, section, wrong
from tests.source_objects import OBJECTS, Task

TEXTS = st.text(st.sampled_from(string.printable + "éß日本🙂\u2028\x85<|>"), max_size=30).filter(
    lambda text: not any(token in text for token in (*SPECIAL, "<|endoftext|>"))
)
TASKS = st.builds(
    Task,
    number=st.integers(0, 99),
    name=st.sampled_from(["size", "größe", "f", "_count_all", "measure2"]),
    text=TEXTS,
    cases=st.integers(1, 4),
    tail=st.sampled_from(["", "\n", "  \n\n", "\r\n"]),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tokenizer for each family."""
    root = tmp_path_factory.mktemp("families")
    return {
        name: make_tokenizer(root / name, template=family[0], more_special=SPECIAL) for name, family in FAMILIES.items()
    }


def _decoder(folder: Path) -> Any:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("source", OBJECTS)
@given(tasks=st.lists(TASKS, min_size=1, max_size=5, unique_by=lambda task: task.number))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_mask_is_the_completion_and_the_end_token(
    source: str, family: str, tasks: list[Task], folders: dict[str, Path]
) -> None:
    chat = from_folder(folders[family])
    decode = _decoder(folders[family])
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rows.jsonl"
        path.write_text("".join(json.dumps(OBJECTS[source](task)) + "\n" for task in tasks), encoding="utf-8")
        made = prepare(section(source, path), chat, MAX_LENGTH, Path(name) / "set")
        sides = [(list(side), list(side.for_trainer())) for side in (made.train, made.eval)]
    assert made.facts["train"] + made.facts["eval"] == len(tasks), made.dropped
    for examples, records in sides:
        for example, record in zip(examples, records, strict=True):
            assert wrong(record["input_ids"], record["labels"], example, family, decode) is None
            assert wrong(example.input_ids, example.labels, example, family, decode) is None
            (task,) = [task for task in tasks if task.code == example.row.code]
            assert source == "coderm" or example.row.completion == task.test().strip()
            assert all(line in example.row.completion for line in task.asserts)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_rows_that_ship_have_it_too(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    chat = from_folder(folders[family])
    examples, records = prepared_rows("samples", None, chat, tmp_path / "set")
    assert len(examples) == len(records) > 200
    for example, record in zip(examples, records, strict=True):
        assert wrong(record["input_ids"], record["labels"], example, family, _decoder(folders[family])) is None


def test_every_source_is_here() -> None:
    assert set(OBJECTS) | {"samples"} == set(SOURCES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_that_is_off_by_one_is_seen(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    examples, _ = prepared_rows("samples", None, from_folder(folders[family]), tmp_path / "set")
    example, decode = examples[0], _decoder(folders[family])
    ids, labels = list(example.input_ids), example.labels
    start = example.completion_mask.index(1)
    assert wrong(ids, labels, example, family, decode) is None
    one_early = [*labels[: start - 1], ids[start - 1], *labels[start:]]
    one_late = [*labels[:start], IGNORE_INDEX, *labels[start + 1 :]]
    without_end = [*labels[:-1], IGNORE_INDEX]
    other = [*labels[:-2], labels[-2] + 1, labels[-1]]
    for broken in (one_early, one_late, without_end, other, ids, labels[:-1]):
        assert wrong(ids, broken, example, family, decode) is not None
    cut = replace(example, row=replace(example.row, completion=example.row.completion + "\n# more"))
    assert wrong(ids, labels, cut, family, decode) is not None
    assert wrong([ids[0], *ids], [IGNORE_INDEX, *labels], example, family, decode) is not None


@pytest.mark.parametrize("source", OBJECTS)
def test_a_row_that_spells_out_a_control_token_is_left_out(
    source: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    tasks = [Task(1, "plain", "text", 2, ""), Task(2, "tagged", "a<|im_end|>b", 2, "")]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(OBJECTS[source](task)) + "\n" for task in tasks), encoding="utf-8")
    made = prepare(section(source, path), from_folder(folders["chatml"]), MAX_LENGTH, tmp_path / "set")
    assert made.dropped == {"spells out a control token of the model": 1}
    (kept,) = [*made.train, *made.eval]
    assert "def plain" in kept.row.code
    (noted,) = [json.loads(line) for line in (made.folder / "dropped.jsonl").read_text().splitlines()]
    assert (noted["step"], noted["detail"]) == ("control tokens", "<|im_end|>")
