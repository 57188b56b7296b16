"""The user's token is sent to the hub, and is told to nobody else: on no stream, in no traceback, in no file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.running import Outcome
from tests.hub_runs import make_run
from tests.loopback_hub import Hub, serving
from tests.loopback_uploads import WRITE

PLANTED = "hf_plantedTokenThatNobodyMaySee"


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    (root / "models").mkdir()
    with serving(root) as running:
        running.uploads.strict = True
        yield running


@pytest.fixture
def run(tiny_adapter: Path, tiny_gguf: Path, tmp_path: Path) -> Path:
    return make_run(tmp_path / "runs" / "demo", tiny_adapter, tiny_gguf)


def _environment(url: str, home: Path, token: str) -> dict[str, str]:
    return {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": token,
    }


def _nowhere(token: str, folder: Path, outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        assert token not in outcome.stdout and token not in outcome.stderr
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if token.encode() in path.read_bytes()]


def test_a_wrong_token_is_told_nowhere(cli: Cli, hub: Hub, run: Path, tmp_path: Path) -> None:
    known = _environment(hub.url, tmp_path / "hf-home", PLANTED)
    lost = known | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    outcomes = [
        cli("--debug", "push", run, "me/tests", **known),
        cli("--debug", "pull", "me/tests", "back", **known),
        cli("--debug", "push", run, "me/tests", **lost),
    ]
    assert [outcome.code for outcome in outcomes] == [2, 2, 3]
    assert all("Traceback" in outcome.stderr for outcome in outcomes), "else nothing is looked for in a traceback"
    _nowhere(PLANTED, tmp_path, outcomes)


def test_a_token_that_works_is_told_nowhere(cli: Cli, hub: Hub, run: Path, tmp_path: Path) -> None:
    known = _environment(hub.url, tmp_path / "hf-home", WRITE)
    outcomes = [cli("push", run, "me/tests", **known), cli("pull", "me/tests", "back", "--gguf", "F16", **known)]
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    _nowhere(WRITE, tmp_path, outcomes)
    _nowhere(WRITE, hub.root, [])


@pytest.mark.parametrize("token", [f"{PLANTED} {PLANTED}", f"{PLANTED}\x01", f"{PLANTED}é"])
def test_a_token_that_cannot_be_sent_is_told_nowhere(
    here: Cli, run: Path, tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", token)
    for command in (("push", run, "me/tests"), ("pull", "me/tests", "back")):
        outcome = here("--debug", *command)
        assert outcome.code == 2 and "HF_TOKEN: holds characters that no token has" in outcome.stderr
        _nowhere(PLANTED, run, [outcome])
    shutil.rmtree(tmp_path / "hf-home", ignore_errors=True)
