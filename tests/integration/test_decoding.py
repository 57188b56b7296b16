"""Greedy answers of llama.cpp alone, in parallel and with drafts: the same tokens. On tiny random models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gguf_export
from lowvram_ft.bench import compare, tune
from lowvram_ft.inference import Sampling
from lowvram_ft.inference import llama as llama_module
from lowvram_ft.inference.batch_shapes import BatchShapes
from lowvram_ft.inference.decoding import choose
from lowvram_ft.inference.llama import LlamaCpp
from lowvram_ft.inference.native import Native
from lowvram_ft.inference.settings import EngineSettings, KvType, TunedCache
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import BenchSection
from lowvram_ft.recipe.sections import Quant
from tests.gguf_models import make_tiny_model

SETTINGS = EngineSettings(n_threads=2, n_threads_batch=2)
GREEDY = Sampling(max_new_tokens=16)
LENGTHS = (12, 300, 45, 290, 7, 80, 20, 60, 33)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base"), hidden_size=256, num_hidden_layers=2)


@pytest.fixture(scope="module")
def model(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(base, tmp_path_factory.mktemp("ggufs"), "Q8_0")


def exported(base: Path, folder: Path, quant: Quant) -> Path:
    return gguf_export.export(base, None, folder / "tiny.gguf", quant=quant).path


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWVRAM_FT_CACHE", str(tmp_path / "cache"))


def prompts(n_vocab: int = 500) -> list[list[int]]:
    """Prompts whose parts repeat, so that there is something to look up."""
    rng = np.random.default_rng(7)
    return [(rng.integers(3, n_vocab, 25).tolist() * (length // 25 + 1))[:length] for length in LENGTHS]


def answers(
    model: Path, decoding: str, n_parallel: int, sampling: Sampling = GREEDY, settings: EngineSettings = SETTINGS
) -> list[tuple[str, int]]:
    n_ctx = 512 + sampling.max_new_tokens
    generator = LlamaCpp(model, n_ctx=n_ctx, n_parallel=n_parallel, settings=settings, decoding=decoding)
    try:
        return [(row[0].text, row[0].n_tokens) for row in generator.generate_from_ids(prompts(), sampling)]
    finally:
        generator.close()


@pytest.mark.parametrize("quant", ["F16", "Q8_0", "Q4_K_M"])
def test_drafts_and_neighbours_change_no_answer(base: Path, tmp_path: Path, quant: Quant) -> None:
    model = exported(base, tmp_path, quant)
    plain = answers(model, "plain", 1)
    assert len({text for text, _ in plain}) > 5, "answers that are all alike would prove nothing"
    for n_parallel, decoding in ((1, "lookup"), (3, "lookup"), (8, "plain"), (8, "lookup")):
        assert answers(model, decoding, n_parallel) == plain, (decoding, n_parallel)


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_K_M"])
def test_with_a_cache_in_8_bits_drafts_give_the_text_of_one_token_at_a_time(
    base: Path, tmp_path: Path, quant: Quant
) -> None:
    settings = EngineSettings(n_threads=2, n_threads_batch=2, repack=False, kv_type="q8_0")
    model = exported(base, tmp_path, quant)
    if shapes_of(model, settings).least > 1:
        pytest.skip("this CPU has other kernels for one token alone")
    longest = Sampling(max_new_tokens=200)  # past 512 cells
    one = answers(model, "unpadded", 1, longest, settings)
    assert len({text for text, _ in one}) > 5
    assert answers(model, "lookup", 1, longest, settings) == one


@pytest.mark.parametrize("quant", ["F16", "Q8_0", "Q4_K_M"])
@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_the_sizes_that_the_probe_finds_agree_at_every_position(
    base: Path, tmp_path: Path, quant: Quant, kv_type: KvType
) -> None:
    """Up to 550, not only where the probe looks."""
    settings = EngineSettings(n_threads=2, n_threads_batch=2, kv_type=kv_type)
    generator = LlamaCpp(exported(base, tmp_path, quant), n_ctx=640, n_parallel=1, settings=settings)
    try:
        shapes = generator.shapes()
        assert shapes.most >= 2, "sizes that do not agree would prove nothing"
        two = logits_of(generator.native, 2)
        for size in {shapes.least, min(3, shapes.most), shapes.most} - {2}:
            assert np.array_equal(logits_of(generator.native, size), two), size
    finally:
        generator.close()


def shapes_of(model: Path, settings: EngineSettings) -> BatchShapes:
    generator = LlamaCpp(model, n_ctx=712, n_parallel=1, settings=settings)
    try:
        return generator.shapes()
    finally:
        generator.close()


def logits_of(native: Native, size: int) -> np.ndarray:
    """Logits at positions 30 to 549, decoded so many tokens at a time."""
    ids = np.random.default_rng(1).integers(3, 500, 560).tolist()
    native.clear()
    native.read(ids[:30], 0)
    rows = []
    for start in range(30, 550, size):
        native.decode([(ids[start + i], start + i, 0, True) for i in range(size)])
        rows += [native.logits(i).copy() for i in range(size)]
    return np.stack(rows[:520])


def test_drafts_are_made_and_some_are_right(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = BatchShapes(1, 8, (1.0,) * 8)
    monkeypatch.setattr(llama_module, "probe", lambda _: free)
    generator = LlamaCpp(model, n_ctx=512, n_parallel=1, settings=SETTINGS, decoding="lookup")
    try:
        found = [row[0] for row in generator.generate_from_ids(prompts(), Sampling(max_new_tokens=100))]
    finally:
        generator.close()
    assert 0 < sum(answer.n_accepted for answer in found) < sum(answer.n_drafted for answer in found)
    for answer in found:  # one token comes with the prefill, one with every batch, and the accepted ones
        assert answer.n_tokens - 1 in (answer.n_batches + answer.n_accepted, answer.n_batches + answer.n_accepted - 1)


def test_llama_cpp_python_by_itself_gives_the_same_first_tokens(model: Path) -> None:
    """An independent oracle for the loop: llama-cpp-python's own, one prompt at a time."""
    import llama_cpp

    peer = llama_cpp.Llama(str(model), n_ctx=512, n_threads=2, n_threads_batch=2, verbose=False, flash_attn=True)
    generator = LlamaCpp(model, n_ctx=512, n_parallel=4, settings=SETTINGS, decoding="unpadded")
    try:
        ours = generator.generate_from_ids(prompts(), Sampling(max_new_tokens=8))
        same = 0
        for ids, row in zip(prompts(), ours, strict=True):
            tokens = []
            for token in peer.generate(ids, temp=0.0, repeat_penalty=1.0):
                tokens.append(token)
                if generator.native.is_end(token) or len(tokens) == 8:
                    break
            ended = generator.native.is_end(tokens[-1])
            same += row[0].text == generator.detokenize(tokens[:-1] if ended else tokens)
    finally:
        generator.close()
        peer.close()
    assert same >= len(LENGTHS) - 1, "more than a near-tie differs"


