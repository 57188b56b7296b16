"""The command line: click options, one call each, no logic. A file a group.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from typing import TextIO

import click

from lowvram_ft import __version__
from lowvram_ft.cli.clean import clean
from lowvram_ft.cli.cloud import cloud
from lowvram_ft.cli.completion import completion
from lowvram_ft.cli.data import data
from lowvram_ft.cli.export import export
from lowvram_ft.cli.hub import pull, push
from lowvram_ft.cli.improve import improve
from lowvram_ft.cli.init import init
from lowvram_ft.cli.inspect import doctor, plan, recipe, report
from lowvram_ft.cli.job import demo, evaluate, run, train
from lowvram_ft.cli.preference import preference
from lowvram_ft.cli.serve import serve
from lowvram_ft.cli.testgen import testgen
from lowvram_ft.cli.use import bench
from lowvram_ft.errors import (
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    LowvramError,
    MachineError,
    Terminated,
    UsageError,
    cannot_write,
    explanation,
    is_disk_full,
)

_PLAIN_WARNING = warnings.showwarning


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="lowvram-ft")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Fine-tune a code model to write pytest tests on a small GPU, export it to GGUF, and prove the result."""


_COMMANDS = (
    demo, run, doctor, init, plan, recipe, data, train, preference, export, bench, evaluate, testgen, improve, serve,
    report, cloud, push, pull, clean, completion,
)  # fmt: skip
for command in _COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run the command line: errors become one line and an exit code, without a traceback."""
    debug = "--debug" in sys.argv
    warnings.showwarning = _show_warning
    try:
        # outside of its standalone mode, click returns what a command gave to `Context.exit`
        code = cli.main(prog_name="lowvram-ft", standalone_mode=False)
    except click.ClickException as error:
        if _speaks():
            error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort) as stop:
        if _speaks():
            click.echo("stopped; nothing is half-written: run the same command again", err=True)
        terminated = isinstance(stop, Terminated) or isinstance(stop.__cause__, Terminated)
        code = EXIT_TERMINATED if terminated else EXIT_INTERRUPTED
    except Exception as error:
        shown = _for_users(error)
        if not _speaks():
            pass
        elif shown is None or debug:
            traceback.print_exc()
        else:
            for problem in str(shown).splitlines():
                click.echo(f"error: {_rank(error)}{problem}", err=True)
            click.echo(f"see {explanation(shown)}", err=True)
        code = getattr(shown, "exit_code", 1)
    sys.exit(code)


def _speaks() -> bool:
    """Whether this process tells the user why it ends: of several that train together, the first one that does."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return True
    from lowvram_ft.training.processes.ranks import told_elsewhere

    return not told_elsewhere()


def _rank(error: Exception) -> str:
    """Which of several processes an error comes from, unless it would be the same in each."""
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" or isinstance(error, UsageError) else f"rank {rank}: "


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Warnings of the kit's own in one line; others as Python shows them."""
    if category.__module__.startswith("lowvram_ft."):
        click.echo(f"warning: {message}", err=True)
    else:
        _PLAIN_WARNING(message, category, filename, lineno, file, line)


def _for_users(error: Exception) -> Exception | None:
    """The error as a user is told it, with its ``exit_code``; None for a defect of ours."""
    if isinstance(error, LowvramError):
        return error
    exporter = sys.modules.get("gguf_export")  # not imported for it: its errors can only come from a loaded module
    known: bool = exporter is not None and isinstance(error, exporter.ExportError)
    if known:
        return error
    if isinstance(error, MemoryError):
        return MachineError("memory: not enough of it; close other programs, or take a smaller model")
    if is_disk_full(error):
        return cannot_write(getattr(error, "filename", None) or "disk", error)
    if isinstance(error, PermissionError) and error.filename is not None:
        return MachineError(f"{error.filename}: permission denied; check who may read and write it")
    return None
