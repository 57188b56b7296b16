"""A base model with its adapter as a generation back end, held against transformers' own ``generate``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lowvram_ft import TestWriter
from lowvram_ft.errors import GenerationError, ModelError, PromptTooLong
from lowvram_ft.inference import Sampling
from lowvram_ft.inference.adapter import AdapterModel
from lowvram_ft.rendering import from_folder
from lowvram_ft.training.answering import Answerer, sources_of
from lowvram_ft.training.engines.reference import keep_weights_unpacked
from tests.gguf_models import make_adapter
from tests.tiny_runs import ONE_THREAD, run_json

PROMPTS = ["def add(a, b):\n    return a + b\n", "half of 7?", "class Stack:\n    pass\n" * 9, "Grüße, naïve 🙂"]
GREEDY = Sampling(max_new_tokens=24)
WIDE = {"r": 8, "lora_alpha": 64}
"""So much of an adapter that it changes the answers of a random model."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ONE_THREAD.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def llama_adapter(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tiny_llama, tmp_path_factory.mktemp("adapters") / "llama", **WIDE)


@pytest.fixture(scope="module")
def qwen2_adapter(tiny_qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tiny_qwen2, tmp_path_factory.mktemp("adapters") / "qwen2", **WIDE)


@pytest.fixture(scope="module")
def child(llama_adapter: Path) -> Iterator[AdapterModel]:
    model = AdapterModel(llama_adapter, n_ctx=512, dtype="float32")
    yield model
    model.close()


