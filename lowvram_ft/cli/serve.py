"""The command that puts a model behind an address: serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lowvram_ft.cli.options import json_option, n_ctx_option, print_json, quiet_option

if TYPE_CHECKING:
    from lowvram_ft.inference.serving import Served


@click.command()
@click.argument("model", required=False)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need a key.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port; 0 takes a free one."
)
@click.option("--alias", metavar="NAME", help="Name of the model for clients (default: the file's).")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads (default: as tuned, else all).")
@n_ctx_option
@json_option
@quiet_option
def serve(
    model: str | None,
    host: str,
    port: int,
    alias: str | None,
    threads: int | None,
    n_ctx: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Serve a model to editors and agents: OpenAI's chat completions, until Ctrl-C.

    MODEL is a GGUF, a folder with one, a run directory, smollm2-135m, or a hub id; by default LOWVRAM_FT_MODEL, else
    the newest export under runs/. A request that says nothing gets the model's greedy answer. A key in
    LOWVRAM_FT_API_KEY is asked for where there is one.
    """
    from lowvram_ft.inference.exports import given_or_newest
    from lowvram_ft.inference.opening import choose_model, gguf_of
    from lowvram_ft.inference.serving import serve

    def told(served: Served) -> None:
        if served.is_open:
            click.echo(
                f"warning: {served.url} is open to other machines, and not encrypted; the key goes over it", err=True
            )
        if as_json:
            print_json(served.to_json())
        elif not quiet:
            click.echo("\n".join(_usage(served)))

    choice = choose_model(given_or_newest(model, "MODEL"))
    serve(gguf_of(choice), alias or choice.short, host=host, port=port, n_ctx=n_ctx, n_threads=threads, told=told)


def _usage(served: Served) -> list[str]:
    """Where it listens, and how it is used."""
    key = ' -H "Authorization: Bearer $LOWVRAM_FT_API_KEY"' if served.needs_key else ""
    question = '{"messages": [{"role": "user", "content": "Write a pytest test for abs()."}]}'
    return [
        f"{served.model} at {served.url} (context {served.n_ctx} tokens; one answer at a time; Ctrl-C ends it)",
        f"  curl {served.url}/chat/completions{key} -H 'Content-Type: application/json' -d '{question}'",
        f"  lowvram-ft testgen my_module.py --model {served.url}",
        f"  an editor: provider openai, apiBase {served.url}, model {served.model} (see docs/models.md)",
    ]
