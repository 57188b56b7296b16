"""What is passed on: an adapter, a GGUF, or both of a run; which files that is, and what they are called on the hub."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf_export
from lowvram_ft.errors import ModelError, RunDirectoryError, UsageError
from lowvram_ft.hub.names import local_path_in, local_path_inside, public_base, stem_of
from lowvram_ft.hub.ollama_files import hub_files
from lowvram_ft.hub.run_facts import RunFacts, read_run, run_of

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
BESIDE_ADAPTER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json", "generation_config.json",
)  # fmt: skip
"""What other programs save beside an adapter and a user of it needs. Nothing else of its folder is sent: neither
checkpoints, nor an optimizer's state, nor ``training_args.bin``."""
Want = Literal["adapter", "gguf"]


@dataclass(frozen=True)
class File:
    """A file to send.

    Attributes:
        name: in the repository.
        path: on this machine; None where ``content`` has it.
        content: a text made for the hub.
    """

    name: str
    path: Path | None = None
    content: bytes | None = None

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.content) if self.content is not None else self.path.stat().st_size if self.path else 0


@dataclass(frozen=True)
class Gguf:
    """A GGUF to send.

    Attributes:
        path: the file.
        name: in the repository.
        quant: its type, such as ``Q4_K_M``.
        is_lora: whether it is an adapter alone.
        verified: what its verification says; None where there is none.
        context: most tokens that the model takes; None where the file does not say.
    """

    path: Path
    name: str
    quant: str
    is_lora: bool
    verified: dict[str, Any] | None
    context: int | None


@dataclass(frozen=True)
class Artifact:
    """What is passed on.

    Attributes:
        base: hub id of the base model.
        files: what is sent, without the card.
        adapter: PEFT's settings; None where no adapter is sent.
        gguf: None where none is sent.
        run: what its run says; None where it is not part of one.
        licence: what the GGUF itself says of its licence.
        description: what the GGUF says of itself.
        notes: what the user should know.
    """

    base: str
    files: tuple[File, ...]
    adapter: dict[str, Any] | None
    gguf: Gguf | None
    run: RunFacts | None
    licence: str | None
    description: str | None
    notes: tuple[str, ...]


def find_artifact(source: Path, repo_id: str, *, want: Want | None, base: str | None) -> Artifact:
    """Find out what is meant, and read what is known of it.

    Args:
        source: a run directory, a PEFT adapter's folder, that of a run's stage, or a GGUF.
        repo_id: the repository; a GGUF is called after it.
        want: of a run, the adapter or the GGUF alone.
        base: hub id of the base model, for one that was trained from a folder.

    Raises:
        UsageError: there is no such thing.
        ModelError: it is broken, names a base model that means nothing to others, or holds a path of this machine.
        RunDirectoryError: the run is damaged, or has not come that far.
    """
    if not source.exists():
        raise UsageError(f"{source}: no such file or folder; give a run, an adapter's folder, or a GGUF")
    folder = next((each for each in (source, source / "adapter") if (each / CONFIG).is_file()), None)
    run = run_of(source)
    stage = folder.parent.name if folder is not None and run is not None else None
    facts = read_run(run, stage) if run is not None else None
    gguf: Path | None = None
    if source.is_file():
        if source.suffix.lower() != ".gguf":
            raise UsageError(f"{source}: is no GGUF; give a run, an adapter's folder, or a file that ends in .gguf")
        gguf = source
    elif folder is None:
        if facts is None or run is None or source.absolute() != run:
            raise UsageError(f"{source}: is no run and no adapter (no run.json, no {CONFIG}); give one, or a GGUF")
        folder, gguf = _of_run(source, facts, want)
    if (want == "adapter" and folder is None) or (want == "gguf" and gguf is None):
        raise UsageError(f"--{want}: chooses between the parts of a run, and {source} is one part; leave it out")
    return _read(folder, gguf, repo_id, base, facts)


def _of_run(run: Path, facts: RunFacts, want: Want | None) -> tuple[Path | None, Path | None]:
    """The adapter of the last stage and the final GGUF, as far as they are wanted and there."""
    last = json.loads((run / "run.json").read_text(encoding="utf-8"))["recipe"]["stages"][-1]["name"]
    adapter: Path | None = run / "stages" / last / "adapter"
    # the path in run.json is that of the machine and the folder that the run was made in
    gguf: Path | None = run / "export" / Path(facts.export["gguf"]).name if facts.export is not None else None
    if adapter is not None and not (adapter / CONFIG).is_file():
        adapter = None
    if gguf is not None and not gguf.is_file():
        gguf = None
    if want == "adapter":
        gguf = None
    elif want == "gguf":
        adapter = None
    if adapter is None and gguf is None:
        what = f"no {'GGUF' if want == 'gguf' else 'adapter'} yet" if want else "neither an adapter nor a GGUF yet"
        raise RunDirectoryError(f"{run}: holds {what}; let the run finish: run its command again")
    return adapter, gguf


