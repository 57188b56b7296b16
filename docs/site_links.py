"""A hook of mkdocs: links that leave docs/ (to the code, the results, CONTRIBUTING) lead to the repository.

On a code host they are relative links like all others; nothing in the pages is written for the site.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

OUT = re.compile(r"(?P<head>\]\()(?P<path>\.\./[^)\s]+)(?P<tail>\))")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """The page with such links made absolute."""
    del files
    root = str(config["repo_url"]).rstrip("/") + "/blob/main/"
    folder = posixpath.dirname("docs/" + page.file.src_uri)

    def absolute(match: re.Match[str]) -> str:
        return match["head"] + root + posixpath.normpath(posixpath.join(folder, match["path"])) + match["tail"]

    return OUT.sub(absolute, markdown)
