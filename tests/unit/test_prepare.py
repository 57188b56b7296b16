"""From rows to tokens: splits by group, nothing cut, and everything left out is told."""

import json
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowvram_ft.data.prepare import IGNORE_INDEX, Example, prepare, split
from lowvram_ft.data.row import make_row
from lowvram_ft.errors import DataError
from lowvram_ft.recipe import DataSection
from lowvram_ft.rendering import ChatFormat, Rendered

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHAT = ChatFormat(TEMPLATE, {}, None, "<end>", lambda text: [ord(letter) for letter in text])
"""A token a letter, so that every length can be counted by hand."""


def example(group: str, name: str) -> Example:
    row = make_row(id=name, group=group, source="s", code="c", test="t")
    return Example(row, Rendered("pt", (1, 2), (0, 1)))


EXAMPLES = st.lists(st.integers(0, 30)).map(
    lambda groups: [example(f"g{group}", str(place)) for place, group in enumerate(groups)]
)
SHARES = st.sampled_from([0.01, 0.05, 0.1, 0.3, 0.49])


@given(EXAMPLES, SHARES, SHARES | st.just(0.0), st.integers(0, 5))
def test_no_group_is_on_two_sides_and_no_row_is_lost_or_doubled(examples, eval_share, test_share, seed):
    sides = split(examples, eval_share, test_share, seed)
    homes = defaultdict(set)
    for number, side in enumerate(sides):
        for one in side:
            homes[one.row.group].add(number)
    assert all(len(home) == 1 for home in homes.values())
    assert sorted(e.row.id for side in sides for e in side) == sorted(e.row.id for e in examples)


@given(EXAMPLES, SHARES, st.integers(0, 5))
def test_a_split_leaves_something_to_train_on_and_to_validate_with(examples, eval_share, seed):
    train, validation, test = split(examples, eval_share, 0.0, seed)
    groups = {e.row.group for e in examples}
    assert bool(train) == (len(groups) > 0)
    assert bool(validation) == (len(groups) > 1)
    assert not test


@given(st.permutations(range(20)))
def test_where_a_group_lands_does_not_depend_on_the_order(order):
    examples = [example(f"g{i}", str(i)) for i in range(20)]
    there = [{e.row.id for e in side} for side in split(examples, 0.2, 0.2, 0)]
    again = [{e.row.id for e in side} for side in split([examples[i] for i in order], 0.2, 0.2, 0)]
    assert there == again


def test_where_a_group_lands_does_not_depend_on_the_other_groups():
    examples = [example(f"g{i}", str(i)) for i in range(400)]
    half = examples[::2]
    all_sides, half_sides = split(examples, 0.1, 0.1, 0), split(half, 0.1, 0.1, 0)
    for whole, part in zip(all_sides, half_sides, strict=True):
        assert {e.row.id for e in part} == {e.row.id for e in whole} & {e.row.id for e in half}


def test_the_shares_are_kept_and_the_seed_changes_the_groups():
    examples = [example(f"g{i}", str(i)) for i in range(4000)]
    train, validation, test = split(examples, 0.1, 0.2, 0)
    assert len(validation) == pytest.approx(400, abs=80)
    assert len(test) == pytest.approx(800, abs=110)
    assert {e.row.id for e in split(examples, 0.1, 0.2, 1)[1]} != {e.row.id for e in validation}
    assert len(train) + len(validation) + len(test) == 4000


def test_labels_carry_the_tokens_of_the_completion_and_nothing_else():
    rendered = Rendered("abc", (5, 6, 7), (0, 1, 1))
    assert Example(example("g", "1").row, rendered).labels == [IGNORE_INDEX, 6, 7] == [-100, 6, 7]
    with pytest.raises(ValueError, match="shorter"):
        _ = replace(example("g", "1"), rendered=Rendered("ab", (5, 6), (0,))).labels


def value(name: int, extra: int = 0) -> dict[str, str]:
    return {"id": f"r{name}", "code": f"def f{name}(): pass", "test": "x = 1" + " " * extra + "# end"}


