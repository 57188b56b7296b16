"""The command that writes a task for a cloud GPU."""

from __future__ import annotations

from pathlib import Path

import click

from lowvram_ft.cli.options import FILE, json_option, print_json, recipe_argument, set_option


@click.command()
@recipe_argument
@set_option
@click.option(
    "--gpu", metavar="NAME[:COUNT]", help="T4, L4, A10G, …; COUNT of them together. Default: the smallest that fits."
)
@click.option("--spot", is_flag=True, help="On machines that may be taken away; the run is kept in a bucket.")
@click.option("--bucket", metavar="NAME|URL", help="Bucket for --spot (default: one of your own for this recipe).")
@click.option("--out", type=FILE, help="The file to write (default: RECIPE.sky.yaml).")
@json_option
def cloud(
    name: str,
    overrides: tuple[str, ...],
    gpu: str | None,
    spot: bool,
    bucket: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Write a SkyPilot task that runs a recipe on a cloud GPU. Writes a file, and starts nothing.

    The GPU is the smallest that the memory plan fits on with nothing given up.
    """
    from lowvram_ft.cloud import cloud_task, write_task
    from lowvram_ft.recipe import load

    resolved = load(name, overrides)
    file = out or Path(f"{resolved.name}.sky.yaml")
    task = cloud_task(resolved, overrides, gpu=gpu, spot=spot, bucket=bucket, file=file)
    write_task(task, file)
    if as_json:
        print_json({"file": str(file), **task.to_json()})
        return
    cards = " or ".join(f"{card}:{count}" for card, count in task.body["resources"]["accelerators"].items())
    peak = max(plan.fit.plan.peak_gpu_bytes for plan in task.choice.plans.values())
    usable = min(plan.fit.plan.usable_gpu_bytes for plan in task.choice.plans.values())
    click.echo(
        f"{file}: {cards}, {task.choice.ram_gib} GiB of memory, {task.choice.disk_gib} GiB of disk; "
        f"predicted peak {peak / 2**30:.1f} of {usable / 2**30:.1f} GiB on a card"
    )
    for note in task.notes:
        click.echo(note)
    click.echo("next:")
    for command, does in task.next_steps:
        click.echo(f"  {command}")
        click.echo(f"      {does}")
