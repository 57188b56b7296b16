"""Reading pairs and winners: what a person may leave out, what is refused and where, and what stays on which side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lowvram_ft.data.evaluation_code import humaneval_problems
from lowvram_ft.data.pairs import PAIRS, WINNERS, code_in, read_pairs, read_winners
from lowvram_ft.data.prepared_pairs import prepare_pairs, refuse_evaluation_tasks
from lowvram_ft.data.row import build_prompt
from lowvram_ft.data.sources.samples import held_out_rows
from lowvram_ft.errors import DataError, MissingExtraError
from lowvram_ft.recipe import DataSection
from lowvram_ft.rendering import from_folder
from tests.pair_runs import pair, write_pairs

CODE = "def half(x):\n    return x / 2\n"
LEAST = {"code": CODE, "chosen": "assert half(2) == 1", "rejected": "assert True"}


def test_code_and_two_texts_are_enough(tmp_path: Path) -> None:
    (found,) = read_pairs(write_pairs(tmp_path / "p.jsonl", [LEAST]))
    assert found.prompt == build_prompt(CODE) and found.code == CODE and found.module == "solution"
    by_prompt = {"prompt": found.prompt, "chosen": " assert half(2) == 1\r\n", "rejected": "assert True"}
    (same,) = read_pairs(write_pairs(tmp_path / "q.jsonl", [by_prompt]))
    assert (same.code, same.prompt, same.chosen, same.group) == (CODE, found.prompt, found.chosen, found.group)
    assert same.id == found.id


def test_a_pair_set_keeps_what_it_says(tmp_path: Path) -> None:
    whole = {**LEAST, "prompt": "p", "id": "a", "group": "g", "module": "m", "meta": {"score": 1.0}}
    write_pairs(tmp_path / PAIRS, [whole])
    (found,) = read_pairs(tmp_path)
    assert (found.id, found.group, found.module, found.prompt, found.meta) == ("a", "g", "m", "p", {"score": 1.0})


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"chosen": "a", "rejected": "b"}, "line 2 has neither prompt nor code (keys: chosen, rejected)"),
        ({"prompt": "p", "rejected": "b"}, "line 2 has no chosen (keys: prompt, rejected)"),
        ({"prompt": "p", "chosen": "a", "rejected": " \n"}, "line 2 has no text in rejected"),
        ({"prompt": "p", "chosen": "a ", "rejected": "a"}, "line 2 has the same text as chosen and rejected"),
        ({"prompt": "p", "chosen": [{"role": "assistant"}], "rejected": "a"}, "line 2 has a list as chosen"),
        ({**LEAST, "meta": 3}, "line 2 has a int as meta"),
        ("not an object", "line 2 a str, not an object"),
    ],
)
def test_a_line_that_is_no_pair_is_named_with_the_reason(broken: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps(value) for value in (LEAST, broken)), encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_pairs(path)
    assert str(error.value).startswith(f"{path}: {said}") and "mend or remove" in str(error.value)


def test_all_broken_lines_are_told_in_one_go(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt"\n' + json.dumps(LEAST) + "\n" + '{"prompt": "p"}\n' * 7, encoding="utf-8")
    with pytest.raises(DataError, match=r"line 1 not JSON.*line 3 has no chosen.*and 3 more; mend"):
        read_pairs(path)
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="is empty"):
        read_pairs(path)
    with pytest.raises(DataError, match="no such file"):
        read_pairs(tmp_path / "none.jsonl")


def test_winners_come_from_a_set_or_from_pairs_each_once(tmp_path: Path) -> None:
    write_pairs(tmp_path / WINNERS, [{"id": "w", "code": CODE, "completion": "assert half(4) == 2"}])
    (winner,) = read_winners(tmp_path)
    assert (winner.id, winner.completion, winner.prompt) == ("w", "assert half(4) == 2", build_prompt(CODE))
    values = [LEAST, {**LEAST, "rejected": "assert 0"}, {**LEAST, "chosen": "assert half(0) == 0"}]
    found = read_winners(write_pairs(tmp_path / "p.jsonl", values))
    assert [one.completion for one in found] == ["assert half(2) == 1", "assert half(0) == 0"]
    with pytest.raises(DataError, match="line 1 has no code, and none is found in its prompt"):
        read_winners(write_pairs(tmp_path / "q.jsonl", [{"prompt": "Hello?", "chosen": "x", "rejected": "y"}]))


@pytest.mark.parametrize(
    "prompt",
    [
        build_prompt(CODE),
        f"Write tests for this:\n```python\n{CODE}```\nThanks",
        f"Please test the following function.\n\n{CODE}\nBe brief.",
        CODE,
    ],
)
def test_code_is_found_in_a_prompt(prompt: str) -> None:
    assert code_in(prompt) == CODE


def test_a_prompt_without_code_has_none() -> None:
    assert code_in("What is a test?") == code_in("import this, please!") == ""


def _evaluation_codes() -> list[str]:
    codes = [row.code for row in list(held_out_rows())[:2]]
    try:
        problem = humaneval_problems()[3]
        codes.append(problem["prompt"] + problem["canonical_solution"])
    except MissingExtraError:
        pass
    return codes


@pytest.mark.parametrize("place", ["code", "prompt", "fenced"])
def test_no_evaluation_task_is_trained_on(place: str, tiny_llama: Path, tmp_path: Path) -> None:
    for code in _evaluation_codes():
        planted: Mapping[str, Any] = {
            "code": {**LEAST, "code": code},
            "prompt": {**LEAST, "code": "", "prompt": build_prompt(code)},
            "fenced": {**LEAST, "code": "", "prompt": f"Test:\n```\n{code}\n```"},
        }[place]
        pairs = read_pairs(write_pairs(tmp_path / "p.jsonl", [LEAST, {**planted, "id": "planted"}]))
        with pytest.raises(DataError, match=r"evaluation tasks must never be trained on: number 2 \(planted\) holds"):
            prepare_pairs(pairs, DataSection(), from_folder(tiny_llama), 2048)
        with pytest.raises(DataError, match=r"number 2 \(planted\) holds"):
            refuse_evaluation_tasks(read_winners(tmp_path / "p.jsonl"), DataSection(), ())


def test_an_answer_that_holds_an_evaluation_task_is_left_out(tiny_llama: Path, tmp_path: Path) -> None:
    for side in ("chosen", "rejected"):
        planted = {**pair(1), side: f"{_evaluation_codes()[0]}\n\n{pair(1)[side]}"}
        found = _prepare(tiny_llama, [pair(0), planted], tmp_path)
        assert [one.pair.prompt for one in found.train] == [pair(0)["prompt"]]
        assert found.dropped == {"an answer holds the code of an evaluation task": 1}


def _prepare(
    model: Path, values: Sequence[Mapping[str, Any]], folder: Path, max_length: int = 2048, **data: Any
) -> Any:
    return prepare_pairs(
        read_pairs(write_pairs(folder / "p.jsonl", values)), DataSection(**data), from_folder(model), max_length
    )


def test_groups_stay_together_and_the_seed_decides(tiny_llama: Path, tmp_path: Path) -> None:
    values = [pair(number, group=f"task {number % 10}") for number in range(40)]
    seen = set()
    for seed in range(4):
        found = _prepare(tiny_llama, values, tmp_path, eval_share=0.3, seed=seed)
        sides = [{one.pair.group for one in side} for side in (found.train, found.eval)]
        assert not sides[0] & sides[1] and len(found.train) + len(found.eval) == 40 and found.eval
        seen.add(frozenset(sides[1]))
    assert len(seen) > 1


def test_long_pairs_and_control_tokens_are_left_out_and_counted(tiny_llama: Path, tmp_path: Path) -> None:
    long = {**pair(1), "rejected": "assert True\n" * 500}
    control = {**pair(2), "chosen": pair(2)["chosen"] + "# <|im_end|>"}
    found = _prepare(tiny_llama, [pair(0), long, control], tmp_path, max_length=1000)
    assert [one.pair.prompt for one in found.train] == [pair(0)["prompt"]]
    assert found.dropped == {"more than 1000 tokens": 1, "spells out a control token of the model": 1}
    facts = found.to_json()
    assert (facts["train"], facts["eval"], facts["test"]) == (1, 0, 0)
    (one,) = found.train
    assert facts["longest"] == one.length <= 1000
    assert facts["tokens"] == 2 * len(one.prompt_ids) + facts["trained_tokens"]
    with pytest.raises(DataError, match=r"none is left to train on \(1 more than 100 tokens\); raise train.max_length"):
        _prepare(tiny_llama, [pair(0)], tmp_path, max_length=100)


def test_tokens_are_those_of_a_row_of_supervised_fine_tuning(tiny_llama: Path, tmp_path: Path) -> None:
    chat = from_folder(tiny_llama)
    (one,) = _prepare(tiny_llama, [pair(0)], tmp_path).train
    for side, ids in (("chosen", one.chosen_ids), ("rejected", one.rejected_ids)):
        rendered = chat.render(pair(0)["prompt"], pair(0)[side].strip())
        assert (*one.prompt_ids, *ids) == rendered.input_ids
        assert sum(rendered.completion_mask) == len(ids) and ids[-1] == chat.encode("<|im_end|>")[0]
