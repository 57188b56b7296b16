"""The error tree: exit codes, and the drawing at the top of its module."""

import ast
import errno
import inspect
import re
import subprocess
import sys

import pytest

from lowvram_ft import errors
from lowvram_ft.errors import LowvramError, MissingExtraError, RecipeError, cannot_write

CODES = {
    "LowvramError": 1, "TrainingError": 1, "GenerationError": 1, "ExportRejected": 1, "GateMissed": 1,
    "UsageError": 2, "RecipeError": 2, "DataError": 2, "ModelError": 2, "RunDirectoryError": 2,
    "MachineError": 3, "MissingExtraError": 3, "PromptTooLong": 1,
}  # fmt: skip
KINDS = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}


def test_every_error_has_the_exit_code_of_the_design():
    assert {name: kind.exit_code for name, kind in KINDS.items()} == CODES


def test_the_tree_that_is_drawn_is_the_tree_that_is_there():
    drawn = {name: int(code) for name, code in re.findall(r"^[ │├└─]*(\w+) +(\d)  ", errors.__doc__, re.MULTILINE)}
    assert drawn == CODES


def test_every_error_is_one_of_the_kits_and_at_most_two_levels_below():
    for kind in KINDS.values():
        assert issubclass(kind, LowvramError)
        assert len(kind.__mro__) - LowvramError.__mro__.__len__() <= 2


def test_ctrl_c_has_the_exit_code_that_shells_expect():
    assert errors.EXIT_INTERRUPTED == 128 + 2


def test_a_recipe_error_holds_every_problem_and_shows_one_a_line():
    error = RecipeError(["a: b; c", "d: e; f"])
    assert error.problems == ("a: b; c", "d: e; f")
    assert str(error) == "a: b; c\nd: e; f"


def test_a_missing_extra_holds_the_command_that_installs_it():
    assert str(MissingExtraError("suite humaneval", "demo")) == (
        'suite humaneval: not installed; run: pip install "lowvram-ft[demo]"'
    )


def test_a_full_disk_and_a_forbidden_place_are_mended_in_different_ways():
    full = str(cannot_write("x", OSError(errno.ENOSPC, "No space left on device")))
    forbidden = str(cannot_write("x", OSError(errno.EACCES, "Permission denied")))
    assert full.startswith("x: cannot be written (") and "free some" in full
    assert "Permission denied" in forbidden and "free some" not in forbidden


HEAVY = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "datasets",
    "unsloth",
    "llama_cpp",
    "rich",
    "pydantic",
    "numpy",
    "gguf",
)


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that are loaded after a statement, in a process of its own."""
    ask = f"import sys\n{statement}\nprint(sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return set(ast.literal_eval(done.stdout))


@pytest.mark.parametrize("module", ["lowvram_ft", "lowvram_ft.cli", "lowvram_ft.errors"])
def test_the_command_line_loads_none_of_the_slow_libraries(module):
    assert not loaded_by(f"import {module}") & set(HEAVY)


def test_the_exporter_loads_neither_the_kit_nor_a_training_library():
    own = {"lowvram_ft", "torch", "transformers", "peft", "trl", "datasets", "unsloth", "llama_cpp", "rich", "pydantic"}
    assert not loaded_by("import gguf_export") & own


def test_a_slow_library_that_is_loaded_would_be_noticed():
    assert {"numpy", "pydantic"} <= loaded_by("import numpy, lowvram_ft.recipe")
