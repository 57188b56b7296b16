"""Hold the files of ``lowvram-ft cloud`` against SkyPilot's own loader, in an environment of its own.

    python benchmarks/validate_cloud.py [--environment FOLDER] [--skypilot ==0.14.*]

Makes the environment where it is not there yet, writes a task for every recipe that ships with the kit, with and
without ``--spot``, for one GPU and for two, and for a recipe with files of its own, and loads each with
``sky.Task.from_yaml``, which validates it against SkyPilot's schema and checks what it mounts; the GPUs are looked up
among those that SkyPilot knows. A few broken tasks show that it refuses. Nothing is started, and no cloud is asked.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lowvram_ft.recipe import shipped_recipes

LOADER = r"""
import json, pathlib, re, sys
import sky
from sky.catalog import common
from sky.utils import accelerator_registry

names = "SkyPilot's catalog"
try:
    accelerator_registry.canonicalize_accelerator_name("T4", None)
except Exception:  # the catalog is on GitHub; without it, the names in the tables that SkyPilot makes it from
    names = "SkyPilot's source (its catalog cannot be reached)"
    root = pathlib.Path(sky.__file__).parent
    tables = [*(root / "catalog" / "data_fetchers").glob("*.py"), root / "utils" / "gpu_names.py"]
    found = {name for path in tables for name in re.findall(r"'([A-Z][A-Z0-9a-z-]+)'", path.read_text())}
    place = pathlib.Path(common.get_catalog_path("common/accelerators.csv"))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("AcceleratorName,Clouds\n" + "".join(f"{name},AWS\n" for name in sorted(found)))

verdicts = {}
for path in sys.argv[1:]:
    try:
        task = sky.Task.from_yaml(path)
        task.validate()
        found = next(iter(task.resources))
        for each in task.resources:
            for name in each.accelerators or {}:
                if name not in set(accelerator_registry._accelerator_df["AcceleratorName"]):
                    raise ValueError(f"no such accelerator: {name}")
        verdicts[path] = {
            "ok": True,
            "resources": [str(each) for each in task.resources],
            "memory": found.memory,
            "disk_size": found.disk_size,
            "use_spot": found.use_spot,
            "mounts": sorted(task.file_mounts or {}),
            "buckets": {place: [store.name, str(store.mode), getattr(store, "source", None)]
                        for place, store in (task.storage_mounts or {}).items()},
        }
    except Exception as error:
        verdicts[path] = {"ok": False, "error": f"{type(error).__name__}: {str(error).strip()[:300]}"}
print(json.dumps({"skypilot": sky.__version__, "names": names, "verdicts": verdicts}))
"""

BROKEN = {
    "unknown key": ("disk_size:", "disksize:"),
    "unknown mode": ("mode: MOUNT_CACHED", "mode: MOUNTED"),
    "no such file": ("failure_traces.jsonl\n", "not_there.jsonl\n"),
    "memory": ("memory: ", "memory: much"),
    "no such GPU": ("T4: 1", "T5: 1"),
}


def environment(folder: Path, version: str) -> Path:
    """A Python with SkyPilot; made where it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    if subprocess.run([str(python), "-c", "import sky"], capture_output=True, check=False).returncode != 0:
        subprocess.run([str(python), "-m", "pip", "install", "-q", f"skypilot{version}"], check=True)
    return python


def write(folder: Path) -> dict[str, Path]:
    """A task for every recipe, in several forms."""
    (folder / "failure_traces.jsonl").write_text("{}\n")
    own = folder / "recipes of mine" / "own.toml"
    own.parent.mkdir()
    (folder / "rows.jsonl").write_text("{}\n")
    (folder / "tasks.jsonl").write_text("{}\n")
    base = own.with_name("base.toml")
    base.write_text('schema_version = 1\n[data]\nsource = "repository"\npath = "rows.jsonl"\n')
    own.write_text('schema_version = 1\nextends = "base.toml"\n[eval]\nsuites = ["jsonl:tasks.jsonl"]\n')
    names = [(path.stem, path.stem) for path in shipped_recipes()] + [("own", str(own))]
    forms: list[tuple[str, list[str]]] = [
        ("", []),
        ("-spot", ["--spot"]),
        ("-bucket", ["--spot", "--bucket", "s3://a-bucket-of-mine/runs"]),
        ("-two", ["--gpu", "L4:2", "--set", "train.gradient_accumulation_steps=8"]),
    ]
    written = {}
    for name, recipe in names:
        for suffix, options in forms:
            if suffix == "-bucket" and name not in ("demo", "own"):
                continue
            file = folder / f"{name}{suffix}.yaml"
            command = [sys.executable, "-m", "lowvram_ft", "cloud", recipe, *options, "--out", str(file), "--json"]
            found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if found.returncode != 0:
                raise SystemExit(f"{' '.join(command)}: {found.stderr}")
            written[file.stem] = file
    return written


def break_some(folder: Path, written: dict[str, Path]) -> dict[str, Path]:
    """Tasks that the loader has to refuse."""
    broken = {}
    for name, (right, wrong) in BROKEN.items():
        source = written["testing_agent-spot"].read_text()
        assert right in source, right
        broken[name] = folder / f"broken {name}.yaml"
        broken[name].write_text(source.replace(right, wrong))
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, help="folder of SkyPilot's environment (default: a temporary one)")
    parser.add_argument("--skypilot", default="==0.14.*", help="which version to install")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = environment(options.environment or folder / "sky", options.skypilot)
        work = folder / "work"
        work.mkdir()
        written = write(work)
        broken = break_some(work, written)
        home = folder / "home"
        home.mkdir()
        outcome = subprocess.run(
            [str(python), "-c", LOADER, *map(str, (*written.values(), *broken.values()))],
            capture_output=True,
            text=True,
            check=False,
            cwd=work,
            env=os.environ | {"HOME": str(home), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"},
        )
    if outcome.returncode != 0:
        print(outcome.stderr, file=sys.stderr)
        return 1
    found: dict[str, Any] = json.loads(outcome.stdout.splitlines()[-1])
    verdicts = {Path(path).stem: verdict for path, verdict in found["verdicts"].items()}
    good = all(verdicts[name]["ok"] for name in written)
    refused = not any(verdicts[f"broken {name}"]["ok"] for name in BROKEN)
    if options.json:
        print(
            json.dumps(
                {"skypilot": found["skypilot"], "names": found["names"], "ok": good and refused, "verdicts": verdicts},
                indent=2,
            )
        )
    else:
        print(f"SkyPilot {found['skypilot']}; names of GPUs from {found['names']}")
        for name, verdict in verdicts.items():
            detail = " or ".join(verdict["resources"]) if verdict["ok"] else verdict["error"].splitlines()[0]
            print(f"{'loads' if verdict['ok'] else 'REFUSED':<8} {name:<32} {detail}")
        print("every task loads, and every broken one is refused" if good and refused else "NOT AS IT SHOULD BE")
    return 0 if good and refused else 1


if __name__ == "__main__":
    sys.exit(main())
