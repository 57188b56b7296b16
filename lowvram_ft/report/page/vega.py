"""Vega, Vega-Lite and Vega-Embed as one script for a page without a network."""

from __future__ import annotations

import re
from importlib.metadata import version

from lowvram_ft.hardware import cache_dir
from lowvram_ft.run_dir import write_text


def bundle() -> str:
    """The script, which sets ``vegaEmbed``; making it takes seconds, so that it is kept in the user's cache."""
    kept = cache_dir() / "report" / f"vega-{version('vl-convert-python')}.js"
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    import vl_convert

    script = for_html(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    write_text(kept, script)
    return script


def for_html(script: str) -> str:
    """A script as it may stand inside of a ``<script>`` element: nothing in it ends the element or begins a comment."""
    return re.sub(r"<(?=/script|!--|script)", r"\\x3c", script, flags=re.IGNORECASE)
