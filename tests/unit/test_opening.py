"""Which model is meant by a file, a hub id, an address; and the model as a function, for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gguf_export
import lowvram_ft
from lowvram_ft.data.row import build_prompt
from lowvram_ft.errors import MachineError, MissingExtraError, ModelError, UsageError
from lowvram_ft.inference import Sampling
from lowvram_ft.inference.hub_gguf import download, pick
from lowvram_ft.inference.llama import LlamaCpp
from lowvram_ft.inference.openai_compatible import OpenAICompatible
from lowvram_ft.inference.opening import choose_model, gguf_of, identity, open_model
from tests.chat_servers import Request
from tests.chat_servers import serving as chat_serving
from tests.loopback_hub import Hub, serving

ANSWER = (
    "<think>hm</think>\n```python\nfrom solution import half\n\n\ndef test_half():\n    assert half(4) == 2\n```\nDone."
)
TEST = "from solution import half\n\n\ndef test_half():\n    assert half(4) == 2\n"


@pytest.mark.parametrize(
    ("text", "kind", "short"),
    [
        ("m.gguf", "gguf", "m"), ("a/b.gguf", "gguf", "b"), ("nothing", "gguf", "nothing"),
        ("owner/name", "hub", "owner-name"), ("owner/name-GGUF:Q4_K_M", "hub", "owner-name-GGUF-Q4_K_M"),
        ("http://localhost:11434#qwen2.5:7b", "url", "localhost-11434-v1-qwen2.5-7b"), ("a/b/c", "gguf", "c"),
        ("~/models/x.gguf", "gguf", "x"), ("https://host/api/v1", "url", "host-api-v1"),
    ],
)  # fmt: skip
def test_what_is_meant(text: str, kind: str, short: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = choose_model(text)
    assert (found.kind, found.short) == (kind, short)


def test_a_file_that_is_there_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").write_bytes(b"GGUF")
    assert choose_model("owner/name").kind == "gguf"
    before = identity(choose_model("owner/name"))
    (tmp_path / "owner" / "name").write_bytes(b"GGUF another")
    assert identity(choose_model("owner/name")) not in ("", "missing", before)
    assert identity(choose_model("gone.gguf")) == "missing"
    assert identity(choose_model("http://h#m")) == ""


def test_a_folder_is_its_only_gguf(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no GGUF; give the path of one"):
        choose_model(tmp_path)
    (tmp_path / "a.gguf").touch()
    (tmp_path / "mmproj-a.gguf").touch()
    assert choose_model(tmp_path).text == str(tmp_path / "a.gguf")
    (tmp_path / "b.gguf").touch()
    with pytest.raises(ModelError, match=r"holds a\.gguf, b\.gguf; give the path of one"):
        choose_model(tmp_path)
    (tmp_path / "adapter_config.json").touch()


def test_a_run_is_what_it_exported_last_and_never_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = tmp_path / "runs" / "demo" / "export"
    export.mkdir(parents=True)
    (export.parent / "run.json").write_text("{}")
    for folder in (export, export.parent):
        with pytest.raises(ModelError, match="the run has exported nothing yet"):
            choose_model(folder)
    for age, name in enumerate(["demo-Q8_0.gguf", "demo-first-Q8_0.gguf", "base-Q8_0.gguf"]):
        (export / name).touch()
        os.utime(export / name, (1000 - age, 1000 - age + 500 * name.startswith("base")))
    for folder in (export, export.parent):
        assert choose_model(folder).text == str(export / "demo-Q8_0.gguf")
    monkeypatch.chdir(export)
    assert choose_model(".").text == "demo-Q8_0.gguf"


def test_a_folder_with_an_adapter_is_an_adapter(tmp_path: Path) -> None:
    stage = tmp_path / "runs" / "mine" / "stages" / "first"
    (stage / "adapter").mkdir(parents=True)
    (stage / "adapter" / "adapter_config.json").write_text("{}")
    found = choose_model(stage)
    assert (found.kind, found.text, found.short) == ("adapter", str(stage / "adapter"), "mine-first")
    assert choose_model(stage / "adapter") == found
    with pytest.raises(UsageError, match="is an adapter, and a GGUF is needed; make one with: lowvram-ft export"):
        gguf_of(found)


def test_two_adapters_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text('{"lora_alpha": 16}')
        (tmp_path / name / "adapter_model.safetensors").write_bytes(b"weights")
    first = identity(choose_model(tmp_path / "a"))
    assert first == identity(choose_model(tmp_path / "b")), "a copy is the same"
    (tmp_path / "b" / "adapter_model.safetensors").write_bytes(b"Weights")
    (tmp_path / "c" / "adapter_config.json").write_text('{"lora_alpha": 32}')
    assert len({first, *(identity(choose_model(tmp_path / name)) for name in "bc")}) == 3


def test_the_embedded_model_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="smollm2-135m"):
        choose_model("smollm2-135m")


def test_a_server_holds_no_file() -> None:
    with pytest.raises(UsageError, match="runs on a server, and a file is needed"):
        gguf_of(choose_model("http://localhost#m"))


NAMES = [
    "README.md",
    "m-Q4_K_M.gguf",
    "m-Q8_0.gguf",
    "m-IQ4_XS.gguf",
    "mmproj-m-f16.gguf",
    "big-Q6_K-00001-of-00002.gguf",
]


@pytest.mark.parametrize(
    ("quant", "names", "expected"),
    [
        (None, NAMES, "m-Q4_K_M.gguf"), ("q8_0", NAMES, "m-Q8_0.gguf"), ("IQ4_XS", NAMES, "m-IQ4_XS.gguf"),
        (None, ["only.gguf", "x.txt"], "only.gguf"), (None, ["sub/M.Q4_K_M.GGUF", "M.Q2_K.gguf"], "sub/M.Q4_K_M.GGUF"),
    ],
)  # fmt: skip
def test_the_file_of_a_repository(quant: str | None, names: list[str], expected: str) -> None:
    assert pick("o/n", quant, names) == expected


@pytest.mark.parametrize(
    ("quant", "names", "message"),
    [
        ("Q5_K_M", NAMES, r"which file\? \(it has: .*m-Q8_0.gguf.*\); name its quantization"),
        ("Q4_K", ["m-Q4_K_M.gguf"], r"which file\?"),
        (None, ["a-Q8_0.gguf", "b-Q8_0.gguf"], r"which file\?"),
        ("Q6_K", [*NAMES, "big-Q6_K-00002-of-00002.gguf"], "is in 2 parts; join them with llama-gguf-split"),
        (None, ["model.safetensors"], "holds no GGUF"),
    ],
)
def test_a_repository_without_one_such_file(quant: str | None, names: list[str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        pick("o/n", quant, names)


@pytest.fixture(scope="module")
def gguf(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_export.export(tiny_llama, None, tmp_path_factory.mktemp("gguf") / "tiny-Q8_0.gguf", quant="Q8_0").path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gguf: Path):
    from huggingface_hub import constants

    repository = tmp_path / "hub" / "models" / "someone" / "tiny-GGUF"
    repository.mkdir(parents=True)
    (repository / gguf.name).write_bytes(gguf.read_bytes())
    (repository / "tiny-F16.gguf").write_bytes(b"not this one")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving(tmp_path / "hub") as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def test_a_gguf_of_the_hub_is_downloaded_once_and_answers(hub: Hub, gguf: Path, own_cache: Path) -> None:
    model = open_model("someone/tiny-GGUF:Q8_0", n_ctx=256)
    try:
        assert isinstance(model, LlamaCpp)
        assert (model.name, len(model.generate(["a"], Sampling(max_new_tokens=2))[0])) == (gguf.name, 1)
    finally:
        model.close()
    assert sum(n for request, n in hub.sent if "resolve" in request) == gguf.stat().st_size, "that file alone"
    hub.sent.clear()
    download("someone/tiny-GGUF:Q8_0")
    assert sum(n for request, n in hub.sent if "resolve" in request) == 0


def test_what_was_downloaded_needs_no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    path = download("someone/tiny-GGUF:Q8_0")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert download("someone/tiny-GGUF:Q8_0") == path
    with pytest.raises(MachineError, match=r"cannot be downloaded .*check the network, or give a file"):
        download("someone/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download("someone/tiny-GGUF") == path


def test_a_repository_that_is_not_there(hub: Hub) -> None:
    with pytest.raises(ModelError, match="someone/gone: no such model on the hub, nor file here"):
        download("someone/gone")


def answers(request: Request) -> None:
    request.says(ANSWER)


def test_a_writer_answers_with_the_file_under_the_modules_name() -> None:
    with (
        chat_serving(answers) as server,
        lowvram_ft.TestWriter(f"{server.url}#tiny", temperature=0.5, seed=3) as writer,
    ):
        assert writer.name == f"tiny at {server.url}"
        assert writer.write("def half(n): ...") == TEST
        assert writer.write("def half(n): ...", module="pkg.mod") == TEST.replace("solution", "pkg.mod")
        assert writer.write_many(["a = 1", "b = 2"], ["a", "b"]) == [TEST.replace("solution", name) for name in "ab"]
        with pytest.raises(ValueError, match="1 names for 2 pieces of code"):
            writer.write_many(["a", "b"], ["a"])
    first = server.requests[0].body
    assert first["messages"][0]["content"] == build_prompt("def half(n): ...")
    assert (first["temperature"], first["max_tokens"]) == (0.5, 512)


def test_a_writer_leaves_half_a_test_out() -> None:
    cut = TEST + "\n\ndef test_more():\n    assert half(10) == 1"
    with chat_serving(lambda request: request.says(cut, finish="length")) as server:
        assert lowvram_ft.TestWriter(server.url).write("x") == TEST


def test_an_address_is_opened_with_the_limit_that_was_asked_for() -> None:
    waiting: list[int] = []
    most = []

    def slowly(request: Request) -> None:
        waiting.append(1)
        most.append(len(waiting))
        time.sleep(0.05)
        waiting.pop()  # before it is answered: the next request comes as soon as the client has the answer
        request.says(ANSWER)

    with chat_serving(slowly) as server:
        model = open_model(server.url, concurrency=2)
        assert isinstance(model, OpenAICompatible)
        model.generate(["a"] * 8, Sampling())
    assert max(most) == 2 and len(most) == 8


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import lowvram_ft, sys; print([m for m in ('numpy', 'httpx', 'pydantic', 'llama_cpp') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = lowvram_ft.Nothing


def test_commands_take_an_address(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def half(n):\n    return n // 2\n")
    command = [sys.executable, "-m", "lowvram_ft"]
    with chat_serving(answers) as server:
        url = f"{server.url}#tiny"
        found = subprocess.run(
            [*command, "testgen", "mine.py", "--model", url, "--json", "--allow-unsandboxed"],
            cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        timed = subprocess.run(
            [*command, "bench", url, "--max-prompts", "2", "-q"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert timed.returncode == 0, timed.stderr
        judged = subprocess.run(
            [*command, "eval", url, "--max-tasks", "1", "--json", "--allow-unsandboxed"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert judged.returncode == 0, judged.stderr
    assert (tmp_path / "test_mine.py").read_text().partition("\n")[2] == TEST.replace("solution", "mine")
    assert "as the server does it" in timed.stdout
    samples = next(tmp_path.glob("eval-127.0.0.1-*-tiny/samples.jsonl"))
    assert json.loads(samples.read_text().splitlines()[0])["answer"] == ANSWER
