"""`lowvram-ft serve`: a tiny model behind an address, as editors, agents and the kit itself ask it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

import gguf_export
from lowvram_ft import TestWriter
from lowvram_ft.errors import PromptTooLong
from lowvram_ft.inference import Sampling
from lowvram_ft.inference.endpoint import KEY_VARIABLE
from lowvram_ft.inference.llama import LlamaCpp
from lowvram_ft.inference.openai_compatible import OpenAICompatible
from lowvram_ft.inference.settings import EngineSettings
from tests.cli.running import MODULE, environment, failed
from tests.gguf_models import ascii_model

N_CTX = 256
PROMPTS = ["def add(a, b):\n    return a + b\n", "class Stack:\n    pass\n", "half of 7?", "Grüße, naïve 🙂"]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("llama_cpp.server.app", reason='needs: pip install "lowvram-ft[serve]"')
    folder = tmp_path_factory.mktemp("served")
    return gguf_export.export(ascii_model(folder / "base"), None, folder / "tiny.gguf", quant="F16").path


@contextmanager
def served(gguf: Path, *options: object, **env: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """The command, and what it says of itself once it answers."""
    command = [*MODULE, "serve", gguf, "--port", 0, "--json", "--n-ctx", N_CTX, "--threads", 1, *options]
    surroundings = environment(gguf.parent / "cache", OMP_NUM_THREADS="1", **env)
    # what a user's shell may hold by chance, and the server would read for itself
    surroundings |= {"SEED": "no number", "CONFIG_FILE": "/nowhere.json", "MODEL_ALIAS": "other"}
    process = subprocess.Popen(
        [str(each) for each in command],
        env=surroundings,
        stdout=subprocess.PIPE,
        stderr=(gguf.parent / "stderr.txt").open("w"),
        text=True,
    )
    try:
        assert process.stdout is not None
        said = ""
        while not said.endswith("}\n"):
            line = process.stdout.readline()
            assert line, (gguf.parent / "stderr.txt").read_text()
            said += line
        yield process, json.loads(said)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(gguf: Path) -> Iterator[dict[str, Any]]:
    with served(gguf) as (_, found):
        yield found


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def expected(gguf: Path) -> list[tuple[str, str]]:
    """Greedy answers of the same file in this process, to the end of the context."""
    model = LlamaCpp(gguf, n_ctx=N_CTX, n_parallel=1, settings=EngineSettings(1, 1), decoding="unpadded")
    try:
        found = []
        for prompt in PROMPTS:
            room = N_CTX - len(model.chat.render(prompt).input_ids)
            answer = model.generate([prompt], Sampling(max_new_tokens=room))[0][0]
            found.append((answer.text, answer.finish))
        return found
    finally:
        model.close()


def body(prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": prompt}], **more}


def answer(server: dict[str, Any], sent: dict[str, Any]) -> tuple[str, str]:
    reply = httpx.post(server["url"] + "/chat/completions", json=sent, timeout=120, trust_env=False)
    assert reply.status_code == 200, reply.text
    choice = reply.json()["choices"][0]
    return choice["message"]["content"], choice["finish_reason"]


def streamed(server: dict[str, Any], sent: dict[str, Any]) -> tuple[str, str | None]:
    text, finish, done = "", None, False
    with httpx.stream(
        "POST", server["url"] + "/chat/completions", json={**sent, "stream": True}, timeout=120, trust_env=False
    ) as reply:
        for line in reply.iter_lines():
            data = line.removeprefix("data: ")
            if data == "[DONE]":
                done = True
            elif line.startswith("data: "):
                choice = json.loads(data)["choices"][0]
                text += choice["delta"].get("content") or ""
                finish = choice["finish_reason"] or finish
    assert done
    return text, finish


def test_a_client_that_sends_only_messages_gets_the_greedy_answers_of_the_file(
    server: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert len({text for text, _ in expected}) == len(PROMPTS), "answers that are all alike would prove nothing"
    assert [answer(server, body(prompt)) for prompt in PROMPTS] == expected
    assert [answer(server, body(prompt)) for prompt in reversed(PROMPTS)] == expected[::-1], "in another order"


def test_the_servers_own_defaults_would_give_others(server: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """Why they are replaced: the check above can fail."""
    penalized = [answer(server, body(prompt, repeat_penalty=1.1)) for prompt in PROMPTS]
    assert penalized != expected


def test_streams_hold_the_same_text(server: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert [streamed(server, body(prompt)) for prompt in PROMPTS] == expected


def test_streams_side_by_side_are_all_whole(server: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """By default, the server ends one when the next is asked for."""
    found: dict[int, tuple[str, str | None]] = {}

    def ask(number: int) -> None:
        found[number] = streamed(server, body(PROMPTS[number]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(len(PROMPTS))] == expected


def test_a_clients_stop_sequences_end_an_answer(server: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    text = expected[0][0]
    stop = text[40:46]
    assert answer(server, body(PROMPTS[0], stop=[stop])) == (text[: text.index(stop)], "stop")
    assert streamed(server, body(PROMPTS[0], stop=stop)) == (text[: text.index(stop)], "stop")


def test_text_in_parts_and_nulls_change_nothing(server: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    parts = [{"type": "text", "text": PROMPTS[0][:5]}, {"type": "text", "text": PROMPTS[0][5:]}]
    sent = {"messages": [{"role": "user", "content": parts}], "temperature": None, "max_completion_tokens": N_CTX}
    assert answer(server, sent) == expected[0]


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_a_clean_400(server: dict[str, Any], stream: bool) -> None:
    sent = body("def f(): pass\n" * 400, stream=stream)
    reply = httpx.post(server["url"] + "/chat/completions", json=sent, trust_env=False)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "context_length_exceeded"


def test_the_kits_own_client_understands_it(server: dict[str, Any]) -> None:
    with pytest.raises(PromptTooLong, match="maximum context length is 256 tokens"):
        OpenAICompatible(server["url"]).generate(["def f(): pass\n" * 400], Sampling(max_new_tokens=8))


def test_a_template_that_refuses_is_a_clean_400(server: dict[str, Any]) -> None:
    sent = {"messages": [{"role": "user"}]}
    reply = httpx.post(server["url"] + "/chat/completions", json={**sent, "stream": True}, trust_env=False)
    assert reply.status_code == 400
    assert "chat template" in reply.text


def test_test_writer_writes_through_it_as_from_the_file(server: dict[str, Any], gguf: Path) -> None:
    code = "def half(n):\n    return n // 2\n"
    with TestWriter(server["url"], max_new_tokens=24) as through, TestWriter(gguf, max_new_tokens=24) as direct:
        assert through.name.startswith("tiny at http://127.0.0.1:")
        assert through.write(code, "numbers_of_mine") == direct.write(code, "numbers_of_mine")


def test_pages_of_other_sites_are_refused_and_no_page_is_let_read(server: dict[str, Any]) -> None:
    url = server["url"] + "/models"
    assert httpx.get(url, headers={"Origin": "https://evil.example"}, trust_env=False).status_code == 403
    assert httpx.get(url, headers={"Host": "evil.example"}, trust_env=False).status_code == 403
    own = httpx.get(url, headers={"Origin": "http://localhost:3000"}, trust_env=False)
    assert own.status_code == 200
    assert not [name for name in own.headers if name.startswith("access-control")]
    assert [each["id"] for each in own.json()["data"]] == ["tiny"]


def test_a_key_is_asked_for_and_ctrl_c_ends_it_in_the_middle_of_an_answer(gguf: Path) -> None:
    with served(gguf, "--alias", "mine", **{KEY_VARIABLE: "sk-of-the-test"}) as (process, found):
        assert (found["model"], found["needs_key"]) == ("mine", True)
        if Path("/proc").is_dir():
            assert b"sk-of" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        url = found["url"] + "/chat/completions"
        assert httpx.post(url, json=body("x"), trust_env=False).status_code == 401
        headers = {"Authorization": "Bearer sk-of-the-test"}
        sent = body(PROMPTS[0], stream=True)
        with httpx.stream("POST", url, json=sent, headers=headers, timeout=60, trust_env=False) as reply:
            lines = reply.iter_lines()
            next(lines)
            process.send_signal(signal.SIGINT)
            try:
                for _ in lines:
                    pass
            except httpx.RemoteProtocolError:
                pass
        assert process.wait(60) == 130


def test_sigterm_ends_it(gguf: Path) -> None:
    with served(gguf) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        assert process.stdout is not None and process.stdout.read() == "", "one JSON object"
    said = (gguf.parent / "stderr.txt").read_text().strip()
    assert said == "stopped; nothing is half-written: run the same command again"


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_the_event_loop_starts_ends_it_in_order(
    here, gguf: Path, monkeypatch: pytest.MonkeyPatch, recwarn, sent: signal.Signals, code: int
) -> None:
    import uvicorn

    original = uvicorn.Config.get_loop_factory

    def signalled(self: uvicorn.Config) -> Any:
        signal.raise_signal(sent)
        return original(self)

    monkeypatch.setattr(uvicorn.Config, "get_loop_factory", signalled)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    ended = here("serve", str(gguf), "--port", "0", "--quiet")
    assert (ended.code, ended.stdout) == (code, "")
    assert ended.stderr.splitlines()[-1] == "stopped; nothing is half-written: run the same command again"
    assert not [warning for warning in recwarn if "never awaited" in str(warning.message)]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(here, gguf: Path, monkeypatch) -> None:
    monkeypatch.setattr("lowvram_ft.inference.serving._app", None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = here("serve", gguf, "--port", port)
    assert found == failed(
        2,
        f"--port: 127.0.0.1:{port} cannot be listened on (Address already in use); end what runs there, or give "
        "another --port (0 takes a free one)",
    )


def test_an_open_address_needs_a_key(here, gguf: Path) -> None:
    found = here("serve", gguf, "--host", "0.0.0.0")
    assert found.code == 2
    assert "0.0.0.0 is open to other machines" in found.stderr
    assert KEY_VARIABLE in found.stderr


def test_what_is_no_file_is_refused(here, tmp_path: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "runs on a server, and a file is needed" in here("serve", "http://localhost:11434#x").stderr
    assert f"MODEL: no export under {tmp_path / 'runs'}; " in here("serve").stderr
    (tmp_path / "text.gguf").write_text("no model")
    assert "is not a GGUF" in here("serve", tmp_path / "text.gguf").stderr
    monkeypatch.setenv(KEY_VARIABLE, "sk-of-the-test")
    assert "no address of this machine" in here("serve", gguf, "--host", "no such host").stderr


def test_without_the_extra_the_error_names_it(here, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert here("serve", gguf) == failed(3, 'lowvram-ft serve: not installed; run: pip install "lowvram-ft[serve]"')


class FakeLlama:
    """As much of llama-cpp-python's ``Llama`` as goes on from its cache."""

    def __init__(self) -> None:
        self.n_tokens = 0
        self.input_ids: list[int] = []
        self.read: list[int] = []

    def generate(self, tokens: Sequence[int]) -> Iterator[int]:
        self.read.append(len(tokens) - self.n_tokens)
        self.input_ids = [*tokens, 7, 7]
        self.n_tokens = len(self.input_ids)
        yield from (7, 7)


