"""Models go to a hub and come back: the real client, over HTTP, to a hub on the loopback interface."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import gguf_export
from tests.cli.conftest import Cli
from tests.hub_runs import make_run, use_hub
from tests.loopback_hub import Hub, serving
from tests.loopback_uploads import READ, WRITE

REPO = "me/tests"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    (tmp_path / "hub-root" / "models").mkdir(parents=True)
    with serving(tmp_path / "hub-root") as running:
        running.uploads.strict = True
        yield running


@pytest.fixture
def online(here: Cli, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Sign in with a token (the one that may write, by default); None for none."""

    def sign_in(token: str | None = WRITE) -> None:
        use_hub(hub, tmp_path / "hf-home", monkeypatch, token)

    assert here is not None
    sign_in()
    return sign_in


@pytest.fixture
def run(tiny_adapter: Path, tiny_gguf: Path, tmp_path: Path) -> Path:
    return make_run(tmp_path / "runs" / "demo", tiny_adapter, tiny_gguf)


@pytest.fixture
def adapter(tiny_adapter: Path, tmp_path: Path) -> Path:
    """An adapter that lies in no run, of a base with a hub id."""
    shutil.copytree(tiny_adapter, tmp_path / "alone")
    path = tmp_path / "alone" / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"base_model_name_or_path": "Qwen/Qwen3-0.6B"}), encoding="utf-8")
    for name in ("training_args.bin", "optimizer.pt", "notes.txt"):
        (tmp_path / "alone" / name).write_bytes(b"private")
    return tmp_path / "alone"


def _stored(hub: Hub, repo: str = REPO) -> dict[str, bytes]:
    folder = hub.root / "models" / repo
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("online")
def test_an_adapter_comes_back_byte_for_byte_and_exports(
    here: Cli, hub: Hub, adapter: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    outcome = here("push", adapter, REPO, "--json", "-q")
    assert outcome.code == 0, outcome.stderr
    sent = json.loads(outcome.stdout)
    assert sent["private"] and sent["new"] and sent["commit"] == hub.commits[REPO] and REPO in hub.private
    assert set(_stored(hub)) == {".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors"}
    back = here("pull", REPO, tmp_path / "back", "--json", "-q")
    assert back.code == 0, back.stderr
    weights = "adapter_model.safetensors"
    assert (tmp_path / "back" / weights).read_bytes() == (adapter / weights).read_bytes()
    assert json.loads(back.stdout)["base"] == "Qwen/Qwen3-0.6B"
    files = []
    for folder, out in ((adapter, "here.gguf"), ("back", "back.gguf")):
        command = ("export", "--base", tiny_llama, "--adapter", folder, "--out", out, "--quant", "F16", "--no-verify")
        assert here(*command, "-q").code == 0
        files.append([tensor.data.tobytes() for tensor in gguf_export.GgufFile(tmp_path / out).tensors])
    assert files[0] == files[1]


@pytest.mark.usefixtures("online")
def test_peft_loads_what_was_pulled(here: Cli, adapter: Path, tiny_llama: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assert here("push", adapter, REPO, "-q").code == 0 and here("pull", REPO, tmp_path / "back", "-q").code == 0
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), tmp_path / "back")
    assert model.peft_config["default"].base_model_name_or_path == "Qwen/Qwen3-0.6B"


@pytest.mark.usefixtures("online")
def test_a_gguf_comes_back_byte_for_byte(here: Cli, hub: Hub, tiny_gguf: Path, tmp_path: Path) -> None:
    outcome = here("push", tiny_gguf, "me/tests-GGUF", "--base", "Qwen/Qwen3-0.6B", "-q")
    assert outcome.code == 0, outcome.stderr
    assert set(_stored(hub, "me/tests-GGUF")) == {".gitattributes", "README.md", "tests-F16.gguf", "template", "params"}
    back = here("pull", "me/tests-GGUF", tmp_path / "back", "--gguf", "f16", "--json", "-q")
    assert back.code == 0, back.stderr
    found = json.loads(back.stdout)
    assert gguf_export.sha256_of(Path(found["gguf"])) == gguf_export.sha256_of(tiny_gguf)
    assert found["files"][0]["sha256"] == gguf_export.sha256_of(tiny_gguf)
    text = Path(found["modelfile"]).read_text(encoding="utf-8")
    assert text.startswith("FROM ./tests-F16.gguf\nTEMPLATE ") and 'PARAMETER stop "<|im_end|>"' in text
    conversation = [{"role": "user", "content": "Hello"}]
    rendered = gguf_export.render_modelfile_messages(text, conversation)
    assert "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n" in rendered