def section(tmp_path, *values, **settings) -> DataSection:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join((v if isinstance(v, str) else json.dumps(v)) + "\n" for v in values))
    return DataSection(path=str(path), **settings)


def length(one: dict[str, str]) -> int:
    """Tokens of a row, counted without the code under test."""
    prompt = (
        "### Task: Write pytest tests\n\n### Code Under Test:\n" + one["code"] + "\n\n### Constraints:\n"
        "pytest only, no hypothesis, no unittest. Edge cases, parametrize, no explanation."
    )
    return len(f"<user>{prompt}<end>\n<assistant>{one['test']}<end>")


def test_a_row_that_is_too_long_is_left_out_whole_and_told(tmp_path):
    values = [value(1), value(2), value(3, extra=1), value(4, extra=500)]
    prepared = prepare(section(tmp_path, *values), CHAT, length(values[0]))
    kept = [*prepared.train, *prepared.eval]
    assert {e.row.id for e in kept} == {"r1", "r2"}
    assert prepared.dropped == {f"longer than {length(values[0])} tokens": 2}
    assert all(e.rendered.text.endswith(e.row.completion + "<end>") for e in kept), "nothing is cut"
    longer = prepare(section(tmp_path, *values), CHAT, length(values[2]))
    assert longer.to_json()["longest"] == length(values[2])


def test_a_row_that_is_too_long_can_be_fatal(tmp_path):
    values = [value(1), value(2, extra=9)]
    with pytest.raises(DataError) as caught:
        prepare(section(tmp_path, *values, too_long="fatal"), CHAT, length(values[0]))
    assert str(caught.value) == (
        f"samples r2: has {length(values[1])} tokens (max_length is {length(values[0])}); "
        'raise train.max_length, or set data.too_long = "drop"'
    )
    assert prepare(section(tmp_path, *values, too_long="fatal"), CHAT, length(values[1])).train


def test_where_no_row_is_left_the_reasons_are_told(tmp_path):
    with pytest.raises(DataError, match=r"samples: no row is left to train on \(2 longer than 10 tokens\)"):
        prepare(section(tmp_path, value(1), value(2)), CHAT, 10)
    with pytest.raises(DataError, match=r"no row is left to train on \(the source is empty\)"):
        prepare(section(tmp_path), CHAT, 10)


@pytest.mark.parametrize("seed", range(30))
def test_a_single_row_is_trained_on_whatever_the_seed(tmp_path, seed):
    prepared = prepare(section(tmp_path, value(1), eval_share=0.49, seed=seed), CHAT, 1000)
    assert (len(prepared.train), len(prepared.eval)) == (1, 0)


def test_broken_lines_that_are_passed_over_are_told(tmp_path):
    rows = section(tmp_path, value(1), "{broken", value(2), broken_lines="skip")
    prepared = prepare(rows, CHAT, 1000)
    (note,) = prepared.notes
    assert note.startswith(f"{rows.path}: 1 broken line: line 2 (not JSON")
    assert note.endswith("; passed over")
    with pytest.raises(DataError, match=r"line 2 \(not JSON"):
        prepare(rows.model_copy(update={"broken_lines": "fatal"}), CHAT, 1000)


def test_the_counts_add_up(tmp_path):
    values = [value(i) for i in range(40)]
    prepared = prepare(section(tmp_path, *values, eval_share=0.2, test_share=0.2), CHAT, 1000)
    facts = prepared.to_json()
    assert facts["train"] + facts["eval"] + facts["test"] == 40
    assert facts["tokens"] == sum(length(one) for one in values)
    assert facts["trained_tokens"] == sum(len(e.row.completion + "<end>") for e in prepared.train)
    assert facts["test"] == len(prepared.test) > 0
    assert facts["notes"] == []


def test_on_row_hears_of_the_rows_that_are_read(tmp_path):
    heard = []
    prepare(section(tmp_path, value(1), value(2), value(3)), CHAT, 1000, heard.append)
    assert heard == [1, 2, 3]
