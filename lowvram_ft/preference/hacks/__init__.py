"""Tests that look as if they told good code from bad, and know nothing of it: none of them may win.

`find_hacks` reads the text of a file. What cannot be seen in a text is found by running it
(`lowvram_ft.evaluation.control`, `lowvram_ft.preference.controls`).
"""

from lowvram_ft.preference.hacks.find import Hack, find_hacks

__all__ = ["Hack", "find_hacks"]
