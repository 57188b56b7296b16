"""A model hub on the loopback interface: it serves folders by the hub's own protocol, as far as the kit needs it.

``root/models/OWNER/NAME`` and ``root/datasets/OWNER/NAME`` hold the files of each repository. What is written goes
through `tests.loopback_uploads`.
Source of the protocol: what ``huggingface_hub`` 1.x and ``datasets`` 4.x ask for.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.loopback_uploads import Uploads

COMMIT = "c0ffee".ljust(40, "0")
LARGE = (".gguf", ".safetensors", ".bin")
"""What the hub keeps by its SHA-256, in Git LFS."""


class Hub(ThreadingHTTPServer):
    """The server.

    Attributes:
        sent: ``METHOD path`` and the bytes that were sent, for each request.
        uploads: what may be written, and by whom.
        commits: repository to its newest commit; `COMMIT` for those that were never written to.
        private: repositories that need a token.
        damaged: files that are sent with a byte changed.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.sent: list[tuple[str, int]] = []
        self.uploads = Uploads(self)
        self.commits: dict[str, str] = {}
        self.private: set[str] = set()
        self.damaged: set[str] = set()

    @property
    def url(self) -> str:
        """What ``HF_ENDPOINT`` has to say."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(root: Path) -> Iterator[Hub]:
    """A hub that answers while the block runs."""
    with Hub(root) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr; `Hub.sent` has it."""

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_PUT(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, asked: bytes) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        written = self.server.uploads.answer(self.command, parts, self.headers.get("Authorization"), asked)
        if written is not None:
            status, headers, body = written
            self._send(status, headers, body)
        elif parts[0] == "api":
            self._tell(parts[1], "/".join(parts[2:4]), parts[4:], asked)
        elif parts[0] == "datasets":
            self._file("datasets", "/".join(parts[1:3]), "/".join(parts[5:]))
        else:
            self._file("models", "/".join(parts[:2]), "/".join(parts[4:]))

    def _tell(self, kind: str, name: str, rest: list[str], asked: bytes) -> None:
        """``/api/KIND/NAME/revision/…``, ``…/tree/REVISION/FOLDER`` or ``…/paths-info/REVISION``."""
        repository = self.server.root / kind / name
        refused = self.server.uploads.refused_to_read(name, self.headers.get("Authorization"))
        if refused is not None:
            self._send(*refused)
            return
        if not repository.is_dir():
            self._send(404, {"X-Error-Code": "RepoNotFound"})
            return
        known = ("main", self.server.commits.get(name, COMMIT))
        if self.server.uploads.strict and rest[:1] == ["revision"] and rest[1] not in known:
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
            return
        listing = [_entry(repository, path) for path in sorted(repository.rglob("*"))]
        files = [entry for entry in listing if entry["type"] == "file"]
        answer: Any = {
            "id": name,
            "sha": self.server.commits.get(name, COMMIT),
            "private": name in self.server.private,
            "siblings": [{"rfilename": entry["path"]} | entry for entry in files],
        }
        card = repository / "README.md"
        if card.is_file() and (head := re.match(r"(?s)---\n(.*?)\n---", card.read_text(encoding="utf-8"))):
            answer["cardData"] = yaml.safe_load(head[1])
        if rest[:1] == ["tree"]:
            under, deep = Path(*rest[2:]), "recursive=true" in self.path
            answer = [
                entry
                for entry in listing
                if (under in Path(entry["path"]).parents if deep else under == Path(entry["path"]).parent)
            ]
        elif rest[:1] == ["paths-info"]:
            wanted = parse_qs(asked.decode())["paths"]
            answer = [entry for entry in listing if entry["path"] in wanted]
        self._send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _file(self, kind: str, name: str, path: str) -> None:
        """``[/datasets]/NAME/resolve/REVISION/PATH``, whole or a range of it."""
        file = self.server.root / kind / name / path
        if not file.is_file():
            known = (self.server.root / kind / name).is_dir()
            self._send(404, {"X-Error-Code": "EntryNotFound" if known else "RepoNotFound"})
            return
        refused = self.server.uploads.refused_to_read(name, self.headers.get("Authorization"))
        if refused is not None:
            self._send(*refused)
            return
        data = file.read_bytes()
        commit = self.server.commits.get(name, COMMIT)
        headers = {"ETag": f'"{_digest(data)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if path in self.server.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if "Range" not in self.headers:
            self._send(200, headers, data)
            return
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        end = min(int(last or len(data) - 1), len(data) - 1) + 1
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
        self._send(206, headers, data[int(first) : end])

    def _send(self, status: int, headers: dict[str, str], data: bytes = b"") -> None:
        self.server.sent.append((f"{self.command} {self.path}", 0 if self.command == "HEAD" else len(data)))
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _entry(repository: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(repository).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": _digest(name.encode()), "size": 0}
    data = path.read_bytes()
    entry = {"type": "file", "path": name, "oid": _digest(data), "size": len(data)}
    if path.suffix in LARGE:
        digest = hashlib.sha256(data).hexdigest()  # a model's page calls it sha256, a tree oid
        entry["lfs"] = {"sha256": digest, "oid": digest, "size": len(data), "pointerSize": 130}
    return entry


def _digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
