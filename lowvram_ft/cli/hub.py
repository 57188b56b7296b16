"""The commands that send models to the hub and fetch them from there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lowvram_ft.cli.options import FOLDER, PATH, client_bars, json_option, print_json, progress, quiet_option

if TYPE_CHECKING:
    from lowvram_ft.hub.push import Push


@click.command()
@click.argument("source", metavar="RUN|ADAPTER|GGUF", type=PATH)
@click.argument("repo_id", metavar="OWNER/NAME")
@click.option("--adapter", "want", flag_value="adapter", default=None, help="Of a run, the adapter alone.")
@click.option("--gguf", "want", flag_value="gguf", help="Of a run, the GGUF alone.")
@click.option("--public", is_flag=True, help="Make a new repository public, or write to a public one.")
@click.option("--own-data", is_flag=True, help="With --public: all that it was trained on may be read by everybody.")
@click.option("--base", metavar="OWNER/NAME", help="The base model on the hub, where it was trained from a folder.")
@click.option("--licence", metavar="ID", help="Licence of what none is known of, by the hub's id: apache-2.0, mit, ….")
@click.option("--adapter-repo", metavar="OWNER/NAME", help="Of a GGUF: the repository of the adapter it was made of.")
@click.option("--keep-card", is_flag=True, help="Leave a card that is there as it is.")
@click.option("--force", is_flag=True, help="Put the files beside what others have put there, and replace its card.")
@click.option("--dry-run", is_flag=True, help="Show the files and the card, and send nothing.")
@json_option
@quiet_option
def push(
    source: Path,
    repo_id: str,
    want: str | None,
    public: bool,
    own_data: bool,
    base: str | None,
    licence: str | None,
    adapter_repo: str | None,
    keep_card: bool,
    force: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Send an adapter or a GGUF to the model hub, with a model card. New repositories are private.

    A run is sent as both, in one repository. The token is the one of `hf auth login`, or HF_TOKEN. After an
    interruption the same command sends what has not arrived.
    """
    from lowvram_ft.hub.parts import Choices
    from lowvram_ft.hub.push import plan_push, send

    client_bars(quiet)
    wanted = {"adapter": "adapter", "gguf": "gguf"}.get(want or "")
    choices = Choices(
        want=wanted,  # type: ignore[arg-type]
        base=base,
        licence=licence,
        adapter_repo=adapter_repo,
        public=public,
        own_data=own_data,
        force=force,
        keep_card=keep_card,
    )
    planned = plan_push(source, repo_id, choices, dry_run=dry_run)
    say = progress(quiet)
    for note in planned.notes:
        say.say(note)
    if dry_run:
        _show_plan(planned, as_json)
        return
    found = send(planned, say)
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['url']} ({'private' if found['private'] else 'public'}), commit {found['commit'][:10]}")
    if found["unchanged"]:
        click.echo("all of it was there already")
    for file in found["files"]:
        click.echo(f"  {file['name']}  {file['size_bytes']:,} bytes")


def _show_plan(planned: Push, as_json: bool) -> None:
    """What would be sent, to the letter."""
    found = planned.to_json() | {"dry_run": True, "card": planned.card}
    if as_json:
        print_json(found)
        return
    state = {True: "would be made", False: "is there", None: "was not looked at"}[found["new"]]
    click.echo(f"{planned.repo_id}: {state}, {'private' if found['private'] else 'public'}; nothing is sent")
    for file in found["files"]:
        replaces = ", replaces the one there" if file["replaces"] else ""
        click.echo(f"  {file['name']}  {file['size_bytes']:,} bytes  {file['sha256'][:16]}{replaces}")
    click.echo()
    click.echo(planned.card, nl=False)


@click.command()
@click.argument("repository", metavar="OWNER/NAME[@REVISION]")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--adapter", is_flag=True, help="The adapter, of a repository that has GGUFs too.")
@click.option("--gguf", "quant", metavar="QUANT", help="The GGUF of this quantization: Q4_K_M, Q8_0, ….")
@json_option
@quiet_option
def pull(repository: str, folder: Path, adapter: bool, quant: str | None, as_json: bool, quiet: bool) -> None:
    """Fetch an adapter or a GGUF from the model hub into a folder.

    Only safetensors, settings and texts are fetched, and held against the hub's checksums.
    """
    from lowvram_ft.hub.pull import pull as fetch

    if adapter and quant is not None:
        raise click.UsageError("--adapter and --gguf: one of them; leave the other out.")
    client_bars(quiet)
    found = fetch(repository, folder, "adapter" if adapter else None, quant, progress(quiet))
    if as_json:
        print_json(found)
        return
    total = sum(file["size_bytes"] for file in found["files"])
    click.echo(f"{found['folder']}: {found['kind']} of {found['repo_id']} at {found['commit'][:10]}, {total:,} bytes")
    if found["kind"] == "adapter":
        click.echo(f"base model: {found['base'] or 'not named'}")
        click.echo(f"next: lowvram-ft export --adapter {found['folder']} --out model.gguf")
    elif "modelfile" in found:
        click.echo(f"next: ollama create NAME -f {found['modelfile']}")
    else:
        click.echo(f"next: lowvram-ft testgen my_module.py --model {found['gguf']}")
