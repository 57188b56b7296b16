"""The distributions: what is inside, and that the installed command works where there is no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


def build_wheel(project: Path, folder: Path) -> Path:
    return Path(next(WheelBuilder(str(project)).build(directory=str(folder), versions=["standard"])))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    archive = next(SdistBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"]))
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def names(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def tracked(*folders: str) -> set[str]:
    """Files of the project, without what Python leaves beside them."""
    return {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_every_module_and_data_file_and_nothing_else(wheel: Path) -> None:
    recipes = {f"lowvram_ft/{name}" for name in tracked("recipes")}
    expected = tracked("lowvram_ft", "gguf_export") | recipes
    assert names(wheel) == expected - {"gguf_export/pyproject.toml"}
    assert {"lowvram_ft/py.typed", "gguf_export/py.typed", "lowvram_ft/recipes/demo.toml"} <= names(wheel)
    assert [name for name in names(wheel) if name.startswith("lowvram_ft/data/samples/")]


def test_the_sdist_builds_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    again = build_wheel(sdist, tmp_path)
    assert names(again) == names(wheel)
    ours, theirs = zipfile.ZipFile(wheel), zipfile.ZipFile(again)
    assert [name for name in names(wheel) if ours.read(name) != theirs.read(name)] == []
    assert {"Makefile", "scripts", "tests", "docs", "mkdocs.yml", ".ci"} <= {path.name for path in sdist.iterdir()}


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment that has the wheel, and borrows what it needs from this one."""
    root = tmp_path_factory.mktemp("installed")
    venv.create(root, with_pip=False, symlinks=True)
    site = next(root.glob("lib/python*/site-packages"))
    # a .pth in a borrowed folder is not followed, so that an editable install of the checkout is not seen
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    python = root / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True, timeout=120, env=clean(), cwd=root)
    return root / "bin"


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LOWVRAM"))}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--version"], "lowvram-ft, version "),
        (["recipe", "list"], "testing_agent"),
        (["recipe", "show", "demo"], 'base = "smollm2-135m"'),
        (["plan", "pilot", "--vram", "4GiB", "--ram", "16GiB", "--json"], '"fits": true'),
        (["cloud", "stage_a_kodcode", "--out", "task.yaml"], "task.yaml"),
    ],
)
def test_the_installed_command_works_outside_of_the_checkout(
    installed: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    done = subprocess.run(
        [str(installed / "lowvram-ft"), *words],
        cwd=tmp_path,
        env=clean(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout + done.stderr


def test_the_installed_package_has_its_samples_and_is_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    ask = (
        "import lowvram_ft, gguf_export; from lowvram_ft.data.sources.samples import held_out_rows;"
        "print(lowvram_ft.__file__, gguf_export.__file__, len(list(held_out_rows())))"
    )
    done = subprocess.run(
        [str(installed / "python"), "-c", ask], cwd=tmp_path, env=clean(), capture_output=True, text=True, check=True
    )
    kit, exporter, rows = done.stdout.split()
    assert not Path(kit).is_relative_to(ROOT) and not Path(exporter).is_relative_to(ROOT)
    assert int(rows) == 40
