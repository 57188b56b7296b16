"""Several processes: who they are, what they tell each other, what each plans and accumulates."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from lowvram_ft.errors import MachineError, RecipeError, TrainingError
from lowvram_ft.hardware import Gpu, Hardware
from lowvram_ft.memory.for_recipe import plan_recipe
from lowvram_ft.memory.several import facts_of, for_one_of, place_for, share_of, smallest
from lowvram_ft.recipe import load
from lowvram_ft.training.from_plan import as_planned
from lowvram_ft.training.processes import ranks as ranks_module
from lowvram_ft.training.processes.ranks import FAILED, Ranks, from_environment, own_part

GIB = 2**30


class FakeStore:
    """A ``torch.distributed.Store`` in this process's memory."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self._lock = threading.Lock()

    def set(self, key: str, value: str) -> None:
        with self._lock:
            assert key not in self.values, f"{key} is said twice"
            self.values[key] = value

    def get(self, key: str) -> bytes:
        return self.values[key].encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def add(self, key: str, amount: int) -> int:
        with self._lock:
            count = int(self.values.get(key, "0")) + amount
            self.values[key] = str(count)
            return count


def _together(size: int, what: Callable[[Ranks], Any]) -> list[Any]:
    """What each of several processes gets, here threads; an exception is what it gets."""
    store, found = FakeStore(), [None] * size

    def work(rank: int) -> None:
        try:
            found[rank] = what(Ranks(rank, size, rank, size, store=store))
        except Exception as error:
            found[rank] = error  # type: ignore[call-overload]

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    return found


def _hardware(*gib: float, ram_gib: int = 32) -> Hardware:
    gpus = tuple(Gpu(f"card {size}", int(size * GIB), int(size * GIB), (8, 6), "570") for size in gib)
    ram = ram_gib * GIB
    return Hardware(gpus, None, "12.8", 8, "cpu", (), ram, ram, 500 * GIB, "linux", "3.11")


def test_a_process_alone_has_nobody_to_wait_for() -> None:
    alone = from_environment({})
    assert alone == Ranks() and alone.leads
    assert alone.share(lambda: 3) == 3 and alone.gather("x") == ["x"] and alone.claims_failure()
    with alone.first(), alone.noticing_losses():
        pass


def test_the_launchers_variables_are_read() -> None:
    given = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1"}
    found = from_environment(given)
    assert (found.rank, found.world_size, found.local_rank, found.local_world_size, found.node) == (5, 8, 1, 4, 1)
    assert not found.leads


