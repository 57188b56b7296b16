"""Exports whose base stays on a hub, against the same exports of a local folder."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import gguf_export.checkpoints.fetching
from gguf_export import Checkpoint, export, merge_to_safetensors
from gguf_export.checkpoints.hub import POINTER, link_model, linked_bytes, token
from gguf_export.errors import BrokenFileError, DownloadError, UnsupportedError
from tests.gguf_models import make_adapter, make_tiny_model
from tests.loopback_hub import Hub, serving

NAME = "owner/tiny"
WEIGHTS = "/resolve/"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in several shards, as the local oracle."""
    folder = make_tiny_model(tmp_path_factory.mktemp("made"), "llama", tie=False)
    root = tmp_path_factory.mktemp("hub") / "models" / "owner" / "tiny"
    merge_to_safetensors(folder, None, root, "bf16", max_shard_bytes=700_000)
    return root


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def hub(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(base.parents[2]) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr(gguf_export.checkpoints.fetching, "FIRST_WAIT_S", 0.001)
        yield running


Trouble = Callable[[BaseHTTPRequestHandler, int], bool]


@contextmanager
def _in_front_of(hub: Hub, trouble: Trouble, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    """A server that passes on to the hub, but for requests for weights that ``trouble`` answers itself.

    Yields the headers of every request for weights. ``trouble`` gets the handler and the number of the request, and
    says whether it has answered.
    """
    seen: list[dict[str, str]] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

        def do_GET(self) -> None:
            import urllib.request

            if WEIGHTS in self.path and ".safetensors" in self.path and "index" not in self.path:
                with lock:
                    number = len(seen)
                    seen.append(dict(self.headers))
                if trouble(self, number):
                    return
            headers = {k: v for k, v in self.headers.items() if k in ("Range",)}
            with urllib.request.urlopen(urllib.request.Request(hub.url + self.path, headers=headers)) as answer:
                content = answer.read()
                self.send_response(answer.status)
                for name in ("Content-Range", "Content-Length"):
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
                self.end_headers()
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    try:
        yield seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _status(code: int, headers: dict[str, str] | None = None) -> Trouble:
    """Every second request fails."""

    def trouble(handler: BaseHTTPRequestHandler, number: int) -> bool:
        if number % 2:
            return False
        handler.send_response(code)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    return trouble


def _dropping(base: Path, numbers: Container[int], reset: bool) -> Trouble:
    """The requests with these numbers get a third of what they ask for, and the connection ends."""

    def trouble(handler: BaseHTTPRequestHandler, number: int) -> bool:
        if number not in numbers:
            return False
        content = (base / handler.path.split("/")[-1]).read_bytes()
        first, last = map(int, handler.headers["Range"].removeprefix("bytes=").split("-"))
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        handler.send_header("Content-Length", str(last - first + 1))
        handler.end_headers()
        handler.wfile.write(content[first : first + (last - first) // 3])
        handler.wfile.flush()
        if reset:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            handler.connection.close()
        return True

    return trouble


def _on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _point_at_environment(linked: Path) -> None:
    pointer = json.loads((linked / POINTER).read_text(encoding="utf-8"))
    text = json.dumps(pointer).replace(pointer["endpoint"], os.environ["HF_ENDPOINT"])
    (linked / POINTER).write_text(text, encoding="utf-8")


def test_the_same_file_as_from_a_local_folder(hub: Hub, base: Path, adapter: Path, tmp_path: Path) -> None:
    linked = link_model(NAME, tmp_path / "linked")
    shards = [path.stat().st_size for path in base.glob("*.safetensors")]
    assert len(shards) > 3 and linked_bytes(linked) == sum(shards)
    for quant in ("Q4_K_M", "F32"):
        local = export(base, adapter, tmp_path / "local.gguf", quant=quant, metadata={"name": "m"})
        hub.sent.clear()
        remote = export(linked, adapter, tmp_path / "remote.gguf", quant=quant, metadata={"name": "m"})
        assert remote.sha256 == local.sha256
        # each byte of the weights once, and little beside
        fetched = sum(n_bytes for name, n_bytes in hub.sent if ".safetensors" in name)
        assert sum(shards) * 0.99 < fetched < sum(shards) * 1.01
    # nothing of the weights lies on the disk: the linked folder is a tokenizer and settings
    assert _on_disk(linked) < 0.1 * sum(shards) and not list(linked.glob("*.safetensors"))
    assert "hf_secret" not in (linked / POINTER).read_text(encoding="utf-8")


def test_16_bit_folders_are_the_same_too(hub: Hub, base: Path, tmp_path: Path) -> None:
    local = merge_to_safetensors(base, None, tmp_path / "local")
    remote = merge_to_safetensors(link_model(NAME, tmp_path / "linked"), None, tmp_path / "remote")
    for path in local.iterdir():
        assert (remote / path.name).read_bytes() == path.read_bytes()


def test_a_single_file_and_a_revision(hub: Hub, base: Path, tmp_path: Path) -> None:
    whole = merge_to_safetensors(base, None, hub.root / "models" / "owner" / "whole")
    try:
        linked = Checkpoint.open(link_model("owner/whole", tmp_path / "linked", revision="v1.0"))
        assert any("/revision/v1.0" in name for name, _ in hub.sent)
        name = "model.layers.1.mlp.down_proj.weight"
        np.testing.assert_array_equal(linked.read(name), Checkpoint.open(whole).read(name))
        np.testing.assert_array_equal(linked.read(name, slice(7, 11)), linked.read(name)[7:11])
    finally:
        shutil.rmtree(whole)


def test_slabs_that_lie_side_by_side_share_a_request(hub: Hub, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(link_model(NAME, tmp_path / "linked"))
    name = "model.layers.0.mlp.up_proj.weight"
    hub.sent.clear()
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda row: checkpoint.read(name, slice(row, row + 8)), range(0, 512, 8)))
    assert len(hub.sent) == 1
    np.testing.assert_array_equal(np.concatenate(parts), checkpoint.read(name))


@pytest.mark.parametrize("kind", ["429", "500", "503", "cut short", "reset", "closed"])
def test_trouble_on_the_way_is_retried(
    hub: Hub, base: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = {
        "429": _status(429, {"Retry-After": "0"}),
        "500": _status(500),
        "503": _status(503),
        "cut short": _dropping(base, range(1, 1000, 2), reset=False),
        "reset": _dropping(base, range(1, 1000, 2), reset=True),
        "closed": lambda handler, number: bool(number % 2) and not handler.connection.close(),
    }[kind]
    with _in_front_of(hub, trouble, monkeypatch) as seen:
        checkpoint = Checkpoint.open(link_model(NAME, tmp_path / "linked"))
        local = Checkpoint.open(base)
        for name in local.tensors:
            np.testing.assert_array_equal(checkpoint.read(name), local.read(name))
    assert len(seen) > 2 * len(local.tensors)


def test_bytes_that_have_come_are_not_fetched_again(
    hub: Hub, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked = link_model(NAME, tmp_path / "linked")
    dropping = _dropping(base, range(1000), reset=False)
    begun = threading.Event()
    with _in_front_of(hub, lambda handler, _: begun.is_set() and dropping(handler, 0), monkeypatch) as seen:
        _point_at_environment(linked)
        checkpoint = Checkpoint.open(linked)
        info = checkpoint.tensors["lm_head.weight"]
        begun.set()
        seen.clear()
        # Two of three bytes are left after each answer: more answers than attempts, which count from anew.
        with pytest.raises(DownloadError, match="tried 7 times"):
            checkpoint.read("lm_head.weight")
    spans = [tuple(map(int, headers["Range"].removeprefix("bytes=").split("-"))) for headers in seen]
    assert spans[0] == (info.offset, info.offset + 2 * info.n_elements - 1)
    assert len(spans) > 2 * 7 and {last for _, last in spans} == {spans[0][1]}
    for (first, last), (next_first, _) in itertools.pairwise(spans):
        assert next_first == first + (last - first) // 3


@pytest.mark.parametrize("status", [500, 429])
def test_trouble_that_stays_is_a_clear_error(
    hub: Hub, base: Path, tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked = link_model(NAME, tmp_path / "linked")
    fails = _status(status)
    with _in_front_of(hub, lambda handler, _: fails(handler, 0), monkeypatch) as seen:
        _point_at_environment(linked)
        with pytest.raises(DownloadError, match=rf"tried 7 times \(HTTP {status}\); check the network") as caught:
            Checkpoint.open(linked)
        assert len(seen) == 7 and "hf_secret" not in str(caught.value)


def test_a_hub_that_goes_away_in_the_middle_leaves_nothing(
    hub: Hub, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked = link_model(NAME, tmp_path / "linked")
    gone = threading.Event()

    def trouble(handler: BaseHTTPRequestHandler, _: int) -> bool:
        if gone.is_set():
            handler.connection.close()
        return gone.is_set()

    with _in_front_of(hub, trouble, monkeypatch):
        _point_at_environment(linked)
        with pytest.raises(DownloadError, match=r"safetensors: .*: cannot be read, tried 7 times"):
            export(linked, None, tmp_path / "out" / "m.gguf", quant="F16", progress=lambda *_: gone.set())
    assert list((tmp_path / "out").iterdir()) == []


def test_the_token_goes_to_the_hub_and_to_nobody_else(
    hub: Hub, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights lie behind a redirect to another address, which is signed and ends."""
    elsewhere: list[dict[str, str]] = []
    to_hub = 0

    class Storage(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

        def do_GET(self) -> None:
            elsewhere.append(dict(self.headers))
            if len(elsewhere) == 20:  # the signature has ended
                self.send_error(403)
                return
            content = (base / self.path.split("/")[-1].split("?")[0]).read_bytes()
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            self.send_header("Content-Length", str(last - first + 1))
            self.end_headers()
            self.wfile.write(content[first : last + 1])

    storage = ThreadingHTTPServer(("127.0.0.1", 0), Storage)
    thread = threading.Thread(target=storage.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()

    def redirect(handler: BaseHTTPRequestHandler, _: int) -> bool:
        nonlocal to_hub
        to_hub += 1
        assert handler.headers["Authorization"] == "Bearer hf_secret"
        handler.send_response(302)
        name = handler.path.split("/")[-1]
        handler.send_header("Location", f"http://127.0.0.1:{storage.server_port}/{name}?signature=x{to_hub}")
        handler.end_headers()
        return True

    try:
        with _in_front_of(hub, redirect, monkeypatch):
            checkpoint = Checkpoint.open(link_model(NAME, tmp_path / "linked"))
            for name in checkpoint.tensors:
                np.testing.assert_array_equal(checkpoint.read(name), Checkpoint.open(base).read(name))
    finally:
        storage.shutdown()
        thread.join()
        storage.server_close()
    assert elsewhere and not any("Authorization" in headers for headers in elsewhere)
    # a signed address is asked for once by each fetcher and file, and again when it has ended
    n_shards = len(list(base.glob("*.safetensors")))
    assert to_hub == 2 * n_shards + 1 and len(elsewhere) > to_hub


def test_what_the_hub_does_not_have(hub: Hub, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DownloadError, match=r"owner/none: not on the hub .*; check the name, or run: hf auth login"):
        link_model("owner/none", tmp_path / "a")
    with pytest.raises(UnsupportedError, match="not a hub id"):
        link_model("../etc", tmp_path / "a")
    only_bin = hub.root / "models" / "owner" / "bin"
    only_bin.mkdir()
    (only_bin / "pytorch_model.bin").touch()
    with pytest.raises(UnsupportedError, match="no safetensors weights"):
        link_model("owner/bin", tmp_path / "a")
    shutil.rmtree(only_bin)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set"):
        link_model(NAME, tmp_path / "a")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(DownloadError, match=r"tried 7 times \(.*refused"):
            link_model(NAME, tmp_path / "a")


def test_a_file_that_changed_on_the_hub_is_noticed(hub: Hub, base: Path, tmp_path: Path) -> None:
    linked = link_model(NAME, tmp_path / "linked")
    pointer = json.loads((linked / POINTER).read_text(encoding="utf-8"))
    for entry in pointer["files"].values():
        entry["size"] += 1
    (linked / POINTER).write_text(json.dumps(pointer), encoding="utf-8")
    with pytest.raises(DownloadError, match=r"bytes, was \d+; link the model again"):
        Checkpoint.open(linked)
    (linked / POINTER).write_text('{"files": 3}', encoding="utf-8")
    with pytest.raises(BrokenFileError, match="damaged"):
        Checkpoint.open(linked)


def test_a_server_without_ranges_is_refused(
    hub: Hub, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def whole(handler: BaseHTTPRequestHandler, _: int) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", "3")
        handler.end_headers()
        handler.wfile.write(b"abc")
        return True

    with (
        _in_front_of(hub, whole, monkeypatch),
        pytest.raises(UnsupportedError, match="does not serve ranges; download the model instead"),
    ):
        link_model(NAME, tmp_path / "linked")


def test_the_token_is_found_where_huggingface_hub_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_file\n", encoding="utf-8")
    assert token({"HF_HOME": str(tmp_path)}) == "hf_file"
    assert token({"HF_TOKEN_PATH": str(tmp_path / "token"), "HF_HOME": "/nowhere"}) == "hf_file"
    assert token({"HF_HOME": str(tmp_path), "HF_TOKEN": " hf_variable "}) == "hf_variable"
    assert token({"HF_HOME": str(tmp_path / "none")}) is None


def test_no_hub_library_is_imported() -> None:
    code = "import sys, gguf_export; print('huggingface_hub' in sys.modules, 'httpx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
