"""A model as a function from code to tests, for programs: ``lowvram_ft.TestWriter``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from lowvram_ft.data.row import SOLUTION, build_prompt
from lowvram_ft.inference import Sampling
from lowvram_ft.inference.extraction import extract_test
from lowvram_ft.inference.opening import N_CTX
from lowvram_ft.testgen.model import open_model
from lowvram_ft.testgen.texts.drop import import_real_module


class TestWriter:
    """Writes pytest files for code. It does not run them: ``lowvram-ft testgen`` does.

    Args:
        model: a GGUF, a hub id, or an address (see `lowvram_ft.inference.opening.choose_model`); None for the newest
            export under ``runs/``.
        n_ctx: context in tokens; a server has its own.
        max_new_tokens: most tokens of an answer.
        temperature: 0 is greedy.
        seed: of the sampler.
        n_parallel: of a GGUF, pieces of code at a time in `write_many`; one is fastest for `write`.
        concurrency: of an address, requests at a time; 4 by default.

    Raises:
        UsageError: there is no such model.
        ModelError: it cannot be loaded, or the server does not have it.
        GenerationError: no server answers there.
    """

    __test__ = False

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        n_ctx: int = N_CTX,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
        n_parallel: int = 1,
        concurrency: int | None = None,
    ) -> None:
        self._sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
        self._generator = open_model(model, n_ctx, n_parallel=n_parallel, concurrency=concurrency)

    @property
    def name(self) -> str:
        """What to call the model in reports."""
        return self._generator.name

    def write(self, code: str, module: str = SOLUTION) -> str:
        """Write a test file.

        Args:
            code: the code under test.
            module: the name that the tests import it under.

        Returns:
            A file that parses, or the model's answer as it is where it holds none.

        Raises:
            GenerationError: the code is longer than the context, or the model fails.
        """
        return self.write_many([code], [module])[0]

    def write_many(self, codes: Sequence[str], modules: Sequence[str] | None = None) -> list[str]:
        """Write a test file for each of several pieces of code, side by side where the model can.

        Args:
            codes: the code under test of each.
            modules: the name that each is imported under; ``solution`` for all by default.

        Raises:
            ValueError: there are not as many names as pieces.
            GenerationError: see `write`.
        """
        names = [SOLUTION] * len(codes) if modules is None else list(modules)
        if len(names) != len(codes):
            raise ValueError(f"modules: {len(names)} names for {len(codes)} pieces of code; give one each")
        answers = self._generator.generate([build_prompt(code) for code in codes], self._sampling)
        return [
            import_real_module(extract_test(row[0].text, cut_off=row[0].finish == "length"), name)
            for row, name in zip(answers, names, strict=True)
        ]

    def close(self) -> None:
        """Free the model; the writer cannot be used any more."""
        self._generator.close()

    def __enter__(self) -> TestWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