@pytest.mark.usefixtures("online")
def test_a_run_is_one_repository_of_both(here: Cli, hub: Hub, run: Path, tmp_path: Path) -> None:
    assert here("push", run, REPO, "-q").code == 0
    stored = set(_stored(hub))
    assert {"adapter_config.json", "adapter_model.safetensors", "tests-F16.gguf", "template", "params"} <= stored
    both = here("pull", REPO, tmp_path / "back")
    assert (
        both.code == 2 and "holds an adapter and tests-F16.gguf; say which: --adapter, or --gguf QUANT" in both.stderr
    )
    assert here("pull", REPO, tmp_path / "back", "--adapter", "-q").code == 0
    assert not (tmp_path / "back" / "tests-F16.gguf").exists()


@pytest.mark.usefixtures("online")
def test_a_dry_run_shows_what_a_push_sends_to_the_letter(here: Cli, hub: Hub, run: Path) -> None:
    shown = json.loads(here("push", run, REPO, "--dry-run", "--json", "-q").stdout)
    assert not (hub.root / "models" / REPO).exists() and not hub.uploads.received
    assert here("push", run, REPO, "-q").code == 0
    stored = _stored(hub)
    assert stored["README.md"].decode() == shown["card"]
    assert {file["name"]: file["size_bytes"] for file in shown["files"]} == {
        name: len(content) for name, content in stored.items() if name != ".gitattributes"
    }


def test_a_dry_run_needs_neither_a_token_nor_a_network(
    here: Cli, run: Path, hub: Hub, online: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    online(None)
    assert here("push", run, REPO, "--dry-run").code == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.sent)
    outcome = here("push", run, REPO, "--dry-run")
    assert outcome.code == 0 and "me/tests: was not looked at, private; nothing is sent" in outcome.stdout
    assert len(hub.sent) == before


@pytest.mark.usefixtures("online")
def test_what_was_sent_once_is_not_sent_again(here: Cli, hub: Hub, run: Path) -> None:
    assert here("push", run, REPO, "-q").code == 0
    commit, received = hub.commits[REPO], hub.uploads.received
    again = here("push", run, REPO, "--json", "-q")
    assert again.code == 0, again.stderr
    found = json.loads(again.stdout)
    assert found["commit"] == commit and found["unchanged"] and hub.uploads.received == received


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("multipart", [False, True])
def test_a_push_that_broke_off_leaves_nothing_and_goes_on(
    here: Cli, hub: Hub, run: Path, multipart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.uploads.multipart = multipart
    monkeypatch.setattr("tests.loopback_uploads.PART_BYTES", 100_000)
    hub.uploads.fail = lambda command, parts: (400, {}, b"{}") if "commit" in parts else None
    outcome = here("push", run, REPO, "-q")
    assert outcome.code == 1 and f"error: {REPO}: the hub refuses it (400" in outcome.stderr
    assert set(_stored(hub)) == {".gitattributes"}
    received = hub.uploads.received
    hub.uploads.fail = lambda command, parts: None
    assert here("push", run, REPO, "-q").code == 0
    assert hub.uploads.received == received, "large files were sent a second time"
    assert gguf_export.sha256_of(run / "export" / "demo-F16.gguf") == gguf_export.sha256_of(
        hub.root / "models" / REPO / "tests-F16.gguf"
    )


@pytest.mark.usefixtures("online")
def test_a_second_quantization_joins_the_first(here: Cli, hub: Hub, tiny_llama: Path, tmp_path: Path) -> None:
    for quant in ("F16", "Q8_0"):
        gguf_export.export(tiny_llama, None, tmp_path / f"m-{quant}.gguf", quant=quant)
        assert here("push", f"m-{quant}.gguf", REPO, "--base", "Qwen/Qwen3-0.6B", "-q").code == 0
    assert {"tests-F16.gguf", "tests-Q8_0.gguf"} <= set(_stored(hub))
    assert "as GGUF (Q8_0, F16)" in _stored(hub)["README.md"].decode()
    either = here("pull", REPO, tmp_path / "back")
    assert either.code == 2 and "which file? (it has: tests-F16.gguf, tests-Q8_0.gguf)" in either.stderr


@pytest.mark.usefixtures("online")
def test_a_damaged_download_is_told_and_removed(here: Cli, hub: Hub, tiny_gguf: Path, tmp_path: Path) -> None:
    assert here("push", tiny_gguf, REPO, "--base", "Qwen/Qwen3-0.6B", "-q").code == 0
    hub.damaged.add("tests-F16.gguf")
    outcome = here("pull", REPO, tmp_path / "back", "-q")
    assert outcome.code == 2 and "is not what the hub says that it holds (SHA-256 " in outcome.stderr
    assert not (tmp_path / "back" / "tests-F16.gguf").exists()
    hub.damaged.clear()
    assert here("pull", REPO, tmp_path / "back", "-q").code == 0


@pytest.mark.usefixtures("online")
def test_a_pull_puts_nothing_over_other_files(here: Cli, adapter: Path, tmp_path: Path) -> None:
    for repo in (REPO, "me/others"):
        assert here("push", adapter, repo, "-q").code == 0
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "adapter_config.json").write_text("mine", encoding="utf-8")
    outcome = here("pull", REPO, "back")
    assert outcome.code == 2 and "back: holds adapter_config.json already, not from me/tests" in outcome.stderr
    (tmp_path / "back" / "adapter_config.json").unlink()
    assert here("pull", REPO, "back").code == 0 and here("pull", REPO, "back").code == 0
    outcome = here("pull", "me/others", "back")
    assert outcome.code == 2 and "back: holds me/tests; give another folder" in outcome.stderr


