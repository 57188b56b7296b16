"""The side of the loopback hub that is written to: repositories are made, large files arrive, commits are made of them.

The protocol is the one without Xet (``HF_HUB_DISABLE_XET=1``): what the client does with it is the same up to where the
bytes of a large file go.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.loopback_hub import Hub

Answer = tuple[int, dict[str, str], bytes]
WRITE = "hf_writeTokenOfTheTests"
READ = "hf_readTokenOfTheTests"
PART_BYTES = 1 << 20


@dataclass
class Uploads:
    """What may be written, and what was.

    Attributes:
        hub: the server.
        strict: whether tokens that are not known, and revisions, are refused where something is read, as the hub does.
        owner: whose token `WRITE` is; it may write to no other owner's repositories.
        blobs: SHA-256 to content of the large files that have arrived.
        received: how many bytes of large files were sent.
        parts: of those that are still arriving, by SHA-256 and number.
        fail: called before anything that is written; an answer of it is given instead.
        multipart: whether large files are sent in parts of `PART_BYTES`.
    """

    hub: Hub
    strict: bool = False
    owner: str = "me"
    blobs: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    received: int = 0
    fail: Callable[[str, list[str]], Answer | None] = lambda command, parts: None
    multipart: bool = False

    def answer(self, command: str, parts: list[str], authorization: str | None, body: bytes) -> Answer | None:
        """The answer to a request that writes, or asks whether it may; None for any other."""
        if command not in ("POST", "PUT"):
            return None
        joined = "/".join(parts)
        if joined == "api/validate-yaml":
            return _json(200, {"errors": [], "warnings": []})
        if "paths-info" in parts:
            return None
        failed = self.fail(command, parts)
        if failed is not None:
            return failed
        if parts[0] == "blobs":
            return self._blob(command, parts, body)
        if authorization == f"Bearer {READ}":
            return _error(403, "you need write access to this repository")
        if authorization != f"Bearer {WRITE}":
            return _error(401, "Invalid credentials in Authorization header")
        if joined == "api/repos/create":
            return self._create(json.loads(body))
        if parts[-4:] == ["info", "lfs", "objects", "batch"]:
            return self._batch(json.loads(body))
        name = "/".join(parts[2:4])
        if name.partition("/")[0] != self.owner:
            return _error(403, "you need write access to this repository")
        if parts[4] == "preupload":
            return self._modes(name, json.loads(body))
        if parts[4] == "commit":
            return self._commit(name, [json.loads(line) for line in body.decode().splitlines() if line])
        return None

    def refused_to_read(self, name: str, authorization: str | None) -> Answer | None:
        """A private repository is not there for those who may not read it; a wrong token is refused everywhere."""
        if self.strict and authorization not in (None, f"Bearer {READ}", f"Bearer {WRITE}"):
            return _error(401, "Invalid credentials in Authorization header")
        if name in self.hub.private and authorization is None:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        return None

    def _create(self, asked: dict[str, Any]) -> Answer:
        owner = asked.get("organization") or self.owner
        name = f"{owner}/{asked['name']}"
        if owner != self.owner:
            return _error(403, f"you don't have the rights to create a model under the namespace {owner}")
        folder = self.hub.root / "models" / name
        if folder.is_dir():
            return _json(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        folder.mkdir(parents=True)
        (folder / ".gitattributes").write_text("*.gguf filter=lfs\n", encoding="utf-8")
        if asked.get("private") or asked.get("visibility") == "private":
            self.hub.private.add(name)
        return _json(200, {"url": f"{self.hub.url}/{name}", "id": name})

    def _modes(self, name: str, asked: dict[str, Any]) -> Answer:
        from tests.loopback_hub import LARGE

        there = self.hub.root / "models" / name
        found = []
        for file in asked["files"]:
            large = file["path"].endswith(LARGE)
            path, oid = there / file["path"], None
            if path.is_file():
                data = path.read_bytes()
                oid = hashlib.sha256(data).hexdigest() if large else _git_oid(data)
            entry = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            found.append(entry | ({"oid": oid} if oid else {}))
        return _json(200, {"files": found})

    def _batch(self, asked: dict[str, Any]) -> Answer:
        objects = []
        for each in asked["objects"]:
            entry: dict[str, Any] = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.blobs:
                url = f"{self.hub.url}/blobs/{each['oid']}"
                upload: dict[str, Any] = {"href": f"{url}?X-Amz-Signature=notForAnybody"}
                if self.multipart:
                    count = -(-each["size"] // PART_BYTES)
                    upload["header"] = {"chunk_size": str(PART_BYTES)}
                    upload["header"] |= {f"{n:05}": f"{url}/{n}?X-Amz-Signature=x" for n in range(1, count + 1)}
                entry["actions"] = {"upload": upload}
            objects.append(entry)
        return _json(200, {"transfer": "multipart" if self.multipart else "basic", "objects": objects})

    def _blob(self, command: str, parts: list[str], body: bytes) -> Answer:
        oid = parts[1]
        if command == "POST":  # all parts are there
            body = b"".join(data for _, data in sorted(self.parts.pop(oid).items()))
        elif len(parts) == 3:
            self.received += len(body)
            self.parts.setdefault(oid, {})[int(parts[2])] = body
            return 200, {"ETag": f'"{parts[2]}"'}, b""
        else:
            self.received += len(body)
        if hashlib.sha256(body).hexdigest() != oid:
            return _error(400, "the bytes are not those of the checksum")
        self.blobs[oid] = body
        return 200, {}, b"{}"

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> Answer:
        folder = self.hub.root / "models" / name
        if not folder.is_dir():
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        from tests.loopback_hub import COMMIT

        parent = lines[0]["value"].get("parentCommit")
        if parent is not None and parent != self.hub.commits.get(name, COMMIT):
            return _error(412, "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            value = line["value"]
            large = line["key"] == "lfsFile"
            content = self.blobs[value["oid"]] if large else base64.b64decode(value["content"])
            (folder / value["path"]).write_bytes(content)
        oid = hashlib.sha1(json.dumps(lines).encode()).hexdigest()
        self.hub.commits[name] = oid
        return _json(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _json(status: int, value: Any) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _error(status: int, message: str) -> Answer:
    return (
        status,
        {"Content-Type": "application/json", "X-Error-Message": message},
        json.dumps({"error": message}).encode(),
    )
