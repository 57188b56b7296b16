"""Export a base model and its adapter: GGUF, Modelfile, verification. A thin layer over ``gguf_export``."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import gguf_export
from lowvram_ft.data.sources.samples import held_out_rows
from lowvram_ft.errors import ExportRejected, MachineError, RecipeError, cannot_write
from lowvram_ft.hardware import Hardware
from lowvram_ft.models import BaseModel
from lowvram_ft.progress import Progress
from lowvram_ft.recipe import ExportSection
from lowvram_ft.rendering import ChatFormat, from_folder
from lowvram_ft.run_dir import write_json, write_text

FLOAT32_SHARE = 0.6
"""Most of the free memory that the float32 reference may take; a larger model is verified by itself alone."""


def export_model(
    base: Path,
    adapter: Path | Sequence[Path] | None,
    out: Path,
    section: ExportSection,
    progress: Progress,
    metadata: dict[str, str] | None = None,
    chat: ChatFormat | None = None,
) -> dict[str, Any]:
    """Write a GGUF, and a Modelfile beside it.

    Args:
        base: folder of the base model.
        adapter: PEFT folder, or a chain of them, first trained first; None for the base alone.
        out: the ``.gguf`` to write.
        section: the recipe's ``[export]``.
        progress: where a person reads how far it is.
        metadata: more ``general.*`` keys.
        chat: the chat format that was trained; the base's by default.

    Returns:
        Path, type, size, hash, seconds.

    Raises:
        gguf_export.ExportError: see there; nothing is left half-written.
        ModelError: the base has no chat template.
    """
    chat = chat or from_folder(base)
    result = gguf_export.export(
        base,
        adapter,
        out,
        quant=section.quant,
        rounding=section.rounding,
        imatrix=Path(section.imatrix) if section.imatrix else None,
        chat_template=chat.template,
        eos_token=chat.end_token,
        metadata={"name": out.stem, **(metadata or {})},
        progress=lambda step, share: progress.step(f"export {out.name}: {step}", int(100 * share), 100),
    )
    text = gguf_export.modelfile(
        out.name,
        chat_template=result.chat_template,
        eos_tokens=[result.eos_token],
        num_ctx=section.n_ctx,
        system=chat.system,
        bos_token=result.bos_token,
        add_bos=result.add_bos,
    )
    modelfile = out.with_suffix(".Modelfile")
    write_text(modelfile, text)
    return {
        "gguf": str(out),
        "modelfile": str(modelfile),
        "quant": result.quant,
        "size_bytes": result.size_bytes,
        "sha256": result.sha256,
        "seconds": round(result.seconds, 1),
    }


def move_export(result: dict[str, Any], out: Path) -> dict[str, Any]:
    """Give an exported GGUF another place, and its Modelfile too.

    Args:
        result: of `export_model`.
        out: the ``.gguf`` that it becomes.

    Returns:
        The same result with the new paths.

    Raises:
        MachineError: the files cannot be moved.
    """
    source, modelfile = Path(result["gguf"]), Path(result["modelfile"])
    text = modelfile.read_text(encoding="utf-8").replace(f"FROM ./{source.name}\n", f"FROM ./{out.name}\n", 1)
    new = out.with_suffix(".Modelfile")
    write_text(new, text)
    try:
        source.replace(out)  # one file system: both are in the run directory
        modelfile.unlink()
    except OSError as error:
        raise cannot_write(out, error) from error
    return {**result, "gguf": str(out), "modelfile": str(new)}


def provenance(base: BaseModel, adapters: Sequence[Path], recipe: str | None = None) -> dict[str, str]:
    """Where a GGUF comes from, as ``general.*`` keys: base model, licence, adapters by checksum, recipe.

    Args:
        base: what was fine-tuned.
        adapters: PEFT folders, first trained first.
        recipe: name of the recipe that trained them.
    """
    found: dict[str, str] = {}
    name = Path(base.id).name
    found["base_model.0.name"] = name
    if base.kind == "hub":
        found["base_model.0.organization"] = base.id.partition("/")[0]
        found["base_model.0.repo_url"] = f"https://huggingface.co/{base.id}"
    if base.licence:
        found["license"] = base.licence
    parts = [
        f"LoRA adapter {gguf_export.sha256_of(folder / 'adapter_model.safetensors')[:16]}"
        for folder in adapters
        if (folder / "adapter_model.safetensors").is_file()
    ]
    if recipe is not None:
        parts.append(f"recipe {recipe}")
    if parts:
        found["description"] = f"{name} with {', '.join(parts)}"
    return found


def section_from(**values: Any) -> ExportSection:
    """An ``[export]`` section from the command line's values.

    Raises:
        RecipeError: a value is not allowed; the message says which are.
    """
    try:
        return ExportSection.model_validate(values)
    except ValidationError as error:
        raise RecipeError(
            [
                f"--{item['loc'][0]}: {item['msg'][0].lower()}{item['msg'][1:]} (got {item['input']!r})"
                for item in error.errors()
            ]
        ) from error


def verify_model(
    gguf: Path,
    base: Path,
    adapter: Path | Sequence[Path] | None,
    section: ExportSection,
    hardware: Hardware,
    progress: Progress,
    sha256: str | None = None,
    chat: ChatFormat | None = None,
    reject: Callable[[gguf_export.Verification], Path] | None = None,
) -> dict[str, Any]:
    """Verify a GGUF: its weights against base + adapter, and its answers on held-out rows where those fit into memory.

    Args:
        gguf: the file.
        base: folder of the base model.
        adapter: PEFT folder, or a chain of them, first trained first; None for the base alone.
        section: the recipe's ``[export]``.
        hardware: this machine.
        progress: where a person reads what is going on.
        sha256: what the export reported; the file has to be that one still.
        chat: the chat format that was trained; the base's by default.
        reject: keeps the file under another name where it fails, and returns that; ``NAME.rejected`` by default.

    Returns:
        Every check, and the scores.

    Raises:
        ExportRejected: a check failed; the file is kept under the name ``NAME.rejected``.
    """
    gguf_export.require_llama_cpp("verification")
    reference = None
    note = ""
    chat = chat or from_folder(base)
    remote = gguf_export.linked_bytes(base) > 0
    if remote:
        note = "the base's weights stay on the hub: verified without them"
    elif section.verify_rows == 0:
        note = "export.verify_rows is 0: verified without a reference"
    elif (needed := _float32_bytes(base)) > FLOAT32_SHARE * hardware.ram_available_bytes:
        note = f"base + adapter need {needed / 2**30:.1f} GiB in float32: verified without a reference"
    else:
        from lowvram_ft.training.answers import write_reference

        rows = list(held_out_rows())[: section.verify_rows]
        path = gguf.with_suffix(".reference.npz")
        progress.say(f"verify: base + adapter on {len(rows)} held-out rows")
        write_reference(base, adapter, rows, chat, path)
        reference = gguf_export.Reference.load(path)
    verification = gguf_export.verify(
        gguf,
        reference,
        base=None if remote else base,
        adapter=adapter,
        tokenizer_folder=base,
        rounding=section.rounding,
        imatrix=Path(section.imatrix) if section.imatrix else None,
        sha256=sha256,
        chat_template=chat.template,
        require_stop=section.require_stop,
        n_predict=section.n_ctx // 4,
        progress=lambda what: progress.say(f"verify: {what}"),
    )
    result = {**verification.to_json(), "note": note}
    write_json(gguf.with_suffix(".verification.json"), result)
    if not verification.ok:
        rejected = reject(verification) if reject is not None else gguf_export.reject(gguf, verification)
        failed = "; ".join(f"{check.name}: {check.detail}" for check in verification.failed)
        todo = "it is kept for a look"
        if all(check.name == "answer" for check in verification.failed):
            todo += "; where base + adapter do not end their answers either, that need not count: --no-require-stop"
        raise ExportRejected(f"{rejected}: does not pass its verification ({failed}); {todo}")
    for stale in gguf_export.rejected_names(gguf):  # of an earlier try
        stale.unlink(missing_ok=True)
    return result


def _float32_bytes(base: Path) -> int:
    tensors = gguf_export.Checkpoint.open(base).tensors
    return 4 * sum(tensor.n_elements for tensor in tensors.values())


def write_folder(
    base: Path, adapters: Sequence[Path], out: Path, section: ExportSection, progress: Progress
) -> dict[str, Any]:
    """Write base + adapters as a 16-bit folder for vLLM and transformers.

    Args:
        base: folder of the base model.
        adapters: PEFT folders, first trained first; none for the base alone.
        out: the folder to write.
        section: the recipe's ``[export]``; its ``rounding`` is the type that is stored.
        progress: where a person reads how far it is.

    Returns:
        Folder, type, number of weight files, size.

    Raises:
        gguf_export.ExportError: see there; nothing is left half-written.
    """
    folder = gguf_export.merge_to_safetensors(
        base,
        adapters or None,
        out,
        section.rounding,
        progress=lambda step, share: progress.step(f"export {out.name}: {step}", int(100 * share), 100),
    )
    files = list(folder.glob("*.safetensors"))
    size = sum(path.stat().st_size for path in folder.iterdir())
    return {"folder": str(out), "dtype": section.rounding, "files": len(files), "size_bytes": size}


def write_lora(
    base: Path, adapters: Sequence[Path], out: Path, section: ExportSection, progress: Progress
) -> dict[str, Any]:
    """Write adapters as a GGUF of their own, for Ollama's ``ADAPTER`` and llama.cpp's ``--lora``.

    Args:
        base: folder with the base's ``config.json``.
        adapters: PEFT folders, first trained first.
        out: the ``.gguf`` to write.
        section: the recipe's ``[export]``; its ``rounding`` is the type that is stored.
        progress: where a person reads what is going on.

    Returns:
        Path, type, number of matrices, alpha, size.

    Raises:
        gguf_export.ExportError: see there; nothing is left half-written.
    """
    progress.say(f"export {out.name}: the adapter alone")
    result = gguf_export.export_lora(list(adapters), base, out, dtype=section.rounding)
    return {
        "lora": str(out),
        "dtype": section.rounding,
        "n_pairs": result.n_pairs,
        "alpha": result.alpha,
        "size_bytes": result.size_bytes,
    }


def create_in_ollama(name: str, modelfile: Path) -> None:
    """Hand the model to a local Ollama. The client is ended when this function is left by Ctrl-C.

    Args:
        name: the model's name in Ollama.
        modelfile: the Modelfile; the files that it names lie beside it.

    Raises:
        MachineError: the client is not installed, or refuses.
    """
    client = shutil.which("ollama")
    if client is None:
        raise MachineError(
            f"ollama: the client is not installed; install it from https://ollama.com, then run: cd {modelfile.parent} "
            f"&& ollama create {name} -f {modelfile.name}"
        )
    # Names in a Modelfile are relative to it, and older clients take them as relative to the working directory.
    outcome = subprocess.run(
        [client, "create", name, "-f", modelfile.name],
        cwd=modelfile.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if outcome.returncode != 0:
        said = _last_line(outcome.stderr.decode(errors="replace")) or f"ended with {outcome.returncode}"
        raise MachineError(f"ollama create {name}: {said}; is `ollama serve` running?")


def _last_line(text: str) -> str:
    """The last thing that was said, without what a terminal is told beside (the client draws its progress)."""
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip() for line in re.split(r"[\r\n]", text)]
    return next((line[:300] for line in reversed(lines) if line), "")
