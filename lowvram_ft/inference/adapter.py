"""A PEFT adapter on its base model, in a process of its own.

llama.cpp runs no such pair, and torch belongs to ``training``, which nothing here may import: a child process,
``lowvram_ft.training.answer_server``, loads the two and answers. So torch's memory and threads stay apart from
llama.cpp's too. Questions and answers are lines of JSON over its standard input and output. It ends with this process,
however that ends: its input is at its end then.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from lowvram_ft.errors import (
    GenerationError,
    LowvramError,
    MachineError,
    ModelError,
    PromptTooLong,
    UsageError,
)
from lowvram_ft.inference.protocol import Completion, Sampling

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
ERRORS: dict[str, type[LowvramError]] = {
    kind.__name__: kind for kind in (PromptTooLong, GenerationError, ModelError, UsageError, MachineError)
}
"""What the child may tell, from the narrowest on."""
_BOOTSTRAP = (
    "import sys; sys.path.append(sys.argv[1]); from lowvram_ft.training.answer_server import main; sys.exit(main())"
)
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_ENDING_S = 10.0


def adapter_folder(folder: Path) -> Path | None:
    """The PEFT folder that is meant: the folder itself, or ``adapter/`` in the folder of a run's stage; else None."""
    return next((each for each in (folder, folder / "adapter") if (each / CONFIG).is_file()), None)


def adapter_name(folder: Path) -> str:
    """What to call an adapter: a run keeps each as ``RUN/stages/STAGE/adapter``."""
    parts = folder.absolute().parts
    if parts[-1] == "adapter" and parts[-3:-2] == ("stages",):
        return f"{parts[-4]}/{parts[-2]}"
    return parts[-2] if parts[-1] == "adapter" else parts[-1]


def adapter_digest(folder: Path) -> str:
    """What tells an adapter from another one: a hash of its weights and settings."""
    digest = hashlib.sha256()
    for name in (CONFIG, *WEIGHTS):
        if (folder / name).is_file():
            digest.update(name.encode())
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


class AdapterModel:
    """A base model with an adapter, as it was trained: in 4 bits where its run says so, else in 16 or 32.

    Args:
        folder: PEFT's, with ``adapter_config.json``; the base model is found through it, or through the run that it
            lies in.
        n_ctx: most tokens of a prompt and its answer; the model's own limit where that is less.
        dtype: to compute in, as PyTorch names it; by default what training takes on this machine.

    Raises:
        ModelError: the adapter is broken, does not fit its base, or the base cannot be found.
        MachineError: memory runs out, or a download fails.
        GenerationError: the child ends.
    """

    def __init__(self, folder: Path, *, n_ctx: int = 4096, dtype: str | None = None) -> None:
        self.name = adapter_name(folder)
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOTSTRAP, str(_PACKAGE_ROOT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,  # Ctrl-C is this process's affair: it ends the child
            )
        except OSError as error:
            self._errors.close()
            raise MachineError(f"{sys.executable}: cannot be started ({error})") from error
        try:
            ready = self._ask({"folder": str(folder), "n_ctx": n_ctx, "dtype": dtype})
        except BaseException:
            self.close()
            raise
        self.base: str = ready["base"]
        self.n_ctx: int = ready["n_ctx"]
        self.dtype: str = ready["dtype"]
        self.engine: str = ready["engine"]

    @property
    def process_id(self) -> int:
        """Of the child."""
        return self._process.pid

    def generate(self, prompts: Sequence[str], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        """Answer prompts; see `lowvram_ft.inference.Generator`.

        Times are those of the batch that an answer was generated in.
        """
        if not prompts:
            return []
        answers = self._ask({"prompts": list(prompts), "sampling": asdict(sampling), "n": n})["answers"]
        return [[Completion(**answer) for answer in row] for row in answers]

    def close(self) -> None:
        """End the child."""
        process = self._process
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        if process.poll() is None:
            process.kill()  # it holds nothing that is not in files
        process.wait()
        self._errors.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Send a line, and wait for the answer to it.

        Raises:
            LowvramError: what the child tells; after it, the child can be asked again.
            GenerationError: it has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._errors.closed:
            raise GenerationError(f"{self.name}: is closed; open it again")
        try:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(question).encode() + b"\n")
                self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BaseException:  # Ctrl-C: nobody waits for this answer any more, and the next one would be taken for it
            self.close()
            raise
        if not line.endswith(b"\n"):
            raise self._lost()
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            kind, message = reply["error"]
            raise ERRORS[kind](message)
        return reply

    def _lost(self) -> GenerationError:
        try:
            code = self._process.wait(timeout=_ENDING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        said = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
        self.close()
        if code == -9:
            return GenerationError(
                f"{self.name}: the process that ran it was killed, most often by the system for want of memory; close "
                "other programs, or make a GGUF of it: lowvram-ft export"
            )
        return GenerationError(f"{self.name}: the process that ran it ended with {code} ({said[:300]}); run it again")
