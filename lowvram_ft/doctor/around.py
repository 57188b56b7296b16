"""What lies around the kit: the sandbox, the hub's cache, Ollama, and variables that change what it does."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from lowvram_ft.doctor.check import Check, gib
from lowvram_ft.doctor.system import existing
from lowvram_ft.execution.sandbox import bubblewrap, states

OLLAMA = "http://127.0.0.1:11434"
OLLAMA_TIMEOUT_S = 0.3
SHOWN = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF",
         "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_XET", "TRANSFORMERS_OFFLINE", "LOWVRAM_FT_SANDBOX",
         "LOWVRAM_FT_ALLOW_UNSANDBOXED", "LLAMA_CPP_LIB_PATH", "CMAKE_ARGS", "CXX")  # fmt: skip
"""Variables that change what the kit does, and whose values tell nothing about a person."""
NAMED = ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN", "LOWVRAM_FT_CACHE", "LOWVRAM_FT_DATA",
         "LOWVRAM_FT_MODEL", "OLLAMA_HOST", "OPENAI_API_KEY", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy",
         "PYTHONPATH", "LD_LIBRARY_PATH")  # fmt: skip
"""Variables that change it, and of which only that they are set is told."""


def check_sandbox() -> Check:
    """The strongest layer in which generated tests can run, and why not a stronger one."""
    found = states()
    best = next(state for state in found if state.problem is None)
    missing = [f"{state.layer}: {state.problem}" for state in found if state.problem is not None]
    if best.layer == "rlimits":
        mend = f"{'; '.join(missing)}; or run in a container or a virtual machine, with --allow-unsandboxed"
        return Check("sandbox", "failing", "none but limits on time and memory", mend)
    weaker = [state.layer for state in found[found.index(best) + 1 : -1] if state.problem is None]
    also = f", joined by {' and '.join(weaker)}" if weaker else ""
    if best.layer == "bubblewrap":
        return Check("sandbox", "ok", f"bubblewrap ({bubblewrap.program()}){also}")
    return Check("sandbox", "warning", f"{best.layer}, without namespaces", "; ".join(missing))


def hub_cache(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the hub's client keeps what it fetched (``huggingface_hub.constants``, read without importing it)."""
    if own := environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(own).expanduser()
    xdg = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(environ.get("HF_HOME") or Path(xdg) / "huggingface").expanduser() / "hub"


def check_hub_cache(environ: Mapping[str, str] = os.environ) -> Check:
    """The hub's cache: whether it can be written, what it holds, what was broken off."""
    folder = hub_cache(environ)
    if not os.access(existing(folder), os.W_OK):
        return Check("hub cache", "failing", f"{folder} cannot be written", "export HF_HOME=FOLDER that you may write")
    models = len(list(folder.glob("models--*")))
    sets = len(list(folder.glob("datasets--*")))
    text = f"{folder}: {models} {'model' if models == 1 else 'models'}, {sets} data set{'' if sets == 1 else 's'}"
    broken = [file.stat().st_size for file in folder.glob("*/blobs/*.incomplete") if file.is_file()]
    if broken:
        text += f"; {len(broken)} unfinished downloads, {gib(sum(broken))}"
        return Check(
            "hub cache", "warning", text, "run the same command again to finish them, or: lowvram-ft clean hub"
        )
    if environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Check(
            "hub cache", "warning", f"{text}; HF_HUB_OFFLINE is set: nothing is fetched", "unset HF_HUB_OFFLINE"
        )
    return Check("hub cache", "ok", text)


def check_ollama(environ: Mapping[str, str] = os.environ, address: str = OLLAMA) -> Check:
    """The Ollama client, which only `ollama create` needs, and whether its server answers on this machine."""
    path = shutil.which("ollama")
    if path is None:
        mend = "to use the Modelfile: curl -fsSL https://ollama.com/install.sh | sh"
        return Check("Ollama", "warning", "no client", mend)
    if environ.get("OLLAMA_HOST"):
        return Check("Ollama", "ok", f"{path}; its server is where OLLAMA_HOST says (not asked)")
    version = _ollama_version(address)
    if version is None:
        return Check("Ollama", "warning", f"{path}; no server answers", "ollama serve")
    return Check("Ollama", "ok", f"{path}; server {version}")


def _ollama_version(address: str) -> str | None:
    """Source: Ollama's API, ``GET /api/version``. None where nothing answers."""
    import http.client
    from urllib.parse import urlsplit

    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=OLLAMA_TIMEOUT_S)
    try:
        connection.request("GET", "/api/version")
        return str(json.loads(connection.getresponse().read(4096))["version"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()


def check_environment(environ: Mapping[str, str] = os.environ) -> Check:
    """Variables that change what the kit does. Where a value may tell something about a person, only the name."""
    told = [f"{name}={environ[name]}" for name in SHOWN if environ.get(name)]
    told += [f"{name} is set" for name in NAMED if environ.get(name)]
    told += [f"{name} is set" for name in sorted(environ) if name.startswith("UNSLOTH_") and environ[name]]
    return Check("environment", "ok", ", ".join(told) or "nothing that changes the kit")
