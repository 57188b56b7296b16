"""The release script: it sees what is wrong, changes nothing by itself, and writes what it should when told to."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHANGELOG = """# Changelog

## [Unreleased]

### Added

- A thing.
  It is good.

[Unreleased]: https://github.com/lowvram-ft/lowvram-ft
"""


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / "scripts" / "release.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", *settings, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path, release: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkout of the same form; nothing is built from it."""
    monkeypatch.setattr(release, "build", lambda root, folder: [])
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "a")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@b")
    root = tmp_path / "project"
    for name in ("lowvram_ft", "gguf_export"):
        (root / name).mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "0.1.0"\nrequires = "version"\n')
    (root / "gguf_export" / "pyproject.toml").write_text('version = "0.1.0"\n')
    (root / "lowvram_ft" / "__init__.py").write_text('"""X."""\n\n__version__ = "0.1.0"\n')
    (root / "CHANGELOG.md").write_text(CHANGELOG)
    git(tmp_path, "init", "-q", "-b", "main", "project")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "All")
    git(root, "tag", "v0.1.0")
    return root


def test_the_project_itself_has_one_version(release: ModuleType) -> None:
    numbers = {release.version_in(ROOT / name) for name in release.VERSIONED}
    assert len(numbers) == 1 and numbers != {""}


def test_a_dry_run_changes_nothing(release: ModuleType, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = git(project, "rev-parse", "HEAD")
    assert release.main(["0.2.0"], project) == 0
    said = capsys.readouterr().out
    assert "0.1.0 becomes 0.2.0" in said and "1 changes under [0.2.0]" in said and "nothing was changed" in said
    assert git(project, "rev-parse", "HEAD") == before and git(project, "status", "--porcelain") == ""


def test_a_release_writes_every_version_the_changelog_a_commit_and_a_tag(release: ModuleType, project: Path) -> None:
    assert release.main(["0.2.0", "--do"], project) == 0
    assert {release.version_in(project / name) for name in release.VERSIONED} == {"0.2.0"}
    assert 'requires = "version"' in (project / "pyproject.toml").read_text()
    changelog = (project / "CHANGELOG.md").read_text()
    assert f"## [Unreleased]\n\n## [0.2.0] - {release.today()}\n\n### Added\n\n- A thing." in changelog
    assert changelog.endswith(
        "[Unreleased]: https://github.com/lowvram-ft/lowvram-ft/compare/v0.2.0...main\n"
        "[0.2.0]: https://github.com/lowvram-ft/lowvram-ft/releases/tag/v0.2.0\n"
    )
    assert git(project, "status", "--porcelain") == ""
    assert git(project, "tag", "--points-at", "HEAD") == "v0.2.0"
    assert release.problems_with(project, "0.3.0") == ["CHANGELOG.md: nothing stands under ## [Unreleased]"]


@pytest.mark.parametrize(
    ("version", "problem"),
    [
        ("0.2", "0.2: is no version of the form 1.2.3"),
        ("0.1.0", "0.1.0: is not later than 0.1.0, which is released"),
        ("0.0.9", "0.0.9: is not later than 0.1.0, which is released"),
    ],
)
def test_a_version_that_cannot_be(release: ModuleType, project: Path, version: str, problem: str) -> None:
    assert release.problems_with(project, version) == [problem]


def test_what_is_in_the_way_is_told_at_once(
    release: ModuleType, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    git(project, "switch", "-qc", "other")
    (project / "lowvram_ft" / "__init__.py").write_text('__version__ = "0.1.1"\n')
    (project / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n\n## [0.1.0]\n\n- Old.\n")
    assert release.main(["0.2.0", "--do"], project) == 1
    said = capsys.readouterr().err
    for part in ("the files disagree", "nothing stands under", "not clean (2 files)", "the branch other"):
        assert part in said
    assert git(project, "tag", "--list", "v0.2.0") == ""
