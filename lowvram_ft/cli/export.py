"""The command that exports: to a GGUF, a 16-bit folder, or an adapter alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lowvram_ft.cli import completing
from lowvram_ft.cli.options import FILE, client_bars, json_option, print_json, progress, quiet_option

if TYPE_CHECKING:
    from lowvram_ft.models import BaseModel
    from lowvram_ft.progress import Progress
    from lowvram_ft.recipe import ExportSection


@click.command()
@click.option(
    "--base",
    shell_complete=completing.models,
    help="Hub id, folder, or smollm2-135m. Default: what the adapter names as its base.",
)
@click.option(
    "--adapter",
    "adapters",
    metavar="FOLDER|OWNER/NAME",
    multiple=True,
    help="PEFT adapter: its folder, or its repository on the hub (OWNER/NAME[@REVISION]); leave out to export the base "
    "alone. Repeat it for a chain, first trained first.",
)
@click.option(
    "--to",
    "target",
    type=click.Choice(["gguf", "safetensors", "lora"]),
    default="gguf",
    show_default=True,
    help="A GGUF; a 16-bit folder for vLLM and transformers; or the adapter alone as a GGUF, for Ollama's ADAPTER.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .gguf, or the folder, to write.")
@click.option(
    "--quant", default="Q4_K_M", show_default=True, help="F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_K_S."
)
@click.option(
    "--rounding",
    type=click.Choice(["bf16", "f16", "f32"]),
    show_default="bf16; f16 with --to lora",
    help="What merged weights are rounded to before they are quantized, or stored in where they are not.",
)
@click.option("--imatrix", type=FILE, help="Importance matrix of llama.cpp's llama-imatrix, for quantized types.")
@click.option(
    "--n-ctx", type=click.IntRange(min=256), default=4096, show_default=True, help="Context in the Modelfile."
)
@click.option("--chat-template", type=FILE, help="Jinja template that was trained (default: the adapter's or base's).")
@click.option("--ollama", metavar="NAME", help="Also run `ollama create NAME`.")
@click.option("--verify/--no-verify", default=True, show_default=True, help="Check the GGUF against base + adapter.")
@click.option(
    "--require-stop/--no-require-stop",
    default=True,
    show_default=True,
    help="Whether a GGUF whose answer does not end by itself is rejected.",
)
@click.option(
    "--stream/--download",
    default=None,
    show_default="download where the disk has room",
    help="Leave the weights of a hub base on the hub and read them by range, or download them first.",
)
@json_option
@quiet_option
def export(
    base: str | None,
    adapters: tuple[str, ...],
    target: str,
    out: Path,
    quant: str,
    rounding: str | None,
    imatrix: Path | None,
    n_ctx: int,
    chat_template: Path | None,
    ollama: str | None,
    verify: bool,
    require_stop: bool,
    stream: bool | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Merge adapters into their base model and write a GGUF with its Modelfile, or another form of the result."""
    from lowvram_ft.export import section_from, write_folder, write_lora
    from lowvram_ft.hub.elsewhere import base_for, find_adapters
    from lowvram_ft.models import config_folder, weights_folder

    if target != "gguf" and ollama is not None:
        raise click.UsageError(f"--ollama goes with --to gguf (got --to {target}).")
    if target == "lora" and not adapters:
        raise click.UsageError("--to lora needs an --adapter.")
    default = "f16" if target == "lora" else "bf16"
    if target != "gguf" and imatrix is not None:
        raise click.UsageError(f"--imatrix goes with --to gguf (got --to {target}).")
    matrix = str(imatrix) if imatrix else None
    section = section_from(
        quant=quant.upper(), rounding=rounding or default, imatrix=matrix, n_ctx=n_ctx, require_stop=require_stop
    )
    say = progress(quiet)
    client_bars(quiet)
    folders = find_adapters(adapters, say)
    model = base_for(base, folders)
    if model.note:
        say.say(model.note)
    if target == "lora":
        found = write_lora(config_folder(model), folders, out, section, say)
    else:
        folder = weights_folder(model, stream, say)
        if target == "safetensors":
            found = write_folder(folder, folders, out, section, say)
        else:
            found = _write_gguf(model, folder, folders, out, section, chat_template, ollama, verify, say)
    if as_json:
        print_json(found)
    else:
        _show(found)


def _write_gguf(
    model: BaseModel,
    folder: Path,
    adapters: list[Path],
    out: Path,
    section: ExportSection,
    chat_template: Path | None,
    ollama: str | None,
    verify: bool,
    say: Progress,
) -> dict[str, Any]:
    import gguf_export
    from lowvram_ft.export import create_in_ollama, export_model, provenance, verify_model
    from lowvram_ft.hardware import detect
    from lowvram_ft.hub.elsewhere import trained_chat
    from lowvram_ft.stopping import sigterm_raises

    chat, notes = trained_chat(folder, adapters, chat_template)
    for note in notes:
        say.say(note)
    if verify and gguf_export.QUANT_TYPES[section.quant].rounding:
        gguf_export.require_llama_cpp("verification")  # before anything is written
    with sigterm_raises(), gguf_export.staged(out) as stage:
        found = export_model(folder, adapters or None, stage.path, section, say, provenance(model, adapters), chat)
        if verify:
            found["verification"] = verify_model(
                stage.path,
                folder,
                adapters or None,
                section,
                detect(),
                say,
                sha256=found["sha256"],
                chat=chat,
                reject=stage.reject,
            )
        stage.publish()
    found |= {"gguf": str(out), "modelfile": str(out.with_suffix(".Modelfile"))}
    if ollama is not None:
        create_in_ollama(ollama, Path(found["modelfile"]))
    return found


def _show(found: dict[str, Any]) -> None:
    size = f"{found['size_bytes'] / 2**20:.1f} MiB"
    if "folder" in found:
        click.echo(f"{found['folder']}: {found['dtype']}, {size} in {found['files']} files")
        return
    if "alpha" in found:
        click.echo(f"{found['lora']}: {found['dtype']}, {found['n_pairs']} matrices, {size}")
        click.echo("in a Modelfile: ADAPTER, after a FROM that names a GGUF of the same base")
        return
    click.echo(f"{found['gguf']}: {found['quant']}, {size} in {found['seconds']} s")
    click.echo(f"{found['modelfile']}: for ollama create NAME -f {found['modelfile']}")
    for check in found.get("verification", {}).get("checks", []):
        click.echo(f"{'ok' if check['ok'] else 'FAILED':<8}{check['name']}: {check['detail']}")
