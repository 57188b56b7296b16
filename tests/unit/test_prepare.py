"""From rows to a prepared set: splits by group, nothing cut, and everything left out is told."""

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowvram_ft.data.prepare import cached_set
from lowvram_ft.data.prepare import prepare as prepare_in
from lowvram_ft.data.prepared import IGNORE_INDEX, Example, Prepared
from lowvram_ft.data.row import make_row
from lowvram_ft.data.split import group_hash, sides
from lowvram_ft.errors import DataError
from lowvram_ft.recipe import DataSection
from lowvram_ft.rendering import ChatFormat

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHAT = ChatFormat(TEMPLATE, {}, None, "<end>", lambda text: [ord(letter) for letter in text])
"""A token a letter, so that every length can be counted by hand."""

GROUPS = st.lists(st.integers(0, 30).map(lambda number: f"g{number}"))
SHARES = st.sampled_from([0.01, 0.05, 0.1, 0.3, 0.49])


def split(groups, eval_share, test_share, seed) -> tuple[set[int], set[int], set[int]]:
    """Places of the rows that land on each side."""
    found = sides([group_hash(group, seed) for group in groups], eval_share, test_share)
    return tuple(set(np.flatnonzero(found == side).tolist()) for side in range(3))


@given(GROUPS, SHARES, SHARES | st.just(0.0), st.integers(0, 5))
def test_no_group_is_on_two_sides_and_no_row_is_lost_or_doubled(groups, eval_share, test_share, seed):
    there = split(groups, eval_share, test_share, seed)
    homes = defaultdict(set)
    for number, side in enumerate(there):
        for place in side:
            homes[groups[place]].add(number)
    assert all(len(home) == 1 for home in homes.values())
    assert sorted(place for side in there for place in side) == list(range(len(groups)))


@given(GROUPS, SHARES, st.integers(0, 5))
def test_a_split_leaves_something_to_train_on_and_to_validate_with(groups, eval_share, seed):
    train, validation, test = split(groups, eval_share, 0.0, seed)
    assert bool(train) == bool(groups)
    assert bool(validation) == (len(set(groups)) > 1)
    assert not test


@given(st.permutations(range(20)))
def test_where_a_group_lands_does_not_depend_on_the_order(order):
    groups = [f"g{i}" for i in range(20)]
    there = split(groups, 0.2, 0.2, 0)
    again = split([groups[i] for i in order], 0.2, 0.2, 0)
    assert [{order[place] for place in side} for side in again] == list(there)


def test_where_a_group_lands_does_not_depend_on_the_other_groups():
    groups = [f"g{i}" for i in range(400)]
    for whole, part in zip(split(groups, 0.1, 0.1, 0), split(groups[::2], 0.1, 0.1, 0), strict=True):
        assert {2 * place for place in part} == {place for place in whole if place % 2 == 0}


def test_the_shares_are_kept_and_the_seed_changes_the_groups():
    groups = [f"g{i}" for i in range(4000)]
    train, validation, test = split(groups, 0.1, 0.2, 0)
    assert len(validation) == pytest.approx(400, abs=80)
    assert len(test) == pytest.approx(800, abs=110)
    assert split(groups, 0.1, 0.2, 1)[1] != validation
    assert len(train) + len(validation) + len(test) == 4000


def test_labels_carry_the_tokens_of_the_completion_and_nothing_else():
    row = make_row(id="1", group="g", source="s", code="c", test="t")
    example = Example(row, (5, 6, 7), (0, 1, 1))
    assert example.labels == [IGNORE_INDEX, 6, 7] == [-100, 6, 7]
    with pytest.raises(ValueError, match="shorter"):
        _ = replace(example, completion_mask=(0,)).labels


@pytest.fixture
def prepare(tmp_path):
    def call(section: DataSection, chat: ChatFormat, max_length: int, **more) -> Prepared:
        return prepare_in(section, chat, max_length, tmp_path / "made" / "set", **more)

    return call


def value(name: int, extra: int = 0) -> dict[str, str]:
    return {"id": f"r{name}", "code": f"def f{name}(): pass", "test": "x = 1" + " " * extra + "# end"}


def section(tmp_path, *values, **settings) -> DataSection:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join((v if isinstance(v, str) else json.dumps(v)) + "\n" for v in values))
    return DataSection(path=str(path), **settings)


def text(example: Example) -> str:
    return "".join(map(chr, example.input_ids))


def length(one: dict[str, str]) -> int:
    """Tokens of a row, counted without the code under test."""
    prompt = (
        "### Task: Write pytest tests\n\n### Code Under Test:\n" + one["code"] + "\n\n### Constraints:\n"
        "pytest only, no hypothesis, no unittest. Edge cases, parametrize, no explanation."
    )
    return len(f"<user>{prompt}<end>\n<assistant>{one['test']}<end>")


