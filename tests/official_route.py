"""The official route from base and adapter to a GGUF, as an oracle: PEFT's merge, llama.cpp's converter, its quantizer.

The converter is not part of the installed llama-cpp-python; it lies in that package's source distribution, which is
fetched once from the package index (about 100 MB) into the kit's cache and checked against the index's sha256. Only
what is needed is kept. Nothing of it is in this repository.

Two things are changed in the converter, at run time. It names the pre-tokenizer by a hash of the ids of a probe text,
which a tokenizer trained on the spot cannot have: `get_vocab_base_pre` returns the name that the test gives. And it
imports sentencepiece before it looks whether there is a file for it: an empty stand-in takes its place.
"""

from __future__ import annotations

import hashlib
import html
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lowvram_ft.hardware import cache_dir

_KEPT = re.compile(
    r"[^/]+/vendor/llama\.cpp/"
    r"(convert_(hf|lora)_to_gguf\.py|(conversion|gguf-py)/.*|models/ggml-vocab-[^/]*\.gguf(\.inp|\.out)?"
    r"|models/templates/[^/]*\.jinja)"
)
_DRIVER = """
import json, sys, types
sys.path.insert(0, sys.argv[1])
import convert_hf_to_gguf
from conversion.base import TextModel
sys.modules["sentencepiece"] = types.SimpleNamespace(SentencePieceProcessor=None)

by_hash = TextModel.get_vocab_base_pre

for job in json.load(sys.stdin):
    TextModel.get_vocab_base_pre = (lambda self, tokenizer: job["pre"]) if job["pre"] else by_hash
    sys.argv = ["convert_hf_to_gguf.py", job["model"], "--outfile", job["out"], "--outtype", job["outtype"]]
    sys.argv += ["--vocab-only"] if job["vocab_only"] else []
    convert_hf_to_gguf.main()
"""


class OracleUnavailable(Exception):
    """The source distribution is not in the cache, and the package index cannot be reached."""


@dataclass(frozen=True)
class Conversion:
    """One run of the converter.

    Attributes:
        model: the model folder.
        out: the GGUF to write.
        outtype: ``"bf16"``, ``"f16"`` or ``"f32"``.
        pre: the name of the pre-tokenizer; empty to let the converter find it by its hash.
        vocab_only: write the vocabulary without weights; the folder needs none.
    """

    model: str
    out: str
    outtype: str = "bf16"
    pre: str = "smollm"
    vocab_only: bool = False


def llama_cpp_source() -> Path:
    """The folder of llama.cpp's source that the installed llama-cpp-python was built from.

    Raises:
        OracleUnavailable: it has to be fetched, and cannot be; the message is the reason.
        RuntimeError: what came is not what the index says.
    """
    version = importlib.metadata.version("llama-cpp-python")
    kept = hashlib.sha256(_KEPT.pattern.encode()).hexdigest()[:8]
    folder = cache_dir() / "oracle" / f"llama_cpp_python-{version}-{kept}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            try:
                archive = _download(version, Path(temporary))
            except (OSError, urllib.error.URLError) as error:
                raise OracleUnavailable(
                    f"llama-cpp-python {version}: its source cannot be fetched ({error})"
                ) from error
            _unpack(archive, Path(temporary) / "kept")
            if not folder.is_dir():  # another test process may have been faster
                (Path(temporary) / "kept").rename(folder)
    return folder


def peft_merge(
    base: Path, adapters: Sequence[Path], out: Path, dtype: str = "float64", *, separate_head: bool = False
) -> Path:
    """Merge with PEFT, one adapter after the other, and save the model and its tokenizer.

    Args:
        base: a model folder.
        adapters: adapter folders, first trained first.
        out: the folder to write.
        dtype: torch's name of the type to merge in. The last bit of a sum in float32 (which bfloat16 is merged in)
            depends on the processor; in float64 it does not, and each merge is rounded to float32.
        separate_head: give a tied model a head of its own before the merge, as PEFT's own warning advises.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    settings: dict[str, Any] = {"tie_word_embeddings": False} if separate_head else {}
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype), **settings)
    if separate_head:
        model.lm_head.weight.data = model.model.embed_tokens.weight.data.clone()
    for adapter in adapters:
        adapted = PeftModel.from_pretrained(model, str(adapter))
        if dtype == "float64":
            model = adapted.to(torch.float64).merge_and_unload().to(torch.float32)
        else:
            model = adapted.merge_and_unload()
    model.save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (base / name).is_file():
            shutil.copyfile(base / name, out / name)
    return out


def convert(jobs: Sequence[Conversion]) -> None:
    """Run llama.cpp's ``convert_hf_to_gguf.py`` over model folders, all in one process.

    Raises:
        OracleUnavailable: the converter is not there.
        RuntimeError: the converter failed.
    """
    source = llama_cpp_source()
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    environment.pop("NO_LOCAL_GGUF", None)  # the converter's own gguf-py, not the installed package
    command = [sys.executable, "-c", _DRIVER, str(source)]
    text = json.dumps([asdict(job) for job in jobs])
    done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the converter failed:\n{done.stderr[-4000:]}")


def quantize(source: Path, out: Path, ftype: int) -> Path:
    """Call ``llama_model_quantize`` of the installed llama.cpp.

    Raises:
        RuntimeError: llama.cpp refused.
    """
    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = ftype
    settings.nthread = 1
    if llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), settings) != 0:
        raise RuntimeError(f"llama_model_quantize refused {source}")
    return out


def _download(version: str, folder: Path) -> Path:
    """Fetch the source distribution, from the index that pip is set to use (PEP 503 and PEP 691)."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
    accept = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
    page_url = f"{index}/llama-cpp-python/"
    with urllib.request.urlopen(urllib.request.Request(page_url, headers={"Accept": accept}), timeout=30) as reply:
        page, kind = reply.read().decode(), reply.headers.get_content_type()
    if kind.endswith("+json"):
        links = {
            entry["filename"]: (entry["url"], entry["hashes"].get("sha256")) for entry in json.loads(page)["files"]
        }
    else:
        links = {}
        for link in re.findall(r'href="([^"]+)"', page):
            url, _, fragment = html.unescape(link).partition("#")
            links[url.rsplit("/", 1)[-1]] = (url, fragment.removeprefix("sha256=") or None)
    name = next((n for n in links if re.fullmatch(rf"llama[_-]cpp[_-]python-{re.escape(version)}\.tar\.gz", n)), None)
    if name is None:
        raise OSError(f"{page_url} lists no source distribution of this version")
    url, expected = links[name]
    path, digest = folder / name, hashlib.sha256()
    with urllib.request.urlopen(urllib.parse.urljoin(page_url, url), timeout=60) as reply, path.open("wb") as file:
        while chunk := reply.read(1 << 20):
            file.write(chunk)
            digest.update(chunk)
    if expected is None or digest.hexdigest() != expected:
        raise RuntimeError(f"{url}: sha256 {digest.hexdigest()}, the index says {expected}")
    return path


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and ".." not in member.name and _KEPT.fullmatch(member.name):
                target = folder / member.name.split("/vendor/llama.cpp/", 1)[1]
                target.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                assert content is not None
                with content, target.open("wb") as file:
                    shutil.copyfileobj(content, file)
