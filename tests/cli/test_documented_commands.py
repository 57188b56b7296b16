"""Every command that the docs show is one: its name, its options, its files; and it runs, or a mark says why not."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from gguf_export.__main__ import _parser
from lowvram_ft.cli import cli as root
from lowvram_ft.errors import UsageError
from lowvram_ft.recipe import load, shipped_recipes
from tests.cli.conftest import Cli
from tests.documented import ROOT, Block, blocks, pages, recipes

BLOCKS = [block for page in pages() for block in blocks(page)]
OURS = [block for block in BLOCKS if any(words[0] == "lowvram-ft" for words in block.commands)]
HERE = [block for block in BLOCKS if block.how == "here"]
FOREIGN = {
    ".", "brew", "cd", "cp", "echo", "export", "git", "hf", "llama-server", "mkdir", "nvcc", "nvidia-smi", "ollama",
    "ray", "rm", "sky", "sudo", "tensorboard", "uv", "vllm", "wsl", "xcode-select",
}  # fmt: skip
"""Programs of others: what they take is theirs."""
HOWS = re.compile(r"here|in (tests/[\w/]+\.py|Makefile)|with a GPU( and the hub)?|with the hub|by hand: .+")
SHOWN = {"my_tests", "our", "nights"}
"""Recipes that `init` writes, or whose text a page shows to be saved, under this name."""
RECIPES = {path.stem for path in shipped_recipes()}


def check(words: Sequence[str]) -> None:
    """Raise where a command is none: an unknown program, command, option, target, script, extra, key of a recipe."""
    program, *rest = words
    if program == "lowvram-ft":
        check_own(rest)
    elif program == "gguf-export":
        _parser().parse_args(rest)
    elif Path(program).name in ("python", "python3"):
        check_python(rest)
    elif program in ("torchrun", "accelerate"):
        assert "-m" in rest, "starts no module"
        check_python(rest[rest.index("-m") :])
    elif program == "make":
        targets = [word for word in rest if "=" not in word]
        for target in targets:
            assert re.search(rf"(?m)^{target}:", (ROOT / "Makefile").read_text()), f"make {target}: no such target"
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for wanted in re.findall(r"(?:lowvram-ft|\.)\[([\w,]+)\]", " ".join(rest)):
            assert set(wanted.split(",")) <= extras.keys(), f"pip: no extra {wanted}"
    else:
        assert program in FOREIGN, f"{program}: neither ours nor known; add it to FOREIGN if it is somebody else's"


def check_own(words: Sequence[str]) -> None:
    """Parse as click does, conversions included; nothing is run."""
    context = click.Context(root, info_name="lowvram-ft")
    command: click.Command = root
    left = [os.path.expanduser(word) for word in words]
    while isinstance(command, click.Group):
        parser = command.make_parser(context)
        parser.allow_interspersed_args = False
        _, left, _ = parser.parse_args(left)
        if not left:
            return
        found = command.get_command(context, left[0])
        assert found is not None, f"lowvram-ft: no command {left[0]}"
        command, left = found, left[1:]
    made = command.make_context(command.name, left, parent=context)
    recipe = str(made.params.get("name") or made.params.get("recipe") or "").removesuffix(".toml")
    if overrides := made.params.get("overrides"):
        load(recipe if recipe in RECIPES else "stage_a_kodcode", overrides)
    elif recipe and any(param.name in ("name", "recipe") and param.metavar == "RECIPE" for param in command.params):
        assert recipe in RECIPES or recipe in SHOWN or recipe.isupper(), f"{recipe}: no recipe ships by that name"


def check_python(words: Sequence[str]) -> None:
    """A module or a script of ours, with options that its source knows."""
    if words[0] == "-m" and words[1] == "lowvram_ft":
        return check_own(words[2:])
    if words[0] == "-m" and words[1] == "gguf_export":
        _parser().parse_args(words[2:])
        return None
    if words[0] == "-m" and words[1] in ("pytest", "venv", "pip"):
        return None
    path = ROOT / (words[1].replace(".", "/") + ".py" if words[0] == "-m" else words[0])
    assert path.is_file(), f"{path.relative_to(ROOT)}: no such script"
    for word in words:
        assert not word.startswith("--") or word.partition("=")[0] in path.read_text(), f"{path.name}: no {word}"
    return None


@pytest.fixture(autouse=True)
def somewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder with what the docs take for granted, and an environment of its own: options have effects on it."""
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "lowvram-ft" / "runs" / "demo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_command_and_option_is_there(block: Block) -> None:
    for words in block.commands:
        try:
            check(words)
        except (click.ClickException, SystemExit, UsageError) as error:
            pytest.fail(f"{block}: {' '.join(words)}: {said(error)}")


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_says_how_it_is_held_true(block: Block) -> None:
    assert block.how is not None, "put <!-- runs: … --> above it, see CONTRIBUTING.md"
    how = HOWS.fullmatch(block.how)
    assert how is not None, f"runs: {block.how}: unknown; see CONTRIBUTING.md"
    if how[1]:
        text = (ROOT / how[1]).read_text(encoding="utf-8")
        for words in block.commands:
            if words[0] == "lowvram-ft":
                assert mentions(text, words), f"{how[1]}: runs no {' '.join(words[:3])}"


