"""One notch down: the order of the classes, what the engine can do, what the recipe allows."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, get_args

import pytest

from lowvram_ft.memory.levers import LEVERS
from lowvram_ft.memory.notches import FIRST_LAYERS, MIN_CHUNK, MIN_LENGTH, Lever, step_down
from lowvram_ft.memory.setup import TrainingSetup

ALL = get_args(Lever)
WHOLE = TrainingSetup(
    gradient_checkpointing=False,
    optimizer="adamw_torch",
    per_device_train_batch_size=4,
    gradient_accumulation_steps=4,
    max_length=1024,
)


def _way_down(setup: TrainingSetup, **given: Any) -> list[tuple[str, dict[str, Any]]]:
    """(lever, what it changed) until nothing is left."""
    settings: dict[str, Any] = {"levers": ALL, "allow": ALL, "num_layers": 4, "tied": False} | given
    found = []
    while (notch := step_down(setup, **settings)) is not None:
        changed = {
            field.name: getattr(notch.setup, field.name)
            for field in fields(TrainingSetup)
            if getattr(notch.setup, field.name) != getattr(setup, field.name)
        }
        assert changed, f"{notch.lever} changes nothing"
        found.append((notch.lever, changed))
        setup = notch.setup
    return found


def test_the_whole_way_down() -> None:
    assert _way_down(WHOLE) == [
        ("checkpointing", {"gradient_checkpointing": True}),
        ("offload_activations", {"offload_activations": True}),
        ("offload_layers", {"offload_layers": 2}),
        ("offload_layers", {"offload_layers": 4}),
        ("offload_embedding", {"offload_embedding": True}),
        ("offload_optimizer", {"offload_optimizer": True}),
        ("offload_head", {"head": "host"}),
        ("smaller_batch", {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8}),
        ("smaller_batch", {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16}),
        ("nf4_head", {"head": "nf4"}),
        ("nf4_embedding", {"nf4_embedding": True}),
        ("optimizer_8bit", {"optimizer": "adamw_8bit"}),
        ("shorter", {"max_length": 512}),
    ]


def test_a_loss_on_the_card_comes_in_ever_smaller_chunks() -> None:
    down = {"levers": ("chunked_loss",)}
    assert _way_down(replace(WHOLE, loss_chunk=None), **down) == [
        ("chunked_loss", {"loss_chunk": 256}),
        ("chunked_loss", {"loss_chunk": 128}),
        ("chunked_loss", {"loss_chunk": MIN_CHUNK}),
    ]
    assert _way_down(replace(WHOLE, loss_chunk=1 << 20, max_length=100), **down)[0] == (
        "chunked_loss",
        {"loss_chunk": 200},
    )
    assert _way_down(replace(WHOLE, head="host"), **down) == []


def test_dequantized_copies_go_before_anything_is_checkpointed() -> None:
    found = _way_down(replace(WHOLE, keep_dequantized=True), levers=("checkpointing",))
    assert found == [
        ("checkpointing", {"keep_dequantized": False}),
        ("checkpointing", {"gradient_checkpointing": True}),
    ]


def test_every_word_is_a_notch_but_those_that_need_a_new_adapter() -> None:
    assert set(LEVERS) - set(ALL) == {"smaller_rank", "smaller_model"}


def test_no_class_comes_after_a_heavier_one() -> None:
    levels = [LEVERS[lever] for lever, _ in _way_down(WHOLE)]
    assert levels == sorted(levels)
    assert set(levels) == {1, 2, 3, 4}


@pytest.mark.parametrize("lever", ALL)
def test_what_is_not_allowed_or_not_possible_is_left_out(lever: Lever) -> None:
    # a head that has left the card has its loss in slices: there are no chunks to make smaller
    every = [word for word in ALL if lever != "chunked_loss" or word != "offload_head"]
    others = [word for word in every if word != lever]
    assert lever in [word for word, _ in _way_down(WHOLE, allow=every)]
    assert lever not in [word for word, _ in _way_down(WHOLE, allow=others)]
    assert lever not in [word for word, _ in _way_down(WHOLE, levers=others)]


def test_nothing_is_left() -> None:
    assert _way_down(WHOLE, levers=()) == _way_down(WHOLE, allow=()) == []
    down = replace(WHOLE, gradient_checkpointing=True, per_device_train_batch_size=1)
    assert _way_down(down, levers=("checkpointing", "smaller_batch")) == []


def test_layers_go_in_steps_that_double() -> None:
    setup = replace(WHOLE, gradient_checkpointing=True)
    moved = []
    for taken in range(3):
        notch = step_down(setup, levers=("offload_layers",), allow=ALL, num_layers=32, tied=False, taken=taken)
        assert notch is not None
        setup = notch.setup
        moved.append(setup.offload_layers)
    assert moved == [FIRST_LAYERS, 3 * FIRST_LAYERS, 7 * FIRST_LAYERS]


def test_layers_and_activations_need_checkpointing() -> None:
    assert _way_down(WHOLE, levers=("offload_layers", "offload_activations")) == []


@pytest.mark.parametrize(("batch", "steps", "half"), [(4, 4, 2), (3, 2, 1), (6, 1, 3), (5, 2, 2), (2, 7, 1)])
def test_the_effective_batch_stays(batch: int, steps: int, half: int) -> None:
    setup = replace(WHOLE, per_device_train_batch_size=batch, gradient_accumulation_steps=steps)
    notch = step_down(setup, levers=("smaller_batch",), allow=ALL, num_layers=4, tied=False)
    assert notch is not None
    assert notch.setup.per_device_train_batch_size == half
    assert notch.setup.effective_batch == batch * steps


def test_an_embedding_that_is_the_head_moves_as_the_head() -> None:
    words = [lever for lever, _ in _way_down(WHOLE, tied=True)]
    assert "offload_head" in words and "nf4_head" in words
    assert "offload_embedding" not in words and "nf4_embedding" not in words


def test_rows_are_not_cut_below_a_length_that_teaches() -> None:
    assert _way_down(replace(WHOLE, max_length=2 * MIN_LENGTH - 1), levers=("shorter",)) == []


def test_a_host_that_is_full_gets_nothing_more() -> None:
    assert _way_down(WHOLE, short="host") == []
    kept_there = replace(WHOLE, gradient_checkpointing=True, offload_activations=True)
    assert [word for word, _ in _way_down(kept_there, short="host")] == ["smaller_batch", "smaller_batch", "shorter"]
