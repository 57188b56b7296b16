"""How a project sets pytest up: its folder, and what its configuration says of where tests are and how they are named.

The files and sections are those that pytest reads: https://docs.pytest.org/en/stable/reference/customize.html
"""

from __future__ import annotations

import configparser
import glob
import os
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowvram_ft.errors import UsageError
from lowvram_ft.testgen.targets.python_files import TEST_PATTERNS

_PLAIN = ("pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini")
"""Files that are pytest's alone: they count even where they are empty."""
_PACKAGE_TABLES = ("project", "build-system")
_PACKAGE_TOOLS = ("poetry", "flit", "pdm")
IMPORT_MODES = ("prepend", "append", "importlib")


@dataclass(frozen=True)
class PytestSettings:
    """What a project's configuration of pytest says.

    Attributes:
        file: the file that says it; None where there is none.
        testpaths: folders that pytest collects from, absolute, those that are there; empty for all.
        python_files: patterns of the names of test files.
        pythonpath: folders that pytest puts on ``sys.path``, absolute.
        import_mode: ``prepend``, ``append`` or ``importlib``.
    """

    file: Path | None = None
    testpaths: tuple[Path, ...] = ()
    python_files: tuple[str, ...] = TEST_PATTERNS
    pythonpath: tuple[Path, ...] = ()
    import_mode: str = "prepend"


def find_root(start: Path) -> Path | None:
    """The project that a folder lies in: the nearest one that configures pytest, builds a package, or is a repository.

    Args:
        start: a folder, resolved.

    Returns:
        The project's folder; None where there is none.

    Raises:
        UsageError: a file of its configuration cannot be read.
    """
    for folder in (start, *start.parents):
        # a package with a file of its own to build it from, inside of a repository, is no place for tests
        is_package = (folder / "__init__.py").exists()
        if _pytest_section(folder) is not None or (_is_project(folder) and not is_package):
            return folder
        if (folder / ".git").exists():
            return folder
    return None


def read_settings(root: Path) -> PytestSettings:
    """How pytest is set up where a project has its folder.

    As in pytest, a configuration of a folder above counts where the project has none of its own; but not one outside
    of the repository.

    Args:
        root: the project's folder.

    Raises:
        UsageError: a file of the configuration cannot be read, or holds what pytest refuses.
    """
    for folder in (root, *root.parents):
        section = _pytest_section(folder)
        if section is not None:
            return _settings(*section)
        if (folder / ".git").exists():
            break
    return PytestSettings()


def read_toml(file: Path) -> dict[str, Any]:
    """A TOML file; empty where there is none.

    Raises:
        UsageError: it is broken, or cannot be read.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: is not TOML ({error}); mend it first") from error
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror}); check who may read it") from error


def read_ini(file: Path) -> configparser.RawConfigParser:
    """An INI file; without sections where there is none.

    Raises:
        UsageError: it is broken, or cannot be read.
    """
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    try:
        parser.read_string(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        pass
    except (configparser.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read ({' '.join(str(error).split())}); mend it first") from error
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror}); check who may read it") from error
    return parser


def _is_project(folder: Path) -> bool:
    """Whether a folder is what a package is built from."""
    if (folder / "setup.py").is_file():
        return True
    toml = read_toml(folder / "pyproject.toml")
    tools = toml.get("tool")
    tools = tools if isinstance(tools, dict) else {}
    if any(name in toml for name in _PACKAGE_TABLES) or any(name in tools for name in _PACKAGE_TOOLS):
        return True
    return read_ini(folder / "setup.cfg").has_section("metadata") or (folder / "tox.ini").is_file()


def _pytest_section(folder: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """The file of a folder that pytest would take its configuration from, and what it says."""
    for name in _PLAIN:
        file = folder / name
        if file.is_file():
            if name.endswith(".toml"):
                return file, _table(read_toml(file), "pytest") or {}
            parser = read_ini(file)
            return file, dict(parser["pytest"]) if parser.has_section("pytest") else {}
    tool = _table(read_toml(folder / "pyproject.toml"), "tool")
    section = _table(tool, "pytest") if tool is not None else None
    if section is not None:
        old = _table(section, "ini_options")
        return folder / "pyproject.toml", old if old is not None else section
    for name, header in (("tox.ini", "pytest"), ("setup.cfg", "tool:pytest")):
        parser = read_ini(folder / name)
        if parser.has_section(header):
            return folder / name, dict(parser[header])
    return None


def _table(table: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    value = table.get(name)
    return value if isinstance(value, dict) else None


def _settings(file: Path, section: Mapping[str, Any]) -> PytestSettings:
    folder = file.parent
    testpaths = [
        Path(os.path.realpath(path))
        for pattern in _words(file, section, "testpaths")
        for path in sorted(glob.glob(os.path.join(glob.escape(str(folder)), pattern), recursive=True))
    ]
    return PytestSettings(
        file=file,
        testpaths=tuple(dict.fromkeys(path for path in testpaths if path.is_dir())),
        python_files=tuple(_words(file, section, "python_files")) or TEST_PATTERNS,
        pythonpath=tuple(Path(os.path.realpath(folder / path)) for path in _words(file, section, "pythonpath")),
        import_mode=_import_mode(file, _words(file, section, "addopts")),
    )


def _words(file: Path, section: Mapping[str, Any], key: str) -> list[str]:
    """A setting that is a list, or words in a line."""
    value = section.get(key)
    if value is None:
        return []
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return list(value)
    if not isinstance(value, str):
        raise UsageError(f"{file}: {key}: is neither text nor a list of texts (got {value!r}); mend it first")
    try:
        return shlex.split(value)
    except ValueError as error:
        raise UsageError(f"{file}: {key}: cannot be taken apart ({error}; got {value!r}); mend it first") from error


def _import_mode(file: Path, options: list[str]) -> str:
    mode = "prepend"
    for place, option in enumerate(options):
        if option == "--import-mode" and place + 1 < len(options):
            mode = options[place + 1]
        elif option.startswith("--import-mode="):
            mode = option.partition("=")[2]
    if mode not in IMPORT_MODES:
        raise UsageError(f"{file}: addopts: unknown import mode (got {mode}); choose from {', '.join(IMPORT_MODES)}")
    return mode