@pytest.mark.parametrize(
    "given", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": "x", "LOCAL_RANK": "0"},
              {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0"}, {"WORLD_SIZE": "two"}]
)  # fmt: skip
def test_variables_that_are_not_whole_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(MachineError, match="torchrun"):
        from_environment(given)


def test_all_get_what_the_leader_makes_in_the_order_of_the_calls() -> None:
    made: list[int] = []

    def work(ranks: Ranks) -> list[Any]:
        return [ranks.share(lambda: made.append(ranks.rank) or {"n": 1}), ranks.share(lambda: None), ranks.share(list)]

    assert _together(3, work) == [[{"n": 1}, None, []]] * 3
    assert made == [0]


def test_values_are_gathered_by_rank() -> None:
    assert _together(3, lambda ranks: ranks.gather(ranks.rank * 10)) == [[0, 10, 20]] * 3


def test_one_process_goes_in_first() -> None:
    inside: list[int] = []

    def work(ranks: Ranks) -> int:
        with ranks.first():
            inside.append(ranks.rank)
            return len(inside)

    assert _together(4, work)[0] == 1
    assert sorted(inside) == [0, 1, 2, 3]


def test_those_who_wait_learn_that_another_process_has_failed() -> None:
    def work(ranks: Ranks) -> Any:
        if ranks.rank == 1:
            return ranks.claims_failure()
        return ranks.gather(None)

    waiting, first, also_waiting = _together(3, work)
    assert first is True
    assert isinstance(waiting, TrainingError) and isinstance(also_waiting, TrainingError)
    assert "another process of this run has ended" in str(waiting)


def test_one_process_alone_tells_why() -> None:
    assert sorted(_together(4, lambda ranks: ranks.claims_failure())) == [False, False, False, True]


def test_a_store_that_is_gone_is_a_process_that_has_ended() -> None:
    class Gone(FakeStore):
        def check(self, keys: list[str]) -> bool:
            raise RuntimeError("Connection reset by peer")

        def add(self, key: str, amount: int) -> int:
            raise RuntimeError("Connection reset by peer")

    ranks = Ranks(1, 2, 1, 2, store=Gone())
    with pytest.raises(TrainingError, match="has ended"):
        ranks.share(dict)
    assert ranks.claims_failure() is False


def test_a_lost_connection_is_told_in_words_and_a_defect_is_not() -> None:
    ranks = Ranks(0, 2, 0, 2, store=FakeStore())
    with pytest.raises(TrainingError, match="has ended"), ranks.noticing_losses():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer")
    with pytest.raises(RuntimeError, match="shape"), ranks.noticing_losses():
        raise RuntimeError("shape mismatch")
    with pytest.raises(RuntimeError, match="reset"), Ranks().noticing_losses():
        raise RuntimeError("Connection reset by peer")


def test_alone_told_elsewhere_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert ranks_module.told_elsewhere() is False
    monkeypatch.setenv("WORLD_SIZE", "2")
    store = FakeStore()
    monkeypatch.setattr(ranks_module, "here", lambda: Ranks(1, 2, 1, 2, store=store))
    monkeypatch.setattr(ranks_module.signal, "signal", lambda number, handler: None)
    assert ranks_module.told_elsewhere() is False
    assert ranks_module.told_elsewhere() is True
    assert store.values[FAILED] == "2"


def test_each_process_has_its_card_and_its_share_of_the_memory() -> None:
    machine = _hardware(8, 6, ram_gib=32)
    second = own_part(machine, Ranks(1, 2, 1, 2))
    assert [gpu.name for gpu in second.gpus] == ["card 6"]
    assert second.ram_total_bytes == 16 * GIB
    assert own_part(machine, Ranks()) == machine
    assert own_part(_hardware(), Ranks(1, 2, 1, 2)).gpus == ()


def test_more_processes_than_cards_are_refused() -> None:
    with pytest.raises(MachineError, match=r"3 processes for 2 GPUs.*--nproc_per_node 2"):
        own_part(_hardware(8, 8), Ranks(0, 3, 0, 3))


def test_the_smallest_card_and_memory_decide() -> None:
    parts = [_hardware(24, ram_gib=16), _hardware(4, ram_gib=64)]
    for part in parts:
        found = smallest(part, [facts_of(each) for each in parts])
        assert (found.gpus[0].total_bytes, found.ram_total_bytes) == (4 * GIB, 16 * GIB)
    assert smallest(_hardware(ram_gib=8), [facts_of(_hardware(ram_gib=8))]).gpus == ()


def test_memory_that_a_recipe_names_is_for_all_processes() -> None:
    recipe = load("stage_a_kodcode").final
    assert recipe.hardware.ram_gib == 16
    assert for_one_of(recipe, 2).hardware.ram_gib == 8
    assert for_one_of(recipe, 1) is recipe


def test_a_larger_card_keeps_more_and_trains_the_same() -> None:
    recipe = load("stage_a_kodcode").final
    machine = recipe.hardware.model_copy(update={"vram_gib": None, "ram_gib": None})
    recipe = recipe.model_copy(update={"hardware": machine})
    small, large = _hardware(4), _hardware(24)
    common = plan_recipe(recipe, small).to_json()
    assert common["fits"] and common["offload_layers"] > 0
    fixed = as_planned(recipe, common)
    own = place_for(fixed, common, large)
    assert own["offload_layers"] == 0
    for key in ("model", "max_length", "per_device_train_batch_size", "gradient_accumulation_steps", "r", "optimizer"):
        assert own[key] == common[key]
    assert place_for(fixed, common, small)["offload_layers"] == common["offload_layers"]
    assert place_for(fixed, common | {"nf4_embedding": True}, large) == common | {"nf4_embedding": True}
    assert place_for(fixed, common, replace(large, ram_total_bytes=GIB)) == common  # nothing fits there


@pytest.mark.parametrize(
    ("batch", "steps", "processes", "own"), [(1, 16, 2, 8), (4, 2, 2, 1), (2, 9, 3, 3), (1, 16, 16, 1)]
)
def test_the_effective_batch_is_shared_evenly(batch: int, steps: int, processes: int, own: int) -> None:
    train = load("demo").final.train.model_copy(
        update={"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps}
    )
    shared = share_of(train, processes)
    assert shared.gradient_accumulation_steps == own
    assert shared.gradient_accumulation_steps * processes == steps
    assert shared.per_device_train_batch_size == batch


@pytest.mark.parametrize(
    ("batch", "steps", "processes", "words"),
    [
        (1, 3, 2, r"gradient_accumulation_steps=4 \(an effective batch of 4\), or start 3 processes"),
        (4, 1, 2, "effective batch of 4 with --set train.per_device_train_batch_size=2 .*_steps=2, or start one"),
        (3, 5, 3, "train.per_device_train_batch_size=1 --set train.gradient_accumulation_steps=15, or start 5"),
    ],
)
def test_what_cannot_be_shared_is_refused_with_what_can(batch: int, steps: int, processes: int, words: str) -> None:
    train = load("demo").final.train.model_copy(
        update={"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps}
    )
    with pytest.raises(RecipeError, match=f"{processes} processes cannot share it evenly.*{words}"):
        share_of(train, processes)
