"""Drawn answers of llama.cpp on a tiny random model: the same whatever is asked beside them, cut off or not."""

from __future__ import annotations

from pathlib import Path

import pytest

import gguf_export
from lowvram_ft.inference.llama import LlamaCpp
from lowvram_ft.inference.settings import EngineSettings, TunedCache
from lowvram_ft.preference.records import PreferenceTask
from lowvram_ft.preference.sampling import MANY, open_policy, sample, weights_digest
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import PreferenceSection
from lowvram_ft.run_dir import read_jsonl
from tests.gguf_models import make_tiny_model

SECTION = PreferenceSection(samples_per_task=3, max_new_tokens=16, temperature=1.0)


def code(n: int) -> str:
    return f"def f{n}(a):\n" + f"    a += {n}\n" * (1 + 13 * n) + "    return a\n"


TASKS = [PreferenceTask(f"t{n}", f"t{n}", "rows", code(n), "solution") for n in range(7)]
N_CTX = 512


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = make_tiny_model(tmp_path_factory.mktemp("base"), hidden_size=256, num_hidden_layers=2)
    return gguf_export.export(base, None, tmp_path_factory.mktemp("gguf") / "tiny.gguf", quant="Q8_0").path


@pytest.fixture(autouse=True)
def _one_thread(model: Path, own_cache: Path) -> None:
    TunedCache(model).keep_settings(EngineSettings(n_threads=1, n_threads_batch=1))


class StopsAfter(Progress):
    """Interrupts when so many tasks are done."""

    def __init__(self, tasks: int) -> None:
        super().__init__(quiet=True)
        self.tasks = tasks

    def step(self, task: str, done: float, total: float, detail: str = "") -> None:
        if done == self.tasks:
            raise KeyboardInterrupt


def texts(path: Path) -> dict[str, tuple[str, int, str]]:
    return {record["key"]: (record["text"], record["n_tokens"], record["finish"]) for record in read_jsonl(path)}


def test_a_run_that_was_cut_off_gives_the_texts_of_one_that_was_not(model: Path, tmp_path: Path) -> None:
    digest = weights_digest(model)
    whole, cut, mixed = (tmp_path / f"{name}.jsonl" for name in ("whole", "cut", "mixed"))
    answers, facts = sample(TASKS, open_policy(model, SECTION, N_CTX), digest, SECTION, whole, Progress(quiet=True))
    fitting = len(TASKS) - len(facts["too_long"])
    assert 0 < len(facts["too_long"]) < 4, "one that does not fit is among them"
    assert len(answers) == 3 * fitting
    assert len({answer.text for answer in answers}) > 2 * fitting, "answers that are all alike would prove nothing"
    asked = facts["asked"]
    assert asked["prompt_tokens"] == 3 * asked["prompt_tokens_read"], "every prompt is read once"

    for stop in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            sample(TASKS, open_policy(model, SECTION, N_CTX), digest, SECTION, cut, StopsAfter(stop))
        assert 0 < len(texts(cut)) < len(texts(whole))
    sample(TASKS, open_policy(model, SECTION, N_CTX), digest, SECTION, cut, Progress(quiet=True))
    assert texts(cut) == texts(whole)
    assert sum(1 for _ in read_jsonl(cut)) == len(texts(whole)), "nothing is there twice"

    sample(TASKS[::-1], open_policy(model, SECTION, N_CTX, many=3), digest, SECTION, mixed, Progress(quiet=True))
    assert texts(mixed) == texts(whole), "beside other answers, in another order, and fewer at a time"


def test_so_many_are_drawn_at_a_time_as_memory_allows(model: Path) -> None:
    opened = open_policy(model, SECTION, N_CTX)()
    assert isinstance(opened, LlamaCpp)
    try:
        assert opened.n_parallel == MANY == 16
        assert opened.native.kv_bytes(EngineSettings()) < 1 << 30
    finally:
        opened.close()
    usual = LlamaCpp(model, n_ctx=N_CTX)
    usual.close()
    assert usual.n_parallel == 8
