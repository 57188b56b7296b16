"""The command that sets up completion in the user's shell."""

from __future__ import annotations

import os
from pathlib import Path

import click

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_LOWVRAM_FT_COMPLETE"
"""By which a shell asks; click derives it from the program's name."""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@click.option("--install", is_flag=True, help="Write it to where the shell looks, instead of printing it.")
@click.pass_context
def completion(context: click.Context, shell: str | None, install: bool) -> None:
    """Print the script that completes commands, recipes and runs in your shell, or install it.

    SHELL is bash, zsh or fish; by default the one that $SHELL names.
    """
    from click.shell_completion import get_completion_class

    from lowvram_ft.errors import UsageError
    from lowvram_ft.run_dir import write_text

    name = shell or Path(os.environ.get("SHELL", "")).name
    kind = get_completion_class(name) if name in SHELLS else None
    if kind is None:
        raise UsageError(f"completion: $SHELL is no shell that is known (got {name!r}); say bash, zsh or fish")
    script = kind(context.find_root().command, {}, "lowvram-ft", VARIABLE).source()
    if not install:
        click.echo(script)
        return
    path = _place(name)
    write_text(path, script + "\n")
    click.echo(f"{path}: written; it works in a new {name}")
    if name == "zsh":
        click.echo("if it does not, these lines belong into ~/.zshrc, before any other compinit:")
        click.echo(f"  fpath+=({path.parent})\n  autoload -Uz compinit && compinit")


def _place(shell: str) -> Path:
    """Where a shell looks for a user's completions by itself; zsh has no such place, and is told of one.

    Source: bash-completion's README, "FAQ"; fish's documentation, "Where to put completions".
    """
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return {
        "bash": Path(data) / "bash-completion" / "completions" / "lowvram-ft",
        "zsh": Path.home() / ".zfunc" / "_lowvram-ft",
        "fish": Path(config) / "fish" / "completions" / "lowvram-ft.fish",
    }[shell]