def generated(model: Any, base: Path, max_new_tokens: int = GREEDY.max_new_tokens) -> list[tuple[str, str]]:
    """What transformers' ``generate`` answers, a prompt at a time, without padding."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    chat = from_folder(base)
    ends = [tokenizer.convert_tokens_to_ids(name) for name in ("<|im_end|>", "<|endoftext|>")]
    found = []
    for prompt in PROMPTS:
        ids = torch.tensor([chat.render(prompt).input_ids])
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=ends,
                pad_token_id=0,
            )
        answer = out[0, ids.shape[1] :].tolist()
        stopped = answer[-1] in ends
        found.append((tokenizer.decode(answer[:-1] if stopped else answer), "stop" if stopped else "length"))
    return found


def merged(base: Path, *adapters: Path) -> Any:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return model.eval()


def texts(rows: Sequence[Sequence[Any]]) -> list[tuple[str, str]]:
    return [(row[0].text, row[0].finish) for row in rows]


def test_greedy_answers_are_those_of_the_merged_model(
    child: AdapterModel, tiny_llama: Path, llama_adapter: Path
) -> None:
    expected = generated(merged(tiny_llama, llama_adapter), tiny_llama)
    assert len({text for text, _ in expected}) == len(PROMPTS), "answers that are all alike would prove nothing"
    assert expected != generated(merged(tiny_llama), tiny_llama), "nor would an adapter that changes none"
    assert texts(child.generate(PROMPTS, GREEDY)) == expected, "in one batch, padded"
    assert [texts(child.generate([prompt], GREEDY))[0] for prompt in PROMPTS] == expected, "one by one"
    assert texts(child.generate(PROMPTS[::-1] * 3, GREEDY)) == expected[::-1] * 3, "in two batches, in another order"


def test_of_qwen2_too(tiny_qwen2: Path, qwen2_adapter: Path) -> None:
    answerer = Answerer(qwen2_adapter, n_ctx=512, dtype="float32")
    expected = generated(merged(tiny_qwen2, qwen2_adapter), tiny_qwen2)
    assert texts(answerer.answer(PROMPTS, GREEDY, 1)) == expected
    inner = answerer._model.generate

    def generate(**given: Any) -> Any:
        return inner(**{**given, "attention_mask": given["attention_mask"] * 0 + 1})

    answerer._model.generate = generate
    assert texts(answerer.answer(PROMPTS, GREEDY, 1)) != expected, "where padding is read, the check above fails"


def test_counts_and_times_are_told(child: AdapterModel, tiny_llama: Path) -> None:
    assert (child.base, child.n_ctx, child.dtype, child.engine) == (str(tiny_llama), 512, "float32", "reference")
    found = child.generate(PROMPTS[:2], GREEDY)
    chat = from_folder(tiny_llama)
    assert [row[0].n_prompt_tokens for row in found] == [len(chat.render(prompt).input_ids) for prompt in PROMPTS[:2]]
    assert all(row[0].n_tokens == 24 for row in found if row[0].finish == "length")
    assert all(0 < row[0].first_token_s < row[0].seconds for row in found)
    assert child.generate([], GREEDY) == []


def test_a_sample_depends_on_the_seed_its_prompt_and_its_number_alone(child: AdapterModel) -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=12, seed=3)
    rows = child.generate(PROMPTS, sampling, 3)
    assert len({answer.text for answer in rows[0]}) == 3
    assert texts(child.generate(PROMPTS[:1], sampling)) == texts(rows)[:1], "whatever else is in the batch"
    other = Sampling(temperature=1.0, max_new_tokens=12, seed=4)
    assert texts(child.generate(PROMPTS[:1], other)) != texts(rows)[:1]


def test_a_prompt_that_is_too_long_is_told_and_the_next_is_answered(child: AdapterModel) -> None:
    with pytest.raises(
        PromptTooLong, match=r"prompt 2: has \d+ tokens, and 24 more are to follow \(the context is 512\)"
    ):
        child.generate(["short", "def f(): pass\n" * 200], GREEDY)
    assert len(child.generate(["short"], GREEDY)) == 1


def test_the_end_tokens_are_the_formats_and_those_known_by_name(llama_adapter: Path, tiny_llama: Path) -> None:
    answerer = Answerer(llama_adapter, n_ctx=512, dtype="float32")
    encode = from_folder(tiny_llama).encode
    assert answerer._ends == {encode("<|im_end|>")[0], encode("<|endoftext|>")[0]}
    inner, outputs = answerer._model.generate, []

    def generate(**given: Any) -> Any:
        outputs.append(inner(**given))
        return outputs[-1]

    answerer._model.generate = generate
    whole = answerer.answer(PROMPTS[:1], GREEDY, 1)[0][0]
    tokens = outputs[0][0, -whole.n_tokens :].tolist()
    answerer._ends = frozenset({tokens[4]})
    answerer._settle()
    cut = answerer.answer(PROMPTS, GREEDY, 1)[0][0]
    assert (cut.finish, cut.n_tokens) == ("stop", tokens.index(tokens[4]) + 1)
    assert whole.text.startswith(cut.text) and len(cut.text) < len(whole.text)


def test_where_memory_runs_out_fewer_are_answered_at_a_time(llama_adapter: Path) -> None:
    answerer = Answerer(llama_adapter, n_ctx=512, dtype="float32")
    expected = texts(answerer.answer(PROMPTS, GREEDY, 1))
    inner, sizes, most = answerer._model.generate, [], 1

    def generate(**given: Any) -> Any:
        sizes.append(len(given["input_ids"]))
        if sizes[-1] > most:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return inner(**given)

    answerer._model.generate = generate
    assert texts(answerer.answer(PROMPTS, GREEDY, 1)) == expected
    assert sizes == [4, 2, 1, 1, 1, 1]
    most = 0
    with pytest.raises(GenerationError, match=r"out of memory over a prompt of \d+ tokens; shorten the code"):
        answerer.answer(PROMPTS, GREEDY, 1)


def test_an_adapter_of_an_adapter_is_put_on_the_first_one(
    tiny_llama: Path, llama_adapter: Path, tmp_path: Path
) -> None:
    second = make_adapter(tiny_llama, tmp_path / "second", seed=7, **WIDE)
    set_base(second, str(llama_adapter))
    assert sources_of(second).chain == (llama_adapter, second)
    expected = generated(merged(tiny_llama, llama_adapter, second), tiny_llama)
    assert expected != generated(merged(tiny_llama, second), tiny_llama)
    assert texts(Answerer(second, n_ctx=512, dtype="float32").answer(PROMPTS, GREEDY, 1)) == expected
    set_base(second, str(second))
    with pytest.raises(ModelError, match="is its own base model"):
        sources_of(second)


def set_base(adapter: Path, base: str) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": base}))


def in_a_run(adapter: Path, run: Path, base: str, load_in_4bit: bool) -> Path:
    """A copy of an adapter where a run keeps it, with as much of the run's record as is read."""
    stage = {"name": "first", "recipe": {"model": {"base": base}, "quantization": {"load_in_4bit": load_in_4bit}}}
    folder = run / "stages" / "first" / "adapter"
    shutil.copytree(adapter, folder)
    (run / "run.json").write_text(json.dumps({"recipe": {"stages": [stage]}}))
    return folder


def test_in_4_bits_it_is_the_adapter_beside_the_quantized_base(
    tiny_llama: Path, llama_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    adapter = in_a_run(llama_adapter, tmp_path / "run", str(tiny_llama), load_in_4bit=True)
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32, quantization_config=nf4)
    keep_weights_unpacked(base)
    expected = generated(PeftModel.from_pretrained(base, str(adapter)).eval(), tiny_llama)
    assert expected != generated(merged(tiny_llama, llama_adapter), tiny_llama), "4 bits change the answers"
    assert texts(Answerer(adapter, n_ctx=512, dtype="float32").answer(PROMPTS, GREEDY, 1)) == expected
    monkeypatch.setattr("lowvram_ft.training.engines.reference._fits_in_float32", lambda model: False)
    assert texts(Answerer(adapter, n_ctx=512, dtype="float32").answer(PROMPTS, GREEDY, 1)) == expected, "kept in 4 bits"


