"""Latency figures from answers whose times are made up."""

from pathlib import Path
from types import SimpleNamespace

import pytest

import lowvram_ft.bench.latency as bench_module
from lowvram_ft.bench import bench, summarize
from lowvram_ft.errors import UsageError
from lowvram_ft.inference import Completion
from lowvram_ft.inference.settings import EngineSettings
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import BenchSection


def answer(seconds: float, first: float = 0.5, tokens: int = 11, finish="stop", prompt: int = 100) -> Completion:
    return Completion("x", prompt, tokens, finish, seconds, first)


def test_the_figures_by_hand():
    found = summarize("m.gguf", [answer(1.5, prompt=50), answer(2.5, 1.0, 4, "length", 150), answer(5.5, 0.25)], 5.0)
    assert found.to_json() == {
        "model": "m.gguf", "prompts": 3, "prompt_tokens": 100.0, "new_tokens": pytest.approx(26 / 3),
        "first_token_s_p50": 0.5, "decode_tok_per_s": 2.0, "file_s_p50": 2.5, "file_s_p95": 5.5, "cut_off": 1,
        "gate_s": 5.0, "gate_met": False, "first_token_s_p95": 1.0, "prefill_tok_per_s": 150.0, "decoding": "",
        "tokens_per_batch": 1.0, "settings": None, "memory": None, "file_s": (1.5, 2.5, 5.5),
        "first_token_s": (0.5, 1.0, 0.25),
    }  # fmt: skip


@pytest.mark.parametrize(("slowest", "met"), [(9.9, True), (10.0, True), (10.1, False)])
def test_the_gate_is_on_the_95th_percentile(slowest, met):
    answers = [answer(1.0)] * 10 + [answer(slowest)]
    assert summarize("m", answers, 10.0).gate_met is met


def test_one_slow_file_in_twenty_is_forgiven_and_two_are_not():
    assert summarize("m", [answer(1.0)] * 19 + [answer(60.0)], 10.0).gate_met
    assert not summarize("m", [answer(1.0)] * 18 + [answer(60.0)] * 2, 10.0).gate_met


def test_answers_of_one_token_have_no_speed_of_decoding():
    assert summarize("m", [answer(0.5, 0.5, 1)], 10.0).decode_tok_per_s == 0.0
    assert summarize("m", [answer(0.5, 0.5, 1), answer(1.5)], 10.0).decode_tok_per_s == 10.0


class Fake:
    """Stands for `LlamaCpp`; the first answer is the warm-up's."""

    made: "Fake"
    native = SimpleNamespace(n_gpu_layers=0, kv_bytes=lambda _: 7)

    def __init__(self, path: Path, **settings) -> None:
        self.name, self.given, self.asked, self.closed = path.name, settings, [], False
        self.settings = EngineSettings(n_threads=3)
        Fake.made = self

    def generate(self, prompts, sampling, n=1):
        self.asked.append((list(prompts), sampling.max_new_tokens, sampling.temperature))
        return [[answer(100.0 if len(self.asked) == 1 else 1.0)]]

    def forget(self) -> None:
        self.asked.append("forget")

    def resolved(self) -> str:
        return "lookup"

    def close(self) -> None:
        self.closed = True


def test_the_warm_up_is_not_counted_and_prompts_go_one_at_a_time(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_module, "LlamaCpp", Fake)
    section = BenchSection(max_prompts=2, max_new_tokens=64)
    (tmp_path / "m.gguf").write_bytes(b"12345")
    found = bench(tmp_path / "m.gguf", ["a", "b", "c"], section, Progress(quiet=True), n_ctx=512)
    assert (found.prompts, found.file_s_p95, found.gate_s) == (2, 1.0, 10.0)
    assert Fake.made.asked == [(["a"], 8, 0.0), "forget", (["a"], 64, 0.0), "forget", (["b"], 64, 0.0)]
    assert Fake.made.given == {"n_ctx": 512, "n_parallel": 1}
    assert Fake.made.closed
    assert (found.decoding, found.settings["n_threads"], found.memory["model_bytes"]) == ("lookup", 3, 5)
    assert found.memory["kv_cache_bytes"] == 7 and found.memory["peak_rss_bytes"] > 1 << 20


def test_the_model_is_freed_where_an_answer_fails(monkeypatch):
    class Failing(Fake):
        def generate(self, prompts, sampling, n=1):
            raise RuntimeError

    monkeypatch.setattr(bench_module, "LlamaCpp", Failing)
    with pytest.raises(RuntimeError):
        bench(Path("m.gguf"), ["a"], BenchSection(), Progress(quiet=True))
    assert Fake.made.closed


def test_a_bench_without_prompts_is_refused_before_a_model_is_loaded(tmp_path):
    with pytest.raises(UsageError, match="no prompt to time"):
        bench(tmp_path / "gone.gguf", [], BenchSection(), Progress(quiet=True))
