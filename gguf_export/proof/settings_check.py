"""Whether a GGUF's settings are those of its base: heads, rotation, context, norms."""

from __future__ import annotations

import math
from typing import Any

from ..checkpoints.weights import Checkpoint
from ..families.architectures import add_family_settings, add_settings, family_of, rope_factors
from ..reading import GgufFile
from .verification import Check


def check_settings(file: GgufFile, checkpoint: Checkpoint) -> Check:
    """Hold every setting that the base gives a file against what the file says.

    Raises:
        UnsupportedError: the base is of a family that is not covered.
    """
    import gguf

    family = family_of(checkpoint)
    arch = file.get("general.architecture")
    if arch != family.gguf_arch:
        return Check("settings", False, f"the file is a {arch} model, the base a {family.gguf_arch}")
    writer = gguf.GGUFWriter(path=None, arch=family.gguf_arch)
    add_settings(writer, checkpoint)
    add_family_settings(writer, checkpoint)
    expected = {key: entry.value for key, entry in writer.kv_data[0].items() if key.startswith(f"{arch}.")}
    wrong = [
        f"{key} is {file.get(key)}, the base's {value}"
        for key, value in expected.items()
        if not _is_same(file.get(key), value)
    ]
    has_factors = any(tensor.name == "rope_freqs.weight" for tensor in file.tensors)
    if has_factors != (rope_factors(checkpoint) is not None):
        wrong.append(f"rope_freqs.weight is {'there' if has_factors else 'missing'}")
    if wrong:
        return Check("settings", False, f"{len(wrong)} differ from the base's config.json: {'; '.join(wrong[:3])}")
    return Check("settings", True, f"{len(expected)} are those of the base's config.json")


def _is_same(found: Any, expected: Any) -> bool:
    if isinstance(expected, float) and isinstance(found, float):
        return math.isclose(found, expected, rel_tol=1e-6)  # a file holds float32
    return bool(found == expected)