def _theirs(hub: Hub, name: str, **files: str) -> None:
    folder = hub.root / "models" / name
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file.replace("__", ".")).write_text(content, encoding="utf-8")


@pytest.mark.usefixtures("online")
def test_what_others_have_put_there_stays(here: Cli, hub: Hub, adapter: Path) -> None:
    _theirs(hub, REPO, config__json="{}", README__md="# Mine\n")
    hub.private.add(REPO)
    outcome = here("push", adapter, REPO)
    assert outcome.code == 2 and "holds something that was not pushed from here (config.json)" in outcome.stderr
    assert _stored(hub)["README.md"] == b"# Mine\n"
    assert here("push", adapter, REPO, "--force", "-q").code == 0
    assert _stored(hub)["config.json"] == b"{}"


@pytest.mark.usefixtures("online")
def test_a_repository_that_was_made_on_the_web_page_is_empty(here: Cli, hub: Hub, adapter: Path) -> None:
    _theirs(hub, REPO, README__md="---\nlicense: mit\n---\n", __gitattributes="")
    hub.private.add(REPO)
    assert here("push", adapter, REPO, "-q").code == 0


@pytest.mark.usefixtures("online")
def test_a_card_that_was_edited_is_kept_on_request(here: Cli, hub: Hub, adapter: Path) -> None:
    assert here("push", adapter, REPO, "-q").code == 0
    card = hub.root / "models" / REPO / "README.md"
    edited = card.read_text(encoding="utf-8").replace("# tests", "# My own words")
    card.write_text(edited, encoding="utf-8")
    hub.commits[REPO] = "e" * 40  # an edit on the hub is a commit
    outcome = here("push", adapter, REPO)
    assert outcome.code == 2 and "its card was edited on the hub; add --keep-card" in outcome.stderr
    assert here("push", adapter, REPO, "--keep-card", "-q").code == 0
    assert card.read_text(encoding="utf-8") == edited
    assert here("push", adapter, REPO, "--force", "-q").code == 0
    assert "My own words" not in card.read_text(encoding="utf-8")


@pytest.mark.usefixtures("online")
def test_nothing_becomes_public_unasked(here: Cli, hub: Hub, adapter: Path) -> None:
    _theirs(hub, REPO, __gitattributes="")
    outcome = here("push", adapter, REPO)
    assert outcome.code == 2 and "everybody can read it; add --public if that is meant" in outcome.stderr
    unknown = here("push", adapter, REPO, "--public")
    assert unknown.code == 2 and "alone: does not say what it was trained on, and a model can repeat" in unknown.stderr
    assert here("push", adapter, REPO, "--public", "--own-data", "-q").code == 0
    assert here("push", adapter, "me/new", "--public", "--own-data", "-q").code == 0 and "me/new" not in hub.private


def test_errors_of_the_token_say_what_to_do(here: Cli, hub: Hub, adapter: Path, online: Callable[..., object]) -> None:
    online(None)
    none = here("push", adapter, REPO)
    assert none.code == 2 and "no token, and a push needs one that may write" in none.stderr
    online(READ)
    reader = here("push", adapter, REPO)
    assert reader.code == 2 and "the token may not write to me (403: you need write access" in reader.stderr
    online("hf_wrongTokenOfSomebody")
    wrong = here("push", adapter, REPO)
    assert wrong.code == 2 and "the hub does not take this token (401)" in wrong.stderr
    online(WRITE)
    elsewhere = here("push", adapter, "others/tests")
    assert elsewhere.code == 2 and "the token may not write to others (403" in elsewhere.stderr
    assert not list((hub.root / "models").rglob("*.safetensors"))


