"""The command that writes tests for a user's own code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lowvram_ft.cli.options import (
    FILE,
    MODEL_DEFAULT,
    MODEL_HELP,
    console,
    json_option,
    max_new_tokens_option,
    n_ctx_option,
    print_json,
    progress,
    quiet_option,
    sandbox_option,
)

if TYPE_CHECKING:
    from lowvram_ft.testgen.worth.select import By


@click.command()
@click.argument("places", nargs=-1, metavar="[PATH[::NAME]]...")
@click.option(
    "--changed",
    is_flag=False,
    flag_value="HEAD",
    metavar="[REVISION]",
    help="Only what differs from a git revision (HEAD); of the repository, where no PATH is given.",
)
@click.option("--model", help=f"{MODEL_HELP} Default: {MODEL_DEFAULT}.")
@click.option("--out", type=click.Path(path_type=Path), help="Another place for the test file; for one module.")
@click.option("--only-uncovered", is_flag=True, help="Keep only tests that reach what no test reaches yet.")
@click.option("--kill-survivors", is_flag=True, help="Keep only tests that find planted faults that no test finds yet.")
@click.option(
    "--refine",
    "refinements",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Times that the model sees its failing tests again.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="Further answers for code that the first one does not test well.",
)
@max_new_tokens_option(512)
@n_ctx_option
@click.option("--dry-run", is_flag=True, help="Show what would be written, write nothing.")
@click.option("--again", is_flag=True, help="Ask the model again where the answer is known from an earlier call.")
@click.option("--traces", type=FILE, help="Where failures that were mended are kept for training; see docs/testgen.md.")
@click.option(
    "--no-log",
    "--no-traces",
    "no_log",
    is_flag=True,
    help="Keep neither failure traces nor answers for training; so does LOWVRAM_FT_NO_LOG=1.",
)
@sandbox_option
@json_option
@quiet_option
@click.pass_context
def testgen(
    context: click.Context,
    places: tuple[str, ...],
    changed: str | None,
    model: str | None,
    out: Path | None,
    only_uncovered: bool,
    kill_survivors: bool,
    refinements: int,
    samples: int,
    max_new_tokens: int,
    n_ctx: int,
    dry_run: bool,
    again: bool,
    traces: Path | None,
    no_log: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write tests for your code: generate, run, mend, keep those that pass and add something.

    PATH is a file, a folder, or PATH::name for one function, class or method. Tests go where the project keeps them.
    What a person wrote is never touched. Exit code 1 if no generated test passes.
    """
    from lowvram_ft import testgen as package
    from lowvram_ft.errors import UsageError
    from lowvram_ft.inference.opening import check_file, choose_model, identity
    from lowvram_ft.stopping import sigterm_raises
    from lowvram_ft.testgen.show import print_outcomes

    if only_uncovered and kill_survivors:
        raise UsageError("--only-uncovered, --kill-survivors: say different things; give one of them")
    if traces is not None and no_log:
        raise UsageError("--traces, --no-log: say different things; give one of them")
    by: By = "coverage" if only_uncovered else "mutants" if kill_survivors else "either"
    jobs = package.prepare(package.find_targets(places, changed=changed), out)
    chosen = package.given_or_newest(model)
    choice = choose_model(chosen)
    check_file(choice)
    side_by_side = None if len(jobs) > 1 or any(len(job.code) > package.Settings().max_chars for job in jobs) else 1
    writer = package.Model(
        f"{choice.text} {identity(choice)}".strip(),
        lambda: package.open_model(chosen, n_ctx, n_parallel=side_by_side),
    )
    effort = package.Effort(refinements=refinements, samples=samples, max_new_tokens=max_new_tokens)
    no_log = no_log or bool(os.environ.get(package.NO_LOG))
    kept_at = None if no_log else traces or package.default_traces_path()
    try:
        with sigterm_raises():
            outcomes = package.write_tests(
                jobs,
                writer,
                package.Settings(effort=effort, by=by),
                progress(quiet),
                journal=package.Journal(),
                traces=kept_at,
                answers=None if no_log else package.default_answers_path(),
                dry_run=dry_run,
                again=again,
            )
    finally:
        writer.close()
    refined = sum(outcome.refined for outcome in outcomes)
    if as_json:
        print_json({"modules": [outcome.to_json() for outcome in outcomes]})
    elif not outcomes:
        click.echo("nothing changed that tests can be about")
    else:
        print_outcomes(outcomes, console(), dry_run=dry_run)
        if refined and kept_at is not None and not dry_run:
            click.echo(f"{refined} failures were mended, and are kept for training in {kept_at} (--no-log: not)")
    bad = [outcome for outcome in outcomes if outcome.status in ("nothing passes", "failed")]
    if outcomes and len(bad) == len(outcomes):
        context.exit(1)