def mentions(text: str, words: Sequence[str]) -> bool:
    """Whether a test's text has a command: its name as a word of its own, in quotation marks or as a call."""
    name = words[2] if words[1] in ("data", "preference", "recipe") else words[1]
    return re.search(rf"""["' ]{name}["' ]|\b{name}\(""", text) is not None


@pytest.mark.parametrize("block", HERE, ids=str)
def test_what_is_marked_so_runs(block: Block, here: Cli, tmp_path: Path) -> None:
    for words in block.commands:
        if words[0] == "lowvram-ft":
            outcome = here(*words[1:])
            assert outcome.code in (0, 3) if words[1] in ("doctor", "plan") else outcome.code == 0, outcome.stderr
            assert outcome.stdout, f"{' '.join(words)} prints nothing"


@pytest.mark.parametrize("page", [page for page in pages() if any(recipes(page))], ids=lambda page: page.name)
def test_recipes_that_a_page_shows_can_be_loaded(page: Path, tmp_path: Path) -> None:
    for number, text in enumerate(recipes(page)):
        path = tmp_path / f"shown{number}.toml"
        path.write_text(text + "\n")
        assert load(str(path)).stages


# --- the checks can fail


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("lowvram-ft plan stage_a_kodcode --vran 4GiB", "No such option"),
        ("lowvram-ft plann stage_a_kodcode", "no command plann"),
        ("lowvram-ft plan stage_z", "no recipe ships by that name"),
        ("lowvram-ft plan", "Missing argument"),
        ("lowvram-ft train stage_a_kodcode --set train.learnin_rate=1", "unknown setting"),
        ("lowvram-ft plan stage_a_kodcode --vram much", "is not a size"),
        ("make everything", "no such target"),
        ("pip install -e '.[cudda]'", "no extra"),
        ("python benchmarks/none.py", "no such script"),
        ("python benchmarks/export.py --faster", "no --faster"),
        ("frobnicate all", "neither ours nor known"),
    ],
)
def test_a_command_that_is_none_is_found(line: str, problem: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Text\n\n```console\n$ {line}\n```\n")
    [block] = blocks(page)
    assert block.how is None
    with pytest.raises((click.ClickException, AssertionError, UsageError)) as raised:
        check(block.commands[0])
    assert problem in said(raised.value)


def said(error: BaseException) -> str:
    return error.format_message() if isinstance(error, click.ClickException) else str(error)


def test_an_option_that_goes_while_a_page_shows_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [words for block in BLOCKS for words in block.commands if words[:2] == ("lowvram-ft", "plan")]
    shown = [words for words in shown if "--vram" in words]
    assert shown
    command = root.commands["plan"]
    check(shown[0])
    monkeypatch.setattr(command, "params", [param for param in command.params if "--vram" not in param.opts])
    with pytest.raises(click.NoSuchOption):
        check(shown[0])


def test_blocks_are_found_with_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- runs: here -->\n```console\n$ lowvram-ft doctor   # looks\nok  Python\n$ make demo && ls\n```\n"
        "\n```\nlowvram-ft plan x \\\n  --json\n```\n\n```\njust a drawing\n```\n\n```toml\na = 1\n```\n"
    )
    first, second = blocks(page)
    assert first == Block("page.md", 2, "here", (("lowvram-ft", "doctor"), ("make", "demo"), ("ls",)))
    assert second == Block("page.md", 8, None, (("lowvram-ft", "plan", "x", "--json"),))


def test_there_are_as_many_blocks_as_ever() -> None:
    """A change of the form that hides blocks from this file would hide their mistakes."""
    assert len(OURS) >= 25 and len(HERE) >= 6
    assert sys.version_info >= (3, 11) and shutil.which("git")