@pytest.mark.usefixtures("online")
def test_a_change_in_between_is_not_overwritten(here: Cli, hub: Hub, adapter: Path) -> None:
    assert here("push", adapter, REPO, "-q").code == 0
    (adapter / "tokenizer_config.json").write_text("{}", encoding="utf-8")

    def somebody_else(command: str, parts: list[str]) -> None:
        if "preupload" in parts:
            hub.commits[REPO] = "f" * 40

    hub.uploads.fail = somebody_else
    outcome = here("push", adapter, REPO)
    assert outcome.code == 1 and "was changed by somebody else meanwhile (412)" in outcome.stderr


@pytest.mark.usefixtures("online")
def test_faults_of_the_hub_and_of_the_network(
    here: Cli, hub: Hub, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    assert here("push", adapter, REPO, "-q").code == 0
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    for command in (("push", adapter, REPO), ("pull", REPO, tmp_path / "back")):
        outcome = here(*command)
        assert outcome.code == 3 and f"{REPO}: the hub cannot be reached (" in outcome.stderr
        assert "Traceback" not in outcome.stderr
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = here("push", adapter, REPO)
    assert offline.code == 3 and "HF_HUB_OFFLINE is set, and a push needs the hub" in offline.stderr
    offline = here("pull", REPO, tmp_path / "back")
    assert offline.code == 3 and f"{REPO}: HF_HUB_OFFLINE is set; unset it" in offline.stderr


@pytest.mark.usefixtures("online")
def test_a_fault_while_a_large_file_is_sent(here: Cli, hub: Hub, adapter: Path) -> None:
    hub.uploads.fail = lambda command, parts: (403, {}, b"<Error>expired</Error>") if parts[0] == "blobs" else None
    outcome = here("push", adapter, REPO)
    assert outcome.code == 2 and f"error: {REPO}: " in outcome.stderr
    assert "X-Amz-Signature" not in outcome.stderr


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("nowhere", REPO), "nowhere: no such file or folder; give a run, an adapter's folder, or a GGUF"),
        (("hub-root", REPO), "hub-root: is no run and no adapter"),
        (("alone", "tests"), "tests: names no owner; give OWNER/NAME"),
        (("alone", "me/a b"), "me/a b: is no name of a repository; give OWNER/NAME"),
        (("alone", REPO, "--gguf"), "--gguf: chooses between the parts of a run"),
        (("alone", REPO, "--licence", "my own words"), "--licence: no id of a licence (got 'my own words')"),
        (("alone", REPO, "--adapter-repo", "me/a"), "--adapter-repo: is for a GGUF alone"),
    ],
)
def test_misuse_of_push(here: Cli, adapter: Path, arguments: tuple[str, ...], problem: str) -> None:
    assert adapter.is_dir()
    outcome = here("push", *arguments)
    assert outcome.code == 2 and outcome.stderr.startswith(f"error: {problem}")


@pytest.mark.usefixtures("online")
def test_misuse_of_pull(here: Cli, hub: Hub, adapter: Path, tmp_path: Path) -> None:
    assert here("push", adapter, REPO, "-q").code == 0
    _theirs(hub, "me/whole", config__json="{}", model__safetensors="x")
    _theirs(hub, "me/pickled", adapter_config__json="{}", adapter_model__bin="x")
    for arguments, problem in (
        (("me/nothing", "d"), "me/nothing: no such repository on the hub, or a private one; check the name"),
        (("nothing", "d"), "nothing: names no owner; give OWNER/NAME"),
        ((f"{REPO}@v9", "d"), f"{REPO}@v9: has no such revision; give a branch, a tag or a commit after @"),
        ((REPO, "d", "--gguf", "Q4_K_M"), f"{REPO}: holds neither an adapter (adapter_config.json) nor a GGUF"),
        (("me/whole", "d", "--adapter"), "me/whole: is a whole model and no adapter"),
        (("me/pickled", "d"), "me/pickled: has only adapter_model.bin, which can run code when read"),
    ):
        outcome = here("pull", *arguments)
        assert outcome.code == 2 and outcome.stderr.startswith(f"error: {problem}"), outcome.stderr
    assert not (tmp_path / "d").exists()
    assert here("pull", f"{REPO}@{hub.commits[REPO]}", "d", "-q").code == 0