def test_a_row_that_is_too_long_is_left_out_whole_and_told(tmp_path, prepare):
    values = [value(1), value(2), value(3, extra=1), value(4, extra=500)]
    prepared = prepare(section(tmp_path, *values), CHAT, length(values[0]))
    kept = [*prepared.train, *prepared.eval]
    assert {e.row.id for e in kept} == {"r1", "r2"}
    assert prepared.dropped == {f"longer than {length(values[0])} tokens": 2}
    assert all(text(e).endswith(e.row.completion + "<end>") for e in kept), "nothing is cut"
    longer = prepare(section(tmp_path, *values), CHAT, length(values[2]))
    assert longer.to_json()["longest"] == length(values[2])


def test_a_row_that_is_too_long_can_be_fatal(tmp_path, prepare):
    values = [value(1), value(2, extra=9)]
    with pytest.raises(DataError) as caught:
        prepare(section(tmp_path, *values, too_long="fatal"), CHAT, length(values[0]))
    assert str(caught.value) == (
        f"samples r2: has {length(values[1])} tokens (max_length is {length(values[0])}); "
        'raise train.max_length, or set data.too_long = "drop"'
    )
    assert prepare(section(tmp_path, *values, too_long="fatal"), CHAT, length(values[1])).train


def test_where_no_row_is_left_the_reasons_are_told(tmp_path, prepare):
    with pytest.raises(DataError, match=r"samples: no row is left to train on \(2 longer than 10 tokens\)"):
        prepare(section(tmp_path, value(1), value(2)), CHAT, 10)
    with pytest.raises(DataError, match=r"no row is left to train on \(the source is empty\)"):
        prepare(section(tmp_path), CHAT, 10)


@pytest.mark.parametrize("seed", range(30))
def test_a_single_row_is_trained_on_whatever_the_seed(tmp_path, prepare, seed):
    prepared = prepare(section(tmp_path, value(1), eval_share=0.49, seed=seed), CHAT, 1000)
    assert (len(prepared.train), len(prepared.eval)) == (1, 0)


def test_broken_lines_that_are_passed_over_are_told(tmp_path, prepare):
    rows = section(tmp_path, value(1), "{broken", value(2), broken_lines="skip")
    prepared = prepare(rows, CHAT, 1000)
    (note,) = prepared.notes
    assert note.startswith(f"{rows.path}: 1 broken line: line 2 (not JSON")
    assert note.endswith("; passed over")
    with pytest.raises(DataError, match=r"line 2 \(not JSON"):
        prepare(rows.model_copy(update={"broken_lines": "fatal"}), CHAT, 1000)


def test_the_counts_add_up(tmp_path, prepare):
    values = [value(i) for i in range(40)]
    prepared = prepare(section(tmp_path, *values, eval_share=0.2, test_share=0.2), CHAT, 1000)
    facts = prepared.to_json()
    assert facts["train"] + facts["eval"] + facts["test"] == 40
    assert facts["tokens"] == sum(length(one) for one in values)
    assert facts["trained_tokens"] == sum(len(e.row.completion + "<end>") for e in prepared.train)
    assert facts["test"] == len(prepared.test) > 0
    assert facts["notes"] == []


def test_on_row_hears_of_the_rows_that_are_read(tmp_path, prepare):
    heard = []
    prepare(section(tmp_path, value(1), value(2), value(3)), CHAT, 1000, on_row=heard.append)
    assert heard == [3]


# --- what lies on the disk


def test_what_is_written_is_what_was_rendered(tmp_path, prepare):
    values = [value(i) for i in range(20)]
    prepared = prepare(section(tmp_path, *values, eval_share=0.3), CHAT, 1000)
    for example in [*prepared.train, *prepared.eval]:
        rendered = CHAT.render(example.row.prompt, example.row.completion)
        assert example.input_ids == rendered.input_ids
        assert example.completion_mask == rendered.completion_mask
        assert example.row.prompt.count("### Code Under Test") == 1
    dataset = prepared.train.for_trainer()
    assert dataset.column_names == ["input_ids", "labels"]
    assert [row["labels"] for row in dataset] == [example.labels for example in prepared.train]
    assert sorted(path.name for path in prepared.folder.iterdir()) == [
        "README.md", "dropped.jsonl", "eval.arrow", "prepared.json", "train.arrow",
    ]  # fmt: skip


