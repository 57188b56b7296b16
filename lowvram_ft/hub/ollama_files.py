"""The files by which Ollama sets up a GGUF from the hub, and the Modelfile that says the same.

``ollama run hf.co/OWNER/NAME:Q4_K_M`` reads no Modelfile. It takes the Go template from ``template``, the system text
from ``system`` and parameters from ``params`` (JSON), all at the top of the repository
(https://huggingface.co/docs/hub/ollama).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf_export

NAMES = ("template", "system", "params")
DEFAULT_N_CTX = 4096
_BLOCK = re.compile(r'(?ms)^(TEMPLATE|SYSTEM) """(.*?)"""$')
_PARAMETER = re.compile(r"(?m)^PARAMETER (\w+) (.+)$")


def hub_files(gguf: Path, notes: list[str]) -> dict[str, bytes]:
    """The files for a GGUF: of the Modelfile beside it, else of its own chat template.

    Args:
        gguf: the file.
        notes: gets a line where there is no such template.
    """
    beside = gguf.with_suffix(".Modelfile")
    if beside.is_file():
        text = beside.read_text(encoding="utf-8")
    else:
        try:
            text = _modelfile_of(gguf)
        except gguf_export.UnsupportedError as error:
            notes.append(f"{gguf.name}: Ollama gets no template, and guesses one ({error})")
            return {}
    return {name: content.encode() for name, content in _files(text).items()}


def modelfile_from(gguf_name: str, files: Mapping[str, str]) -> str:
    """The Modelfile that says what the files of a repository say.

    Args:
        gguf_name: the file beside the Modelfile.
        files: name to content of those that are there.
    """
    lines = [f"FROM ./{gguf_name}"]
    for name in ("template", "system"):
        if files.get(name):
            lines.append(f'{name.upper()} """{files[name]}"""')
    params = json.loads(files.get("params") or "{}")
    for key, value in params.items():
        for each in value if isinstance(value, list) else [value]:
            lines.append(f"PARAMETER {key} {_parameter(each)}")
    return "\n".join(lines) + "\n"


def _files(modelfile: str) -> dict[str, str]:
    blocks = {kind.lower(): text for kind, text in _BLOCK.findall(modelfile)}
    params: dict[str, Any] = {}
    for key, written in _PARAMETER.findall(_BLOCK.sub("", modelfile)):
        if key == "stop":
            params.setdefault(key, []).append(written.strip().removeprefix('"').removesuffix('"'))
        else:
            params[key] = _value(written.strip())
    return blocks | ({"params": json.dumps(params, indent=2, ensure_ascii=False) + "\n"} if params else {})


def _value(written: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(written)
        except ValueError:
            continue
    return written.strip('"')


def _parameter(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _modelfile_of(path: Path) -> str:
    file = gguf_export.GgufFile(path)
    template = file.get("tokenizer.chat_template")
    if not template:
        raise gguf_export.UnsupportedError("the file has no chat template")
    architecture = file.get("general.architecture")
    return gguf_export.modelfile(
        path.name,
        chat_template=template,
        eos_tokens=[file.special_text("eos")],
        num_ctx=min(int(file.get(f"{architecture}.context_length", DEFAULT_N_CTX)), DEFAULT_N_CTX),
        bos_token=file.special_text("bos"),
        add_bos=bool(file.get("tokenizer.ggml.add_bos_token", False)),
    )
