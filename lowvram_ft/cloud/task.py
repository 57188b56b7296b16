"""A SkyPilot task, as text. SkyPilot itself is never imported: its pins clash with the kit's."""

from __future__ import annotations

import getpass
import hashlib
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lowvram_ft
from lowvram_ft.cloud.accelerators import GIB, Choice, choose
from lowvram_ft.cloud.mounts import JOB, mounts_of
from lowvram_ft.errors import UsageError
from lowvram_ft.memory.several import share_of
from lowvram_ft.recipe import Resolved
from lowvram_ft.run_dir import write_text

MARK = "# A SkyPilot task, written by lowvram-ft cloud"
BUCKET_MOUNT = "~/lowvram-ft-kept"
KEEP_EVERY_S = 60
"""Seconds between two copies of the run directory to the bucket."""


@dataclass(frozen=True)
class CloudTask:
    """A task for a cloud GPU.

    Attributes:
        name: of the task, and of the cluster that the commands below start.
        choice: what it runs on.
        body: the task, as YAML has it.
        command: what is run there.
        next_steps: commands for a terminal of the user's, each with what it does.
        notes: what the user should know.
    """

    name: str
    choice: Choice
    body: Mapping[str, Any]
    command: str
    next_steps: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The choice, the task and what comes next."""
        choice = self.choice
        return {
            "name": self.name,
            "accelerators": self.body["resources"]["accelerators"],
            "memory_gib": choice.ram_gib,
            "disk_gib": choice.disk_gib,
            "peak_gpu_bytes": {name: plan.fit.plan.peak_gpu_bytes for name, plan in choice.plans.items()},
            "given_up": list(choice.given_up),
            "command": self.command,
            "task": dict(self.body),
            "next_steps": [{"command": command, "does": does} for command, does in self.next_steps],
            "notes": list(self.notes),
        }


def cloud_task(
    resolved: Resolved,
    overrides: Sequence[str],
    *,
    gpu: str | None,
    spot: bool,
    bucket: str | None,
    file: Path,
) -> CloudTask:
    """Make the task for a recipe.

    Args:
        resolved: the recipe.
        overrides: the ``section.key=value`` that it was read with.
        gpu: ``NAME`` or ``NAME:COUNT``; None for the smallest that will do.
        spot: on machines that the cloud may take away: the run directory is kept in a bucket.
        bucket: name or URL of the bucket; None for one of the user's own for this recipe.
        file: where the task will be written.

    Raises:
        UsageError: the GPU is not known, or a file lies where it cannot be copied from.
        RecipeError: several GPUs cannot share the recipe's accumulation.
        DataError: a JSONL file is missing.
        MachineError: no GPU is large enough.
    """
    if bucket is not None and not spot:
        raise UsageError("--bucket: is for --spot alone; without it, the run directory stays on the machine's disk")
    choice = choose(resolved, gpu)
    for stage in resolved.stages:
        share_of(stage.recipe.train, choice.count)
    recipe, mounts = mounts_of(resolved)
    name = "lowvram-" + re.sub(r"[^a-z0-9]+", "-", resolved.name.lower()).strip("-")
    out = f"runs/{resolved.name}"
    command = _command(resolved, recipe, out, overrides, choice)
    file_mounts: dict[str, Any] = dict(mounts)
    if spot:
        file_mounts[BUCKET_MOUNT] = _bucket(bucket, name, resolved)
    checkout = _checkout()
    body: dict[str, Any] = {
        "name": name,
        **({"workdir": str(checkout)} if checkout is not None else {}),
        "resources": {
            "accelerators": dict.fromkeys((choice.accelerator.name, *choice.stand_ins), choice.count),
            "memory": f"{choice.ram_gib}+",
            "disk_size": choice.disk_gib,
            **({"use_spot": True} if spot else {}),
        },
        **({"file_mounts": file_mounts} if file_mounts else {}),
        "setup": _setup(checkout),
        "run": _run(command, out, spot=spot),
    }
    return CloudTask(name, choice, body, command, _next_steps(name, file, out, spot=spot), _notes(choice, spot=spot))


def write_task(task: CloudTask, file: Path) -> None:
    """Write the task as YAML, atomically.

    Raises:
        UsageError: a file is there that this command has not written.
        MachineError: it cannot be written.
    """
    if file.exists() and not file.read_text(encoding="utf-8", errors="replace").startswith(MARK):
        raise UsageError(f"{file}: is there, and was not written by this command; give another --out")
    steps = [line for command, does in task.next_steps for line in (f"#   {command}", f"#       {does}")]
    header = [f"{MARK} {lowvram_ft.__version__}. Check it with: sky launch --dryrun {file.name}", *steps, ""]
    write_text(file, "\n".join(header) + _yaml(task.body))


def _yaml(body: Mapping[str, Any]) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        """Writes text of several lines as it reads."""

    def text(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return str(yaml.dump(dict(body), Dumper=Dumper, sort_keys=False, width=10**6, allow_unicode=True))


def _command(resolved: Resolved, recipe: str, out: str, overrides: Sequence[str], choice: Choice) -> str:
    """The same command as here, told of the machine there."""
    sets = list(overrides)
    named = {key for stage in resolved.stages for key in ("vram_gib", "ram_gib") if _names(stage.recipe.hardware, key)}
    there = {
        "vram_gib": choice.accelerator.vram_bytes / GIB,
        "ram_gib": float(choice.ram_gib),
    }
    sets += [f"hardware.{key}={there[key]:.2f}" for key in sorted(named)]
    start = (
        [".venv/bin/lowvram-ft"]
        if choice.count == 1
        else [".venv/bin/torchrun", "--nproc_per_node", str(choice.count), "-m", "lowvram_ft"]
    )
    return shlex.join([*start, "run", recipe, "--out", out, *(word for entry in sets for word in ("--set", entry))])


def _names(section: Any, key: str) -> bool:
    return getattr(section, key) is not None


def _checkout() -> Path | None:
    """The kit's source, where it runs from there; None for an installed package."""
    root = Path(lowvram_ft.__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() else None


def _setup(checkout: Path | None) -> str:
    source = '"$HOME/sky_workdir[cuda,demo]"' if checkout else f'"lowvram-ft[cuda,demo]=={lowvram_ft.__version__}"'
    return f"""\
set -e
export PATH="$HOME/.local/bin:$PATH"
command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
command -v g++ >/dev/null || {{ sudo apt-get update && sudo apt-get install -y g++; }}
# llama-cpp-python is compiled here; GCC's AMX kernels of llama.cpp die on long prompts
if grep -q amx_tile /proc/cpuinfo; then
  no_amx='-mno-amx-tile -mno-amx-int8 -mno-amx-bf16'
  export CMAKE_ARGS="-DCMAKE_C_FLAGS='$no_amx' -DCMAKE_CXX_FLAGS='$no_amx'"
fi
mkdir -p {JOB} && cd {JOB}
uv venv --allow-existing --python 3.11 .venv
# auto: torch for the CUDA that this machine's driver runs
uv pip install --python .venv --torch-backend=auto {source}
"""


def _run(command: str, out: str, *, spot: bool) -> str:
    if not spot:
        return f"cd {JOB}\n{command}\n"
    return f"""\
cd {JOB}
out={out} kept={BUCKET_MOUNT}/{out}
mkdir -p "$out" "$kept"
# what another machine had done before it was taken away; run.json says which steps are whole
rsync -rt "$kept/" "$out/" || exit 1
keep() {{
  # run.json last, and as it was before the rest: what it calls finished is in the bucket by then
  rm -f .run.json
  cp "$out/run.json" .run.json 2>/dev/null
  rsync -rt --inplace --exclude .lock --exclude .saving --exclude /run.json "$out/" "$kept/" || return
  cp .run.json "$kept/run.json" 2>/dev/null
  for folder in "$out"/stages/*/checkpoints; do  # of a stage that is training: what is gone here goes there
    [ -n "$(ls "$folder" 2>/dev/null)" ] || continue
    rsync -rt --inplace --delete --exclude .saving "$folder/" "$kept${{folder#"$out"}}/"
  done
}}
(while sleep {KEEP_EVERY_S} > /dev/null 2>&1; do keep; done) &
keeper=$!
trap 'kill "$keeper"; keep' EXIT
{command}
"""


def _bucket(bucket: str | None, name: str, resolved: Resolved) -> dict[str, Any]:
    """A bucket that is mounted with a cache on the disk; one file after the other goes up, in the order of writing."""
    ordered = {"mode": "MOUNT_CACHED", "config": {"mount_cached": {"transfers": 1}}}
    if bucket is not None and "://" in bucket:
        return {"source": bucket, **ordered}
    # names of buckets are the whole world's: this one is of this user, machine and recipe
    own = hashlib.sha256(f"{getpass.getuser()} {platform.node()} {resolved.digest()}".encode()).hexdigest()[:10]
    return {"name": bucket or f"{name[:50]}-{own}", **ordered}


def _next_steps(name: str, file: Path, out: str, *, spot: bool) -> tuple[tuple[str, str], ...]:
    install = (
        'uv tool install "skypilot[aws]"  # or [gcp], [azure], [lambda], …; then: sky check',
        "once, in an environment of its own",
    )
    if spot:
        return (
            install,
            (f"sky jobs launch -n {name} {file}", "start; goes on by itself when a machine is taken away"),
            (f"sky jobs logs -n {name}", "watch"),
            ("sky storage ls", f"the bucket that holds {out}; copy it with the cloud's own tool"),
            (f"sky jobs cancel -n {name}", "stop"),
            ("sky storage delete NAME", "delete the bucket"),
        )
    return (
        install,
        (f"sky launch -c {name} -i 30 {file}", "start, and go on; the machine stops after 30 idle minutes"),
        (f"rsync -Pavz {name}:lowvram-ft/{out} runs/", "fetch the run directory"),
        (f"sky down {name}", "delete the machine and its disk: it costs money until then"),
    )


def _notes(choice: Choice, *, spot: bool) -> tuple[str, ...]:
    notes = []
    if choice.given_up:
        notes.append(f"{choice.accelerator.name} holds it with this given up: {'; '.join(choice.given_up)}")
    if not choice.accelerator.bfloat16:
        notes.append(f"{choice.accelerator.name} has no bfloat16: training is in float16")
    if choice.count > 1:
        notes.append(f"{choice.count} GPUs share each effective batch: gradient_accumulation_steps / {choice.count}")
    if spot:
        notes.append(f"at most {KEEP_EVERY_S} s and what came after the last checkpoint are lost with a machine")
    return tuple(notes)
