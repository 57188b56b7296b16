"""TestGenEval: whole modules of real repositories with their test files. Keyed on ``id``: instance ids repeat."""

from __future__ import annotations

from lowvram_ft.data.row import Row, make_row
from lowvram_ft.data.sources.source import Object, Source, column, digest, parse, pytest_file

_KEPT = ("code_file", "test_file", "repo", "instance_id", "base_commit", "version")


def _rows(value: Object, where: str) -> list[Row]:
    code, test = column(value, where, "code_src"), column(value, where, "test_src")
    file = column(value, where, "code_file")
    module = module_of(file)
    parse(code)
    return [
        make_row(
            id=str(value.get("id") or digest(file, code)),
            group=str(value.get("repo") or "unknown"),
            source="testgeneval",
            code=code,
            test=pytest_file(test, code, module),
            module=module,
            meta={name: value[name] for name in _KEPT if value.get(name)},
        )
    ]


def module_of(file: str) -> str:
    """Import path of a file of a repository; a ``src`` or ``lib`` folder on the way is no package."""
    path = file.removesuffix(".py").removesuffix("/__init__")
    for folder in ("src/", "lib/"):
        path = path.removeprefix(folder)
    return path.replace("/", ".")


SOURCE = Source(
    "testgeneval", "CC-BY-NC-4.0", "code_src, test_src, code_file, test_file, repo, id", "kjain14/testgeneval", _rows
)
