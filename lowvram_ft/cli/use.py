"""Commands that use a model: bench."""

from __future__ import annotations

from contextlib import closing

import click

from lowvram_ft.cli.options import (
    json_option,
    max_new_tokens_option,
    n_ctx_option,
    print_json,
    progress,
    quiet_option,
)


@click.command()
@click.argument("model", required=False)
@click.option("--suite", default="samples", show_default=True, help="Where the prompts come from.")
@click.option(
    "--gate",
    "gate_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Most that a whole test file may take, at the 95th percentile.",
)
@click.option(
    "--max-prompts", type=click.IntRange(min=1), default=12, show_default=True, help="The first so many prompts."
)
@max_new_tokens_option(384)
@click.option("--tune", is_flag=True, help="First try threads and layouts; the fastest are kept for this machine.")
@click.option("--compare", is_flag=True, help="Then time every way of decoding: drafts, in parallel, KV cache types.")
@n_ctx_option
@json_option
@quiet_option
@click.pass_context
def bench(
    context: click.Context,
    model: str | None,
    suite: str,
    gate_s: float,
    max_prompts: int,
    max_new_tokens: int,
    tune: bool,
    compare: bool,
    n_ctx: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Time whole test files on this machine. Exit code 1 if p95 misses the gate (seconds).

    MODEL is a GGUF, a run directory, a PEFT adapter's folder, a hub id, or the address of an OpenAI-compatible server;
    by default LOWVRAM_FT_MODEL, else the newest export under runs/. --tune and --compare need a GGUF.
    """
    from lowvram_ft import bench as timing
    from lowvram_ft.bench import table
    from lowvram_ft.evaluation.suites import load_suite
    from lowvram_ft.inference.exports import given_or_newest
    from lowvram_ft.inference.opening import choose_model, gguf_of, open_model
    from lowvram_ft.recipe import BenchSection

    section = BenchSection(gate_s=gate_s, max_prompts=max_prompts, max_new_tokens=max_new_tokens)
    prompts = [task.prompt for task in load_suite(suite)]
    says = progress(quiet)
    chosen = given_or_newest(model, "MODEL")
    choice = choose_model(chosen)
    if choice.kind in ("url", "adapter") and not (tune or compare):
        decoding = "server" if choice.kind == "url" else "adapter"
        with closing(open_model(chosen, n_ctx=n_ctx)) as generator:
            found, trials = timing.bench_server(generator, prompts, section, says, decoding), []
    else:
        file = gguf_of(choice)
        trials = timing.tune(file, prompts[0], says, n_ctx=n_ctx)[1] if tune else []
        found = timing.bench(file, prompts, section, says, n_ctx=n_ctx)
    ways: list[timing.Way] = []
    try:
        if not as_json:
            click.echo("\n".join([*table.trials(trials), *table.latency(found)]))
        if compare:
            for way in timing.compare(file, prompts, section, says, n_ctx=n_ctx):
                ways.append(way)
    finally:  # what was measured before Ctrl-C is worth having
        if ways and not as_json:
            click.echo("\n".join(table.ways(ways)))
    if as_json:
        more = {"trials": [t.to_json() for t in trials]} if tune else {}
        print_json(found.to_json() | more | ({"ways": [w.to_json() for w in ways]} if compare else {}))
    if not found.gate_met:
        context.exit(1)