def _read(folder: Path | None, path: Path | None, repo_id: str, base: str | None, facts: RunFacts | None) -> Artifact:
    notes: list[str] = []
    files: list[File] = []
    config = _settings(folder) if folder is not None else None
    gguf, says, named = None, _Says(), facts.base if facts is not None else None
    if path is not None:
        gguf, says = _gguf(path, repo_id, facts, notes)
        named = named or says.base
    if config is not None and folder is not None:
        named = named if named is not None else str(config.get("base_model_name_or_path") or "")
        _refuse_chain(folder, config, base)
    if not named and base is None:
        raise ModelError(f"{path or folder}: does not say what its base model is; add --base OWNER/NAME")
    hub_base = public_base(named or "", base)
    if config is not None and folder is not None:
        config = {**config, "base_model_name_or_path": hub_base}
        files += _adapter_files(folder, config, hub_base)
    if gguf is not None:
        files.append(File(gguf.name, gguf.path))
        if not gguf.is_lora:
            files += [File(name, content=content) for name, content in hub_files(gguf.path, notes).items()]
    return Artifact(hub_base, tuple(files), config, gguf, facts, says.licence, says.description, tuple(notes))


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); save the adapter again") from error
    if not isinstance(config, dict) or "peft_type" not in config:
        raise ModelError(f"{path}: is not PEFT's (no peft_type); save the adapter again")
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder}: no {WEIGHTS}; save the adapter again as safetensors (model.save_pretrained)")
    return config


def _refuse_chain(folder: Path, config: dict[str, Any], base: str | None) -> None:
    named = str(config.get("base_model_name_or_path") or "")
    if base is None and named and (Path(named) / CONFIG).is_file():
        raise ModelError(
            f"{folder}: was trained on another adapter, merged ({named}), and is nothing without it; pass on the GGUF"
        )


def _adapter_files(folder: Path, config: dict[str, Any], base: str) -> list[File]:
    """The adapter's own, and what lies beside it; settings without a path of this machine."""
    files = [File(CONFIG, content=_json(folder / CONFIG, config)), File(WEIGHTS, folder / WEIGHTS)]
    for name in BESIDE_ADAPTER:
        path = folder / name
        if not path.is_file():
            continue
        if path.suffix != ".json" or name == "tokenizer.json" or name == "vocab.json":
            files.append(File(name, path))
            continue
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot be read ({error}); save it again") from error
        if isinstance(value, dict) and local_path_in(str(value.get("name_or_path") or "")):
            value["name_or_path"] = base
        files.append(File(name, content=_json(path, value)))
    return files


def _json(path: Path, value: Any) -> bytes:
    found = local_path_inside(value)
    if found is not None:
        raise ModelError(f"{path}: names a path of this machine, which all could read ({found}); take it out")
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


@dataclass(frozen=True)
class _Says:
    """What a GGUF says of itself."""

    licence: str | None = None
    base: str | None = None
    description: str | None = None


def _gguf(path: Path, repo_id: str, facts: RunFacts | None, notes: list[str]) -> tuple[Gguf, _Says]:
    """The file, and what it says of itself."""
    file = gguf_export.GgufFile(path)
    found = next((text for key in _TEXTS if (text := local_path_in(str(file.get(key) or "")))), None)
    if found is not None:
        raise ModelError(f"{path}: names a path of this machine, which all could read ({found}); export it again")
    quant = _quant(path, file.get("general.file_type"))
    is_lora = file.get("general.type") == "adapter"
    if facts is not None and facts.export is not None and path.name == Path(facts.export["gguf"]).name:
        _require_same(path, facts.export)
        verified = dict(facts.verification) if facts.verification is not None else None
    else:
        verified = _verification(path)
    if verified is None and not is_lora:
        notes.append(f"{path.name}: was not verified; the card says so")
    architecture = file.get("general.architecture")
    context = file.get(f"{architecture}.context_length")
    url = str(file.get("general.base_model.0.repo_url") or "")
    base = re.sub(r"^https://huggingface\.co/", "", url) or None
    name = f"{stem_of(repo_id)}-{'lora-' if is_lora else ''}{quant}.gguf"
    says = _Says(file.get("general.license"), base, file.get("general.description"))
    return Gguf(path, name, quant, is_lora, verified, context), says


_TEXTS = (
    "general.name", "general.basename", "general.finetune", "general.description", "general.source.url", "general.url",
    "general.source.repo_url", "general.repo_url", "general.base_model.0.name", "general.base_model.0.repo_url",
    "quantize.imatrix.file", "quantize.imatrix.dataset",
)  # fmt: skip
"""Settings of a GGUF that programs fill with names of files."""


def _quant(path: Path, file_type: int | None) -> str:
    """The type that a GGUF is in, by its own word, else by its name."""
    import gguf

    if file_type is not None and file_type in {member.value for member in gguf.LlamaFileType}:
        return str(gguf.LlamaFileType(file_type).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    found = re.search(r"(?:^|[-_.])((?:I?Q\d|BF16|F16|F32)\w*)$", path.stem, re.IGNORECASE)
    if found is None:
        raise ModelError(f"{path}: does not say which type it is in; end its name with it, as in NAME-Q4_K_M.gguf")
    return found.group(1).upper()


def _require_same(path: Path, export: Any) -> None:
    """Refuse a file that is another one than the run has verified and evaluated."""
    if path.stat().st_size != export["size_bytes"] or gguf_export.sha256_of(path) != export["sha256"]:
        raise ModelError(
            f"{path}: is not the file that the run exported (its SHA-256 differs), and the run's figures are not of "
            "it; export it again, or move it out of the run"
        )


def _verification(path: Path) -> dict[str, Any] | None:
    """What ``lowvram-ft export`` has written beside a GGUF, where it is about this very file."""
    try:
        found = json.loads(path.with_suffix(".verification.json").read_text(encoding="utf-8"))
        checks = {check["name"]: check["detail"] for check in found["checks"]}
        same = gguf_export.sha256_of(path) in checks.get("checksum", "")
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none, or another program's
    return found if same and found.get("ok") else None
