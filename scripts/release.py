"""Release a version: look at everything first, change nothing unless told to. Standard library and hatchling.

    python scripts/release.py 0.2.0         says what would be done, and every reason against it
    python scripts/release.py 0.2.0 --do    writes version and changelog, commits, tags, builds into dist/

Pushing and uploading stay the maintainer's: the commands for them are printed at the end.
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNRELEASED = "## [Unreleased]"
REPOSITORY = "https://github.com/lowvram-ft/lowvram-ft"
VERSIONED = ("pyproject.toml", "gguf_export/pyproject.toml", "lowvram_ft/__init__.py")
"""Files with the version: two distributions of one number, and what the package says of itself."""
_VERSION = re.compile(r'^(?P<head>(?:version|__version__) = ")(?P<number>[^"]+)(?P<tail>")$', re.MULTILINE)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Check, and release where that was asked for; the exit code.

    Args:
        arguments: of the command line.
        root: the checkout; another one in tests.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="the new one, such as 0.2.0")
    parser.add_argument("--do", action="store_true", help="do it; without this nothing is changed")
    options = parser.parse_args(arguments)
    problems = problems_with(root, options.version)
    for problem in problems:
        print(f"release: {problem}", file=sys.stderr)
    if problems:
        return 1
    if not options.do:
        say_plan(root, options.version)
        return 0
    write(root, options.version)
    git(root, "commit", "-qam", f"Version {options.version}")
    git(root, "tag", "-a", f"v{options.version}", "-m", f"Version {options.version}")
    for path in build(root, root / "dist"):
        print(path)
    print(f"now: git push --follow-tags && python -m twine upload dist/*{options.version}*", file=sys.stderr)
    return 0


def problems_with(root: Path, version: str) -> list[str]:
    """Every reason why this version cannot be released now."""
    if re.fullmatch(r"\d+\.\d+\.\d+", version) is None:
        return [f"{version}: is no version of the form 1.2.3"]
    found = [
        f"{name}: no version in it, or several; mend it"
        for name in VERSIONED
        if len(_VERSION.findall((root / name).read_text(encoding="utf-8"))) != 1
    ]
    numbers = {name: version_in(root / name) for name in VERSIONED if not found}
    if len(set(numbers.values())) > 1:
        found.append(f"the files disagree ({', '.join(f'{name}: {number}' for name, number in numbers.items())})")
    tags = git(root, "tag", "--list", "v*").split()
    latest = max((as_tuple(tag[1:]) for tag in tags if re.fullmatch(r"v\d+\.\d+\.\d+", tag)), default=(0, 0, 0))
    if as_tuple(version) <= latest:
        found.append(f"{version}: is not later than {'.'.join(map(str, latest))}, which is released")
    if not notes(root):
        found.append(f"CHANGELOG.md: nothing stands under {UNRELEASED}")
    if changed := git(root, "status", "--porcelain"):
        found.append(f"the tree is not clean ({len(changed.splitlines())} files); commit or stash them")
    if (branch := git(root, "branch", "--show-current")) != "main":
        found.append(f"this is the branch {branch or 'of none'}; releases are made on main")
    return found


def as_tuple(version: str) -> tuple[int, ...]:
    """Numbers that can be compared."""
    return tuple(int(part) for part in version.split("."))


def version_in(path: Path) -> str:
    """The version that a file states."""
    match = _VERSION.search(path.read_text(encoding="utf-8"))
    return match["number"] if match else ""


def notes(root: Path) -> str:
    """What the changelog says of the version to come; empty where it lists nothing."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    _, _, rest = text.partition(UNRELEASED)
    inside = re.split(r"(?m)^## \[|^\[Unreleased\]:", rest)[0].strip()
    return inside if re.search(r"(?m)^- ", inside) else ""


def say_plan(root: Path, version: str) -> None:
    """What would be done; the distributions are built and looked at, in a temporary folder."""
    print(f"{', '.join(VERSIONED)}: {version_in(root / VERSIONED[0])} becomes {version}")
    print(f"CHANGELOG.md: {len(re.findall('(?m)^- ', notes(root)))} changes under [{version}] - {today()}")
    print(f"git: a commit, and the tag v{version}")
    with tempfile.TemporaryDirectory() as folder:
        for path in build(root, Path(folder)):
            print(f"dist/{path.name}: {len(members(path))} files, {path.stat().st_size / 1e6:.1f} MB (as it is now)")
    print("nothing was changed; --do does it")


def write(root: Path, version: str) -> None:
    """Put the version into its files, and give the changelog's head its name and day."""
    for name in VERSIONED:
        path = root / name
        path.write_text(_VERSION.sub(rf"\g<head>{version}\g<tail>", path.read_text(encoding="utf-8")), encoding="utf-8")
    path = root / "CHANGELOG.md"
    text = path.read_text(encoding="utf-8")
    text = text.replace(UNRELEASED, f"{UNRELEASED}\n\n## [{version}] - {today()}", 1)
    text = re.sub(
        r"(?m)^\[Unreleased\]: .*$",
        f"[Unreleased]: {REPOSITORY}/compare/v{version}...main\n[{version}]: {REPOSITORY}/releases/tag/v{version}",
        text,
        count=1,
    )
    path.write_text(text, encoding="utf-8")


def today() -> str:
    """The day, as the changelog writes it."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def build(root: Path, folder: Path) -> list[Path]:
    """Wheel and source distribution of the kit, wheel of the exporter."""
    from hatchling.builders.sdist import SdistBuilder
    from hatchling.builders.wheel import WheelBuilder

    builders = (WheelBuilder(str(root)), SdistBuilder(str(root)), WheelBuilder(str(root / "gguf_export")))
    return [Path(path) for builder in builders for path in builder.build(directory=str(folder), versions=["standard"])]


def members(path: Path) -> list[str]:
    """Names of the files in a wheel or a source distribution."""
    if path.suffix == ".whl":
        return zipfile.ZipFile(path).namelist()
    with tarfile.open(path) as archive:
        return archive.getnames()


def git(root: Path, *arguments: str) -> str:
    """What git says.

    Raises:
        SystemExit: it refuses.
    """
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"release: git {arguments[0]}: {done.stderr.strip()}", file=sys.stderr)
        raise SystemExit(1)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
