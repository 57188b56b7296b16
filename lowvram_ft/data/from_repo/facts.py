"""What a repository is called, and which version of it is there, read from its files."""

from __future__ import annotations

import configparser
import functools
import re
import tomllib
from pathlib import Path


def repository_name(folder: Path) -> str:
    """``owner/name`` of its git remote, or the name of its folder; empty for a folder of installed packages."""
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    try:
        parser.read(folder / ".git" / "config", encoding="utf-8")
        url = parser.get('remote "origin"', "url", fallback="") or ""
    except (configparser.Error, OSError, UnicodeDecodeError):
        url = ""
    match = re.search(r"[/:]([^/:]+/[^/:]+?)(?:\.git)?/?$", url)
    if match:
        return match[1]
    return "" if folder.name in ("site-packages", "dist-packages") else folder.name


@functools.lru_cache(maxsize=256)
def repository_version(folder: Path, root: Path, package: str) -> str:
    """The version of an installed package, the commit of a repository, or its version; empty where none is known.

    Args:
        folder: the repository.
        root: the folder that the package is imported from.
        package: its name.
    """
    installed = sorted(path.name for path in root.glob("*.dist-info") if path.name.startswith(f"{package}-"))
    if installed:
        return installed[-1].removeprefix(f"{package}-").removesuffix(".dist-info")
    return _commit(folder / ".git") or _declared(folder / "pyproject.toml")


def _commit(git: Path) -> str:
    head = _text(git / "HEAD")
    if not head.startswith("ref: "):
        return head[:40] if re.fullmatch(r"[0-9a-f]{40,64}", head) else ""
    name = head.removeprefix("ref: ")
    loose = _text(git / name) if ".." not in name else ""
    packed = re.search(rf"(?m)^([0-9a-f]{{40,64}}) {re.escape(name)}$", _text(git / "packed-refs"))
    return loose or (packed[1] if packed else "")


def _declared(file: Path) -> str:
    try:
        project = tomllib.loads(_text(file)).get("project", {})
    except tomllib.TOMLDecodeError:
        return ""
    version = project.get("version", "") if isinstance(project, dict) else ""
    return version if isinstance(version, str) else ""


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
