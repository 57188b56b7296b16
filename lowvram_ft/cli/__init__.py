"""The command line: click options, one call each, no logic. A file a group.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
import traceback

import click

from lowvram_ft import __version__
from lowvram_ft.cli.data import data
from lowvram_ft.cli.inspect import doctor, plan, recipe, report
from lowvram_ft.cli.job import demo, evaluate, export, run, train
from lowvram_ft.cli.use import bench, testgen
from lowvram_ft.errors import EXIT_INTERRUPTED, LowvramError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="lowvram-ft")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Fine-tune a code model to write pytest tests on a small GPU, export it to GGUF, and prove the result."""


for command in (demo, run, doctor, plan, recipe, data, train, export, bench, evaluate, testgen, report):
    cli.add_command(command)


def main() -> None:
    """Run the command line: errors become one line and an exit code, without a traceback."""
    debug = "--debug" in sys.argv
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped; run the same command again to go on where it was", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        code = _exit_code(error)
        if code is None or debug:
            traceback.print_exc()
            sys.exit(code or 1)
        click.echo(f"error: {error}", err=True)
        sys.exit(code)


def _exit_code(error: Exception) -> int | None:
    """The exit code of an error that is meant for users; None for a defect of ours."""
    if isinstance(error, LowvramError):
        return error.exit_code
    module = sys.modules.get("gguf_export")  # not imported for it: an error of its can only come from a loaded module
    if module is not None and isinstance(error, module.ExportError):
        return int(error.exit_code)
    return None