def test_of_an_earlier_prompt_only_whole_batches_are_kept() -> None:
    pytest.importorskip("fastapi")
    from lowvram_ft.inference.serving import repeatable

    llama: Any = FakeLlama()
    generate = repeatable(llama, lambda: False)
    long, other = list(range(1030)), [*range(1000), *range(5000, 5100)]
    for tokens in (long, long, [*long, 7, 7, 1], other, long[:1024], [3]):
        assert list(generate(tokens)) == [7, 7]
    # 1030 again: two batches of 512 are kept, and the six tokens beyond are read again, as the first time
    assert llama.read == [1030, 6, 9, 588, 512, 1]


def test_what_was_generated_is_read_again_as_a_prompt() -> None:
    pytest.importorskip("fastapi")
    from lowvram_ft.inference.serving import repeatable

    llama: Any = FakeLlama()
    generate = repeatable(llama, lambda: False)
    for tokens in (list(range(511)), [*range(511), 7, 7, 8]):
        assert list(generate(tokens)) == [7, 7]
    assert llama.read == [511, 514], "the cell at 511 was generated, not read in a batch"


@pytest.mark.parametrize(("stopping", "status"), [(True, 503), (False, 499)])
def test_an_answer_ends_when_nobody_waits_for_it(stopping: bool, status: int) -> None:
    fastapi = pytest.importorskip("fastapi")
    from lowvram_ft.inference.serving import repeatable
    from lowvram_ft.inference.serving_requests import gone

    token = gone.set(SimpleNamespace(is_set=lambda: True))  # type: ignore[arg-type]
    try:
        with pytest.raises(fastapi.HTTPException) as ended:
            list(repeatable(FakeLlama(), lambda: stopping)([1, 2]))
    finally:
        gone.reset(token)
    assert ended.value.status_code == status
