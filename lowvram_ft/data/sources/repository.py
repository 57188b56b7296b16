"""A user's own repository: what ``lowvram-ft data from-repo`` writes, in TestGenEval's shape and three more columns."""

from __future__ import annotations

from lowvram_ft.data.row import Row, make_row
from lowvram_ft.data.sources.source import Object, Source, column, digest, parse
from lowvram_ft.data.sources.testgeneval import module_of

_KEPT = ("code_file", "test_file", "repo", "root", "kind", "names")


def _rows(value: Object, where: str) -> list[Row]:
    code, test = column(value, where, "code_src"), column(value, where, "test_src")
    file = column(value, where, "code_file")
    parse(code)
    parse(test)
    return [
        make_row(
            id=str(value.get("id") or digest(file, code)),
            group=f"{value.get('repo') or 'unknown'}:{file}",
            source="repository",
            code=code,
            test=test,
            module=str(value.get("module") or module_of(file)),
            meta={name: value[name] for name in _KEPT if value.get(name)},
        )
    ]


SOURCE = Source("repository", "the user's own", "code_src, test_src, code_file, module, root, repo, id", None, _rows)