def test_failure_traces_keep_the_failure_in_their_prompt(tmp_path, prepare):
    trace = {"code": "def f(): return 1", "failed_test": "def test_f(): assert f() == 2", "failure_log": "E  1 == 2",
             "fixed_test": "from solution import f\ndef test_f(): assert f() == 1"}  # fmt: skip
    prepared = prepare(section(tmp_path, trace, source="failure_traces"), CHAT, 5000)
    (example,) = prepared.train
    assert "### Failing test:\ndef test_f(): assert f() == 2" in example.row.prompt
    assert example.row.meta["failed_test"] == trace["failed_test"]


def test_the_same_inputs_give_the_same_bytes(tmp_path, prepare):
    rows = section(tmp_path, *[value(i) for i in range(40)], eval_share=0.2, test_share=0.2, max_rows=30)

    def contents() -> dict[str, bytes]:
        folder = prepare(rows, CHAT, 1000).folder
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    first = contents()
    assert contents() == first
    assert len(first) == 6


def test_a_set_that_cannot_be_made_leaves_the_one_before_and_nothing_else(tmp_path, prepare):
    good = prepare(section(tmp_path, value(1), value(2)), CHAT, 1000)
    before = {path.name: path.read_bytes() for path in good.folder.iterdir()}
    with pytest.raises(DataError):
        prepare(section(tmp_path, value(1)), CHAT, 10)
    assert {path.name: path.read_bytes() for path in good.folder.iterdir()} == before
    assert [path.name for path in good.folder.parent.iterdir()] == ["set"]


def test_a_set_is_made_once_for_the_same_inputs(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWVRAM_FT_CACHE", str(tmp_path / "cache"))
    rows = section(tmp_path, value(1), value(2), value(3))
    heard = []
    first = cached_set(rows, CHAT, 1000, on_row=heard.append)
    assert cached_set(rows, CHAT, 1000, on_row=heard.append).folder == first.folder
    assert heard == [3], "made twice"
    folders = {first.folder, cached_set(rows, CHAT, 999).folder}
    folders.add(cached_set(rows.model_copy(update={"seed": 1}), CHAT, 1000).folder)
    folders.add(cached_set(rows, replace(CHAT, system="Be kind."), 1000).folder)
    Path(str(rows.path)).write_text(json.dumps(value(1)) + "\n")
    folders.add(cached_set(rows, CHAT, 1000).folder)
    assert len(folders) == 5


def test_more_rows_than_wanted_are_drawn_and_counted(tmp_path, prepare):
    rows = section(tmp_path, *[value(i) for i in range(40)], max_rows=10)
    prepared = prepare(rows, CHAT, 1000)
    kept = [example.row.id for example in [*prepared.train, *prepared.eval]]
    assert len(kept) == 10
    assert kept != [f"r{i}" for i in range(10)]
    assert prepared.dropped == {"not drawn: 10 rows are wanted": 30}
    again = prepare(rows.model_copy(update={"seed": 1}), CHAT, 1000)
    assert {example.row.id for example in [*again.train, *again.eval]} != set(kept)


def test_rows_that_do_not_hold_when_run_are_replaced_by_the_next(tmp_path, prepare):
    ran = []

    def verify(examples):
        ran.extend(example.row.id for example in examples)
        return [
            ("its test fails" if example.row.id.endswith("3") else None, {"mutation_score": 0.5})
            for example in examples
        ]

    rows = section(tmp_path, *[value(i) for i in range(40)], max_rows=36, verify=True)
    prepared = prepare(rows, CHAT, 1000, verify=verify)
    kept = [*prepared.train, *prepared.eval]
    assert {example.row.id for example in kept} == {f"r{i}" for i in range(40) if i % 10 != 3}
    assert {example.row.meta["mutation_score"] for example in kept} == {0.5}
    assert prepared.dropped == {"its test fails": 4}
    assert len(ran) == 40


def test_what_was_dropped_is_written_down_with_where_it_stood(tmp_path, prepare):
    rows = section(tmp_path, value(1), "{broken", value(2), value(3, extra=999))
    prepared = prepare(rows, CHAT, length(value(1)))
    lines = [json.loads(line) for line in (prepared.folder / "dropped.jsonl").read_text().splitlines()]
    long = f"longer than {length(value(1))} tokens"
    assert lines == [
        {"where": f"{rows.path}:2", "id": "", "step": "read", "reason": "broken line: not JSON", "detail": ""},
        {"where": f"{rows.path}:4", "id": "r3", "step": "length", "reason": long, "detail": ""},
    ]
    assert prepared.facts["funnel"]["steps"] == [
        {"step": "read", "in": 4, "out": 3, "reasons": {"broken line: not JSON": 1}},
        {"step": "length", "in": 3, "out": 2, "reasons": {f"longer than {length(value(1))} tokens": 1}},
    ]
    card = (prepared.folder / "README.md").read_text()
    assert "| length | 3 | 2 | 1 longer than" in card
    assert prepared.facts["sha256"]["train.arrow"] in card
