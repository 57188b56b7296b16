"""Options and printing that several commands share."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lowvram_ft.cli import completing

if TYPE_CHECKING:
    from rich.console import Console

    from lowvram_ft.progress import Progress

Command = TypeVar("Command", bound=Callable[..., Any])
_VIEWS = "lowvram_ft.progress"

FOLDER = click.Path(file_okay=False, path_type=Path)
PATH = click.Path(path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


class Size(click.ParamType):  # type: ignore[type-arg]  # older ones take none
    """An amount of memory: a number of GiB, or one with its unit. Cards are sold by the GB and have GiB."""

    name = "size"
    _GIB = click.FloatRange(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes."""
        match = re.fullmatch(r"\s*([\d.]+)\s*(?:(M)|G)(?:i?B)?\s*", str(value), re.IGNORECASE)
        number, mebi = match.groups() if match else (value, None)
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        if not math.isfinite(amount):
            self.fail(f"{value!r} is not a size; for example 4, 4GiB or 4096MiB.", param, ctx)
        return int(float(self._GIB.convert(amount, param, ctx)) * (1 << 20 if mebi else 1 << 30))


SIZE = Size()

MODEL_HELP = (
    "A GGUF, a run directory, a PEFT adapter's folder, a hub id (owner/name:Q4_K_M), smollm2-135m, improved (see "
    "improve), or the address of an OpenAI-compatible server (http://localhost:11434#name)."
)

MODEL_DEFAULT = "LOWVRAM_FT_MODEL, else the newest export under runs/"
"""Which model is taken where none is given."""

recipe_argument = click.argument("name", metavar="RECIPE", shell_complete=completing.recipes)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Override a key of the recipe; repeatable.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
out_option = click.option("--out", type=FOLDER, help="Run directory (default: runs/RECIPE).")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
n_ctx_option = click.option(
    "--n-ctx", type=click.IntRange(min=256), default=4096, show_default=True, help="Context of the model, in tokens."
)


def _allow_unsandboxed(context: click.Context, option: click.Parameter, allowed: bool) -> None:
    del context, option
    if allowed:
        from lowvram_ft.execution.sandbox import ALLOW_UNSANDBOXED

        os.environ[ALLOW_UNSANDBOXED] = "1"


sandbox_option = click.option(
    "--allow-unsandboxed",
    is_flag=True,
    expose_value=False,
    callback=_allow_unsandboxed,
    help="Run generated tests even where this machine has no sandbox (see: lowvram-ft doctor).",
)


ray_option = click.option(
    "--ray",
    "ray_address",
    metavar="ADDRESS",
    help="Run tests on a Ray cluster: auto, ray://HOST:10001, HOST:6379, or local:N for N workers started here.",
)


def max_new_tokens_option(default: int) -> Callable[[Command], Command]:
    """``--max-new-tokens`` with a command's own default."""
    return click.option(
        "--max-new-tokens",
        type=click.IntRange(min=16),
        default=default,
        show_default=True,
        help="Most tokens of an answer.",
    )


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    _close_views()
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def say_page(run: Path) -> None:
    """Where the page of a run lies, if it could be written."""
    from lowvram_ft.report.page.build import PAGE

    if (run / PAGE).is_file():
        click.echo(f"page: {run / PAGE}")


def console() -> Console:
    """A console for tables on stdout; the view of the progress gives way to them."""
    from rich.console import Console

    _close_views()

    return Console(highlight=False, soft_wrap=True) if not sys.stdout.isatty() else Console(highlight=False)


def progress(quiet: bool = False) -> Progress:
    """Progress on stderr: a view in a terminal, which goes with the command's context, however that ends."""
    from lowvram_ft.progress import Progress

    context = click.get_current_context()
    found = Progress(quiet=quiet, title=context.command_path)
    context.meta.setdefault(_VIEWS, []).append(found)
    context.call_on_close(found.close)
    return found


def _close_views() -> None:
    context = click.get_current_context(silent=True)
    for found in context.meta.get(_VIEWS, []) if context is not None else []:
        found.close()


def client_bars(quiet: bool) -> None:
    """The hub's client draws bars of its own: they are for a terminal, a log gets plain lines."""
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # it has no __all__

    if quiet or not sys.stderr.isatty():
        disable_progress_bars()
