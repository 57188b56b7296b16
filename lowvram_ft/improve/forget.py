"""Remove what came from a repository: logs, rows, pairs, and the models that learnt from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lowvram_ft.errors import UsageError, cannot_write
from lowvram_ft.improve import registry
from lowvram_ft.improve.attempt import clear, forget_prepared
from lowvram_ft.improve.home import Home
from lowvram_ft.improve.ledger import Ledger
from lowvram_ft.improve.memory import repository_of
from lowvram_ft.improve.work import abandon
from lowvram_ft.inference.in_use import read_in_use, write_in_use
from lowvram_ft.run_dir import write_text
from lowvram_ft.testgen.attempts.log import alone, read_log

Record = dict[str, Any]


def forget(home: Home, repository: str | None, *, dry_run: bool = False) -> dict[str, Any]:
    """Remove what is there of a repository, and what was made from it.

    Models that learnt from it are removed with it; where one of them is in use, the newest one before it that did not
    is put into use. What is made anew when it is needed (judgements, answers to held-out tasks, the attempt under way)
    is removed as a whole.

    Args:
        home: where.
        repository: name or folder; None for all.
        dry_run: remove nothing.

    Returns:
        ``answers``, ``traces`` (how many), ``generations`` (numbers), ``in_use`` (number or None).

    Raises:
        UsageError: nothing is there of it; names what is.
        MachineError: a file cannot be written.
    """

    def meant(record: Record) -> bool:
        return repository is None or _is(record, repository)

    logs = (home.answers, home.traces)
    counts = [sum(meant(record) for record in read_log(path)) for path in logs]
    names = {repository_of(record) for path in logs for record in read_log(path) if meant(record)}
    names |= {repository} if repository is not None else set()
    affected = [
        one.number
        for one in registry.generations(home)
        if (one.facts["repositories"] if repository is None else names & one.facts["repositories"].keys())
    ]
    if repository is not None and not sum(counts) and not affected:
        known = sorted({repository_of(record) for path in logs for record in read_log(path)})
        raise UsageError(f"--forget {repository}: nothing is kept of it; there is: {', '.join(known) or 'nothing'}")
    found = read_in_use(home.root)
    chain = [] if found is None else [n for n in (*found.history, found.generation) if n not in affected]
    now = chain[-1] if chain else None
    report = {"answers": counts[0], "traces": counts[1], "generations": affected, "in_use": now}
    if dry_run:
        return report
    with home.alone():
        abandon(home, "its material was forgotten")
        if found is not None and affected:
            kept = None if now is None else replace(found, generation=now, history=tuple(chain[:-1]))
            write_in_use(home.root, kept)
        for number in affected:
            _remove(registry.generation(home, number).folder)
        for path in logs:
            _rewrite(path, meant)
        for path in (home.judged, home.samples, *([home.consent] if repository is None else [])):
            path.unlink(missing_ok=True)
        forget_prepared(home)
        clear(home)
        _forget_journal(home, meant)
        if affected:
            Ledger(home.ledger).note("forgotten", generations=affected, in_use=now)
    return report


def _is(record: Record, repository: str) -> bool:
    if repository_of(record) == repository:
        return True
    return bool(record.get("root")) and Path(repository).expanduser().resolve() == Path(str(record["root"])).resolve()


def _remove(folder: Path) -> None:
    """Remove a generation so that it is there as a whole or not at all."""
    gone = folder.with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(gone, ignore_errors=True)
        folder.replace(gone)
        shutil.rmtree(gone)
    except OSError as error:
        raise cannot_write(folder, error) from error


def _rewrite(path: Path, meant: Callable[[Record], bool]) -> None:
    """Leave the other records in a log; testgen waits meanwhile."""
    if not path.is_file():
        return
    with alone(path):
        kept = [json.dumps(record, ensure_ascii=False) for record in read_log(path) if not meant(record)]
        text = "".join(line + "\n" for line in kept).encode("utf-8", "backslashreplace").decode()
        write_text(path, text)
        path.chmod(0o600)


def _forget_journal(home: Home, meant: Callable[[Record], bool]) -> None:
    """Results of testgen that are kept for a month."""
    for path in (home.cache / "testgen").glob("*.json"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and meant(record):
            path.unlink(missing_ok=True)
