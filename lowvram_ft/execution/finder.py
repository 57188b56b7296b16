"""Make a row's code importable: under its own name, as ``solution``, and beside the rest of its package."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from pathlib import Path

from lowvram_ft.execution.modules import SOLUTION


def module_file(folder: Path, name: str, names: Sequence[str]) -> Path:
    """Where the text of module ``name`` lies under ``folder`` when ``names`` are all that lie there."""
    stem = folder.joinpath(*name.split("."))
    is_package = any(other.startswith(f"{name}.") for other in names)
    return stem / "__init__.py" if is_package else stem.with_name(f"{stem.name}.py")


class SourceFinder(MetaPathFinder, Loader):
    """Import hook that serves the given texts before anything on ``sys.path``.

    Args:
        texts: module texts by name, the one under test first; it is importable as ``solution`` too and is
            the same module object under both names.
        folder: where the same texts lie as files, for tracebacks and coverage.
        root: folder on ``sys.path`` that holds the rest of the package, or None. Without it, packages
            that ``texts`` only imply are made on the fly.
    """

    def __init__(self, texts: Mapping[str, str], folder: Path, root: Path | None) -> None:
        self.target = next(iter(texts))
        self.root = root
        self.texts = dict(texts)
        self.files = {name: module_file(folder, name, tuple(texts)) for name in texts}
        self._mutated: types.CodeType | None = None
        self.prepared: dict[str, types.CodeType] = {}
        self.packages = {
            name.rsplit(".", depth)[0] for name in texts for depth in range(1, name.count(".") + 1)
        } - texts.keys()

    def prepare(self, files: Mapping[str, str]) -> None:
        """Serve files of the current folder from memory too, compiled once and with plain assertions.

        Args:
            files: texts by their names, such as ``conftest.py``.
        """
        for name, text in files.items():
            self.prepared[name.removesuffix(".py")] = compile(text, name, "exec", dont_inherit=True)

    def mutate(self, code: types.CodeType, text: str) -> None:
        """Serve a mutant of the module under test, and nothing of the module as it was: no test can compare the two.

        Args:
            code: what the mutant compiles to.
            text: of the mutant.
        """
        self._mutated = code
        self.texts[self.target] = text

    def install(self) -> None:
        """Serve the texts from here on; forget what was imported under their names."""
        if self.root is not None:
            sys.path.insert(0, str(self.root))
        sys.meta_path.insert(0, self)
        for name in (SOLUTION, *self.texts):
            sys.modules.pop(name, None)

    @property
    def target_file(self) -> Path:
        """File of the module under test."""
        return self.files[self.target]

    def shown_file(self, name: str) -> Path:
        """The user's own file where there is one, so that data files beside it are found."""
        if self.root is not None:
            stem = self.root.joinpath(*name.split("."))
            for file in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")):
                if file.is_file():
                    return file
        return self.files[name]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Specs for the served modules, ``solution`` and implied packages; None for all others."""
        del path, target
        if fullname in self.texts:
            file = self.shown_file(fullname)
            spec = importlib.util.spec_from_file_location(fullname, file, loader=self)
            if spec is not None and file.name == "__init__.py":
                spec.submodule_search_locations = [str(file.parent)]
            return spec
        if fullname == SOLUTION:
            return importlib.machinery.ModuleSpec(fullname, self)
        if fullname in self.prepared:
            return importlib.util.spec_from_file_location(fullname, Path.cwd() / f"{fullname}.py", loader=self)
        if fullname in self.packages and not self._exists_in_root(fullname):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        """Run the text of ``module`` in it, or put the module under test in its place."""
        name = module.__name__
        if name in self.texts:
            exec(self._compiled(name), module.__dict__)
        elif name in self.prepared:
            exec(self.prepared[name], module.__dict__)
        elif name == SOLUTION:
            sys.modules[name] = importlib.import_module(self.target)

    def get_source(self, fullname: str) -> str | None:
        """Text of a served module, for linecache."""
        return self.texts.get(fullname)

    def _compiled(self, name: str) -> types.CodeType:
        if name == self.target and self._mutated is not None:
            mutated, self._mutated = self._mutated, None  # what runs later does not find here that it is a mutant
            return mutated
        return compile(self.texts[name], str(self.files[name]), "exec", dont_inherit=True)

    def _exists_in_root(self, name: str) -> bool:
        return self.root is not None and self.root.joinpath(*name.split(".")).is_dir()