def test_a_wrong_draft_leaves_no_trace(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = answers(model, "plain", 1)
    monkeypatch.setattr("lowvram_ft.inference.lookup.Memory.draft", lambda self, own, most: ([11, 12, 13][:most], 8))
    assert answers(model, "lookup", 1) == plain
    assert answers(model, "lookup", 3) == plain


def test_tokens_that_are_not_taken_back_do_change_answers(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative of the above: a cache that keeps wrong drafts is seen."""
    plain = answers(model, "plain", 1)
    monkeypatch.setattr("lowvram_ft.inference.lookup.Memory.draft", lambda self, own, most: ([11, 12, 13][:most], 8))
    monkeypatch.setattr("lowvram_ft.inference.decoding.best_length", lambda *_: 3)

    def verify(self, slot, row, each, sampling):
        for place in range(each):
            self._append(slot, choose(self._native.logits(row + place), sampling, slot.rng))
            if self._ended(slot, sampling):
                break
        slot.position += each

    monkeypatch.setattr("lowvram_ft.inference.decoding.Decoder._verify", verify)
    assert answers(model, "lookup", 1) != plain


def test_a_sample_depends_on_its_seed_its_prompt_and_its_number(model: Path) -> None:
    generator = LlamaCpp(model, n_ctx=512, n_parallel=3, settings=SETTINGS)
    try:
        warm = Sampling(temperature=0.9, max_new_tokens=12, seed=5)
        found = generator.generate_from_ids(prompts()[:5], warm, n=4)
        again = generator.generate_from_ids(prompts()[:5], warm, n=4)
        other = generator.generate_from_ids(prompts()[:5], Sampling(temperature=0.9, max_new_tokens=12, seed=6), n=4)
    finally:
        generator.close()
    texts = [[answer.text for answer in row] for row in found]
    assert [len(row) for row in texts] == [4] * 5 and len({text for row in texts for text in row}) > 10
    assert texts == [[answer.text for answer in row] for row in again]
    assert texts != [[answer.text for answer in row] for row in other]


def test_the_probe_is_run_once_and_kept(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = llama_module.probe
    monkeypatch.setattr(llama_module, "probe", lambda native: calls.append(1) or real(native))
    first = answers(model, "lookup", 1)
    assert answers(model, "lookup", 1) == first
    assert len(calls) == 1
    TunedCache(model).path.write_text("{ not json")
    assert answers(model, "lookup", 1) == first
    assert len(calls) == 2
    answers(model, "lookup", 1, Sampling(temperature=0.5, max_new_tokens=4))
    assert len(calls) == 2


def test_what_was_tuned_is_used(model: Path) -> None:
    best, trials = tune(model, "def add(a, b): ...", Progress(quiet=True), n_ctx=512)
    assert {trial.repack for trial in trials} == {True, False}
    generator = LlamaCpp(model, n_ctx=256, n_parallel=1)
    generator.close()
    assert generator.settings == best


def test_every_way_of_decoding_is_compared(model: Path) -> None:
    section = BenchSection(max_prompts=2, max_new_tokens=12)
    ways = list(compare(model, ["def add(a, b): ...", "def sub(a, b): ..."], section, Progress(quiet=True), n_ctx=512))
    assert [way.kv_type for way in ways][-2:] == ["q8_0", "q4_0"]
    assert (ways[0].speed_up, ways[0].same_text) == (1.0, 2)
    assert ways[-1].kv_cache_bytes < ways[-2].kv_cache_bytes < ways[0].kv_cache_bytes
    exact = [way for way in ways if way.decoding != "unpadded"]
    assert len({way.same_text for way in exact}) == 1, "all exact ways give one text"
