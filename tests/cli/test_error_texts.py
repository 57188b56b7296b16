"""Every error, made to happen: its whole text, its exit code, and the section of the docs that it names."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

import gguf_export
import gguf_export.__main__
import gguf_export.errors
import gguf_export.files
import lowvram_ft.cli
import lowvram_ft.errors
from gguf_export import Check, Verification
from lowvram_ft.errors import EXPLAINED_AT, LowvramError, cannot_write

PAGE = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
BAD = Verification((Check("values", False, "not finite"),), "standalone", {})
Patch = pytest.MonkeyPatch


def gave_no_answer(patch: Patch) -> None:
    from lowvram_ft.testgen.targets.git import ask

    def never(*_: object, **__: object) -> NoReturn:
        raise subprocess.TimeoutExpired("git", 120)

    patch.setattr(subprocess, "run", never)
    ask(Path(), "status")


def diverges(patch: Patch) -> None:
    from lowvram_ft.training.reporting.callbacks import Report

    report = Report("functions", SimpleNamespace(), lambda *_, **__: None)  # type: ignore[arg-type]
    report.on_log(None, SimpleNamespace(global_step=7), None, {"loss": float("nan")})


def has_no_server(patch: Patch) -> None:
    from lowvram_ft.inference.chat_client import ChatClient
    from lowvram_ft.inference.endpoint import parse_endpoint
    from lowvram_ft.inference.retrying import Policy

    client = ChatClient(parse_endpoint("http://localhost:11434"), None, Policy())
    raise client._unreachable(ConnectionRefusedError("Connection refused"))


def asks_too_much(patch: Patch) -> None:
    from lowvram_ft.inference.llama import LlamaCpp
    from lowvram_ft.inference.protocol import Sampling

    model = LlamaCpp.__new__(LlamaCpp)
    model.n_ctx = 4096
    model.generate_from_ids([[1] * 3900], Sampling(max_new_tokens=384))


def exports_what_fails(patch: Patch) -> None:
    import lowvram_ft.export as module

    Path("out").mkdir()
    Path("out/model.gguf").write_bytes(b"GGUF")
    patch.setattr(module, "from_folder", lambda _: SimpleNamespace(template=""))
    patch.setattr(gguf_export, "linked_bytes", lambda _: 1)
    patch.setattr(gguf_export, "verify", lambda *_, **__: BAD)
    section = module.section_from(quant="Q8_0")
    quiet = SimpleNamespace(say=lambda _: None)
    module.verify_model(Path("out/model.gguf"), Path("base"), None, section, None, quiet)  # type: ignore[arg-type]


def misses_a_gate(patch: Patch) -> None:
    import lowvram_ft.pipeline.run as module

    for step in ("choose_sandbox", "export_base", "export", "bench", "evaluate", "compare"):
        patch.setattr(module, step, lambda *_: {"gguf": "model.gguf"})
    patch.setattr(module, "train_stages", lambda _: [(None, None)])
    patch.setattr(module, "steps_of", lambda _: ("gates",))
    missed = {"gate": "gate_pass_rate", "suite": "samples", "value": 0.25, "wanted": 0.8, "met": False}
    job: Any = SimpleNamespace(
        resolved=SimpleNamespace(final=SimpleNamespace(eval=SimpleNamespace(after_each_stage=False)), stages=[None]),
        at_work=nullcontext,
        announce=lambda _: None,
        plan=lambda: None,
        ranks=SimpleNamespace(leads=True),
        step=lambda *_: {"gates": [missed]},
        run=SimpleNamespace(path="runs/mine"),
    )
    module.run_all(job, enforce_gates=True)


def names_no_suite(patch: Patch) -> None:
    from lowvram_ft.evaluation.suites import load_suite

    load_suite("humanevil")


def is_misspelt(patch: Patch) -> None:
    from lowvram_ft.recipe import load

    Path("mine.toml").write_text("schema_version = 1\n[train]\nlearnin_rate = 1e-4\n")
    load("mine.toml")


def has_no_rows(patch: Patch) -> None:
    from lowvram_ft.data.jsonl import require_file

    require_file(Path("rows.jsonl"))


def names_no_model(patch: Patch) -> None:
    from lowvram_ft.models import resolve

    resolve("my-model")


def is_no_run(patch: Patch) -> None:
    from lowvram_ft.report.table import report

    report(Path("runs/none"))


def fills_the_disk(patch: Patch) -> None:
    raise cannot_write("out/run.json", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def lacks_an_extra(patch: Patch) -> None:
    from lowvram_ft.evaluation.suites import load_suite

    patch.setattr("importlib.util.find_spec", lambda *_: None)
    load_suite("humaneval")


def is_given_a_folder(patch: Patch) -> None:
    Path("out").mkdir()
    gguf_export.files.prepare_output(Path("out"))


def asks_for_another_type(patch: Patch) -> None:
    from gguf_export.quantizers.block_quantizers import row_quantizer

    row_quantizer("Q3_K_S")


def has_no_imatrix(patch: Patch) -> None:
    from gguf_export.quantizers.imatrix import Imatrix

    Imatrix.load(Path("model.imatrix"))


def has_no_network(patch: Patch) -> None:
    from gguf_export.checkpoints import fetching

    def refused(*_: object) -> NoReturn:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    patch.setattr(fetching.Fetcher, "_ask", refused)
    patch.setattr(fetching.time, "sleep", lambda _: None)
    fetching.Fetcher("http://127.0.0.1:9", None).whole("http://127.0.0.1:9/config.json", "config")


def finds_no_room(patch: Patch) -> None:
    patch.setattr(gguf_export.files.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 1 << 20))
    gguf_export.files.require_free_space(Path("out"), 4 << 30)


def finds_no_memory(patch: Patch) -> None:
    patch.setattr(gguf_export.files, "available_memory", lambda: 1 << 30)
    gguf_export.files.require_free_memory(4 << 30)


def lacks_llama_cpp(patch: Patch) -> None:
    patch.setattr("importlib.util.find_spec", lambda *_: None)
    gguf_export.require_llama_cpp("verification")


def fails_alone(patch: Patch) -> None:
    def exports(_base: Path, _adapter: None, out: Path, **_: object) -> SimpleNamespace:
        out.write_bytes(b"GGUF")
        return SimpleNamespace(sha256="", chat_template="", eos_token="")

    patch.setattr(gguf_export.__main__, "export", exports)
    patch.setattr(gguf_export.__main__, "verify", lambda *_, **__: BAD)
    patch.setattr(gguf_export.__main__, "_report", lambda *_: {})
    trained = SimpleNamespace(template="", end_token=None)
    patch.setattr(gguf_export.__main__, "_trained", lambda _: trained)
    gguf_export.__main__._run(gguf_export.__main__._parser().parse_args(["base", "m.gguf"]))


CASES: dict[str, Callable[[Patch], None]] = {
    "LowvramError": gave_no_answer, "TrainingError": diverges, "GenerationError": has_no_server,
    "PromptTooLong": asks_too_much, "ExportRejected": exports_what_fails, "GateMissed": misses_a_gate,
    "UsageError": names_no_suite, "RecipeError": is_misspelt, "DataError": has_no_rows, "ModelError": names_no_model,
    "RunDirectoryError": is_no_run, "MachineError": fills_the_disk, "MissingExtraError": lacks_an_extra,
    "ExportError": is_given_a_folder, "UnsupportedError": asks_for_another_type, "BrokenFileError": has_no_imatrix,
    "DownloadError": has_no_network, "DiskSpaceError": finds_no_room, "HostMemoryError": finds_no_memory,
    "MissingLibraryError": lacks_llama_cpp, "VerificationFailed": fails_alone,
}  # fmt: skip


def sections() -> dict[str, str]:
    """Heading of a section to its text."""
    parts = re.split(r"(?m)^### (\w+)\n", PAGE.read_text(encoding="utf-8"))
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def every_class() -> dict[str, type[Exception]]:
    found = {**vars(lowvram_ft.errors), **vars(gguf_export.errors)}
    return {
        name: kind
        for name, kind in found.items()
        if isinstance(kind, type) and issubclass(kind, LowvramError | gguf_export.ExportError)
    }


def test_every_error_has_a_case_and_a_section_with_an_example() -> None:
    assert CASES.keys() == every_class().keys() == sections().keys()


@pytest.mark.parametrize("name", CASES)
def test_its_text_is_that_of_the_docs(
    name: str, tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    raised: list[Exception] = []

    def happens(**_: object) -> None:
        try:
            with monkeypatch.context() as patch:
                CASES[name](patch)
        except Exception as error:
            raised.append(error)
            raise

    monkeypatch.setattr(lowvram_ft.cli.cli, "main", happens)
    with pytest.raises(SystemExit) as ended:
        lowvram_ft.cli.main()
    example = re.search(r"```text\n(.*?)```", sections()[name], re.DOTALL)
    assert example is not None
    said = capsys.readouterr()
    assert said.err == f"{example[1]}see {EXPLAINED_AT}#{name.lower()}\n"
    assert said.out == ""
    assert type(raised[0]) is every_class()[name]
    assert ended.value.code == every_class()[name].exit_code  # type: ignore[attr-defined]


def test_the_exporter_by_itself_names_the_same_page(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert gguf_export.errors.EXPLAINED_AT == EXPLAINED_AT
    assert gguf_export.__main__.main([str(tmp_path / "none"), str(tmp_path / "m.gguf")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"see {EXPLAINED_AT}#brokenfileerror"


def test_no_class_of_an_error_stands_elsewhere() -> None:
    """A class that is defined beside its code would name an anchor that is not there."""
    for package in ("lowvram_ft", "gguf_export"):
        for path in (PAGE.parents[1] / package).rglob("*.py"):
            if path.name != "errors.py":
                bases = re.findall(r"(?m)^class \w+\(.*?(\w+)\)", path.read_text(encoding="utf-8"))
                assert not set(bases) & every_class().keys(), path
