"""The back end for OpenAI-compatible URLs against llama-cpp-python's own server, and through a faulty proxy."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import gguf_export
from lowvram_ft.errors import GenerationError, ModelError
from lowvram_ft.inference import Sampling
from lowvram_ft.inference import openai_compatible as module
from lowvram_ft.inference.endpoint import KEY_VARIABLE
from lowvram_ft.inference.llama import LlamaCpp
from lowvram_ft.inference.openai_compatible import OpenAICompatible
from lowvram_ft.inference.retrying import Policy
from lowvram_ft.inference.settings import EngineSettings
from tests.chat_servers import Behaviour, cut_after, forward, serving
from tests.gguf_models import ascii_model

KEY = "sk-of-the-test"
N_CTX = 512
PROMPTS = ["def add(a, b):\n    return a + b\n", "class Stack:\n    pass\n", "half of 7?", "x" * 40, "Grüße, naïve 🙂"]
GREEDY = Sampling(max_new_tokens=24)
POLICY = Policy(retries=4, backoff_s=0.02, timeout_s=20)


@dataclass(frozen=True)
class Real:
    """llama-cpp-python's server, running."""

    port: int
    gguf: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    pytest.importorskip("llama_cpp.server.app", reason='needs: pip install "llama-cpp-python[server]"')
    folder = tmp_path_factory.mktemp("server")
    gguf = gguf_export.export(ascii_model(folder / "base"), None, folder / "tiny.gguf", quant="F16").path
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "llama_cpp.server",
        "--model",
        str(gguf),
        "--model_alias",
        "tiny",
        "--n_ctx",
        str(N_CTX),
    ]
    command += ["--port", str(port), "--host", "127.0.0.1", "--n_threads", "1", "--api_key", KEY, "--verbose", "false"]
    command += ["--flash_attn", "true"]  # as llama.cpp chooses by itself: else sums are rounded otherwise
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
        try:
            _wait(port, process, folder / "log")
            yield Real(port, gguf)
        finally:
            process.terminate()
            process.wait(20)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"does not start: {log.read_text()}")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)


@pytest.fixture(scope="module")
def expected(real: Real) -> list[tuple[str, str]]:
    """Greedy answers of the same file in this process."""
    generator = LlamaCpp(real.gguf, n_ctx=N_CTX, n_parallel=1, settings=EngineSettings(1, 1), decoding="unpadded")
    try:
        return [(row[0].text, row[0].finish) for row in generator.generate(PROMPTS, GREEDY)]
    finally:
        generator.close()


def answers(url: str, policy: Policy = POLICY, concurrency: int = 4) -> list[tuple[str, str]]:
    model = OpenAICompatible(url, model="tiny", policy=policy, concurrency=concurrency)
    return [(row[0].text, row[0].finish) for row in model.generate(PROMPTS, GREEDY)]


def test_greedy_answers_are_those_of_the_same_file_in_process(real: Real, expected: list[tuple[str, str]]) -> None:
    assert len({text for text, _ in expected}) == len(PROMPTS), "answers that are all alike would prove nothing"
    assert answers(real.url, concurrency=1) == expected
    assert answers(real.url, concurrency=4) == expected, "the server ends a stream when another request comes"


def test_with_the_servers_own_penalty_they_are_others(
    real: Real, expected: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why it is switched off: the check above can fail."""
    monkeypatch.setattr(module, "NEUTRAL", {})
    assert answers(real.url, concurrency=1) != expected


def test_counts_and_times_are_told(real: Real) -> None:
    model = OpenAICompatible(real.url, policy=POLICY)
    assert model.model == "tiny"
    found = model.generate(PROMPTS[:1], GREEDY)[0][0]
    assert found.finish == "length"
    assert 0 < found.n_tokens <= GREEDY.max_new_tokens, "pieces: its streams bring no counts, and an empty one is none"
    assert 0 < found.first_token_s < found.seconds


def test_samples_differ_and_their_seed_gives_them_again(real: Real) -> None:
    sampling = Sampling(temperature=1.5, max_new_tokens=16, seed=5)
    first = [answer.text for answer in OpenAICompatible(real.url).generate(PROMPTS[:1], sampling, 4)[0]]
    again = [answer.text for answer in OpenAICompatible(real.url).generate(PROMPTS[:1], sampling, 4)[0]]
    assert len(set(first)) == 4
    assert again == first


def test_a_prompt_that_is_too_long_is_told_in_the_servers_words(real: Real) -> None:
    with pytest.raises(GenerationError, match=r"context length is 512 tokens.*shorten the code"):
        OpenAICompatible(real.url, policy=POLICY).generate(["def f(): pass\n" * 400], GREEDY)


def test_a_wrong_key_is_refused(real: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sk-wrong")
    with pytest.raises(ModelError, match=r"refuses the key in LOWVRAM_FT_API_KEY \(401\)"):
        OpenAICompatible(real.url)


def faults(port: int) -> dict[str, Behaviour]:
    def late(request) -> None:
        time.sleep(4)
        request.drop()

    return {
        "dropped before a word": lambda request: request.drop(),
        "cut after a few bytes": cut_after(port, 0.05),
        "cut in the middle": cut_after(port, 0.5),
        "later than patience": late,
        "429 with Retry-After": lambda request: request.answer(429, "{}", Retry_After="0.3"),
        "500": lambda request: request.answer(500, '{"error": {"message": "out of memory"}}'),
        "503": lambda request: request.answer(503, "busy", "text/plain"),
        "garbage JSON": lambda request: request.answer(200, '{"choices": [{"mess'),
        "garbage in a stream": lambda request: request.stream("data: {\n\n"),
    }


@pytest.mark.parametrize("fault", faults(0))
def test_through_faults_the_answers_are_the_same(real: Real, expected: list[tuple[str, str]], fault: str) -> None:
    """The first request of every prompt meets the fault."""
    met: set[str] = set()

    def first_one(request) -> None:
        prompt = request.body["messages"][0]["content"]
        behaviour = forward(real.port) if prompt in met else faults(real.port)[fault]
        met.add(prompt)
        behaviour(request)

    with serving(first_one) as proxy:
        policy = Policy(retries=6, backoff_s=0.02, timeout_s=2.5 if fault == "later than patience" else 20)
        assert answers(proxy.url, policy, concurrency=1) == expected
    assert len(proxy.requests) == 2 * len(PROMPTS)


def test_through_all_faults_at_once_side_by_side(real: Real, expected: list[tuple[str, str]]) -> None:
    kinds = [fault for name, fault in faults(real.port).items() if name != "later than patience"]
    with serving([*kinds, forward(real.port)]) as proxy:
        assert answers(proxy.url, Policy(retries=9, backoff_s=0.02, timeout_s=20)) == expected
    assert proxy.most_at_once > 1


def test_a_fault_that_stays_ends_in_an_error(real: Real) -> None:
    with serving(cut_after(real.port, 0.05)) as proxy, pytest.raises(GenerationError, match="asked 5 times; at last"):
        answers(proxy.url)