def test_the_base_is_found_where_the_path_of_training_is_gone(
    tiny_llama: Path, llama_adapter: Path, tmp_path: Path
) -> None:
    adapter = in_a_run(llama_adapter, tmp_path / "run", str(tiny_llama), load_in_4bit=False)
    for named, expected in (
        (str(tiny_llama), str(tiny_llama)),
        ("/gone/from/here", str(tiny_llama)),
        ("/gone/.cache/lowvram-ft/models/smollm2-135m-v1", "smollm2-135m"),
        ("/gone/hub/models--Qwen--Qwen2.5-Coder-0.5B-Instruct/snapshots/ab12", "Qwen/Qwen2.5-Coder-0.5B-Instruct"),
    ):
        set_base(adapter, named)
        assert sources_of(adapter).base.id == expected
    (tmp_path / "run" / "run.json").unlink()
    set_base(adapter, "Qwen/Qwen2.5-Coder-0.5B-Instruct")
    assert sources_of(adapter).base.id == "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    assert sources_of(adapter).quantization.load_in_4bit is False


def test_an_error_of_the_child_is_raised_here(llama_adapter: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(llama_adapter, adapter)
    set_base(adapter, "/gone/from/here")
    with pytest.raises(ModelError, match=r"its base model is not here \(/gone/from/here\); put it there"):
        AdapterModel(adapter)


def test_a_child_that_dies_leaves_its_last_words(
    llama_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "lowvram_ft.inference.adapter._BOOTSTRAP", "import sys; print('no such kernel', file=sys.stderr); sys.exit(7)"
    )
    with pytest.raises(GenerationError, match=r"ended with 7 \(no such kernel\)"):
        AdapterModel(llama_adapter)
    monkeypatch.setattr("lowvram_ft.inference.adapter._BOOTSTRAP", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(GenerationError, match="was killed, most often by the system for want of memory"):
        AdapterModel(llama_adapter)


STANDING_IN = """
import json, sys
sys.stdin.readline()
print(json.dumps({"base": "b", "n_ctx": 9, "dtype": "float32", "engine": "reference"}), flush=True)
import threading
threading.Event().wait()
"""


def test_ctrl_c_ends_the_child(llama_adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowvram_ft.inference.adapter._BOOTSTRAP", STANDING_IN)
    model = AdapterModel(llama_adapter)

    class Interrupted:
        def readline(self) -> bytes:
            raise KeyboardInterrupt

        def close(self) -> None:
            pass

    monkeypatch.setattr(model._process, "stdout", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        model.generate(PROMPTS, GREEDY)
    assert model._process.poll() is not None
    with pytest.raises(GenerationError, match="is closed"):
        model.generate(PROMPTS, GREEDY)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks the child up in /proc")
def test_the_child_ends_with_a_parent_that_is_killed_in_the_middle_of_an_answer(llama_adapter: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from lowvram_ft.inference import Sampling
from lowvram_ft.inference.adapter import AdapterModel
model = AdapterModel(Path({str(llama_adapter)!r}), n_ctx=2048)
print(model.process_id, flush=True)
model.generate(["x"] * 999, Sampling(temperature=2.0, max_new_tokens=1500))
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert is_running(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(600):
        if not is_running(pid):
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("goes on without its parent")


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def test_eval_takes_an_adapter(llama_adapter: Path, tmp_path: Path, own_cache: Path) -> None:
    found = run_json(
        "eval", llama_adapter, "--max-tasks", 1, "--max-new-tokens", 16, "--n-ctx", 2048, "--out", tmp_path / "out"
    )
    assert found["suites"]["samples"]["tasks"] == 1
    record = json.loads((tmp_path / "out" / "samples.jsonl").read_text().splitlines()[0])
    assert str(llama_adapter) in record["step"]


def test_test_writer_takes_an_adapter(
    child: AdapterModel, llama_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[Path, int]] = []

    def stand_in(folder: Path, *, n_ctx: int) -> AdapterModel:
        opened.append((folder, n_ctx))
        return child

    monkeypatch.setattr("lowvram_ft.inference.adapter.AdapterModel", stand_in)
    writer = TestWriter(llama_adapter, max_new_tokens=16, n_ctx=512)
    assert opened == [(llama_adapter, 512)]
    assert writer.name == "llama"
    assert writer.write("def half(n):\n    return n // 2\n")
