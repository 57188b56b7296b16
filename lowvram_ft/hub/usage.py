"""The part of a model card that says how to run the model, program by program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lowvram_ft.data.row import build_prompt
from lowvram_ft.hub.names import EMBEDDED_HUB_ID

CODE = 'def add(a, b):\n    """The sum of two numbers."""\n    return a + b'


def usage(
    repo_id: str,
    base: str,
    adapter: Mapping[str, Any] | None,
    ggufs: Mapping[str, str],
    loras: Sequence[str],
    *,
    writes_tests: bool,
    private: bool,
) -> list[str]:
    """The lines of ``## How to run it``.

    Args:
        repo_id: the repository.
        base: hub id of the base model.
        adapter: settings of the adapter in it; None for none.
        ggufs: quantization to file name of each GGUF in it.
        loras: adapters alone as GGUFs.
        writes_tests: whether it was trained to write tests by this kit.
        private: whether a token is needed.
    """
    lines = ["## How to run it", ""]
    if private:
        lines += ["The repository may be private: run `hf auth login` first.", ""]
    if ggufs:
        lines += _gguf(repo_id, ggufs, writes_tests)
    if adapter is not None:
        lines += _adapter(repo_id, base, adapter, writes_tests)
    for name in loras:
        lines += [
            "**As an adapter in llama.cpp and Ollama**, on a GGUF of the same base:",
            "",
            *_block("", f"hf download {repo_id} {name} --local-dir .", f"llama-server -m base.gguf --lora {name}"),
            f"For Ollama, a `Modelfile` with `FROM ./base.gguf` and `ADAPTER ./{name}`.",
            "",
        ]
    if writes_tests:
        lines += [
            "## The prompt",
            "",
            "It was trained on this one user message (with the base model's own chat template and system text), and "
            "answers with a bare test file that imports what it tests `from solution`. Decode greedily.",
            "",
            *_block("text", build_prompt(CODE)),
        ]
    return lines


def _gguf(repo_id: str, ggufs: Mapping[str, str], writes_tests: bool) -> list[str]:
    quant = next(iter(ggufs))
    lines = [
        "**[Ollama](https://huggingface.co/docs/hub/ollama)** (template, stop token and context come along):",
        "",
        *_block("", f"ollama run hf.co/{repo_id}:{quant}"),
        "**[llama.cpp](https://github.com/ggml-org/llama.cpp)**:",
        "",
        *_block("", f"llama-server -hf {repo_id}:{quant}"),
    ]
    if writes_tests:
        lines += [
            "**lowvram-ft**, which runs what comes out in a sandbox, mends it, and keeps what passes and is new:",
            "",
            *_block("", f"lowvram-ft testgen my_module.py --model {repo_id}:{quant}"),
        ]
    return lines


def _adapter(repo_id: str, base: str, adapter: Mapping[str, Any], writes_tests: bool) -> list[str]:
    content = "prompt  # see below" if writes_tests else "prompt"
    rank = max(int(adapter.get("r") or 1), *map(int, (adapter.get("rank_pattern") or {}).values()), 1)
    # vLLM takes these ranks alone, and refuses an adapter above the one that it was started with
    largest = next((step for step in (8, 16, 32, 64, 128, 256, 320, 512) if step >= rank), rank)
    lines = [
        "**transformers and PEFT**:",
        "",
        *_block(
            "python",
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f'base = "{base}"',
            "tokenizer = AutoTokenizer.from_pretrained(base)",
            'model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", device_map="auto")',
            f'model = PeftModel.from_pretrained(model, "{repo_id}")',
            f'messages = [{{"role": "user", "content": {content.partition("  ")[0]}}}]'
            + ("  # the prompt stands below" if writes_tests else ""),
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
            ").to(model.device)",
            "output = model.generate(**inputs, max_new_tokens=512, do_sample=False)",
            'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
        ),
        "**vLLM**:",
        "",
        *_block("", f"vllm serve {base} --enable-lora --max-lora-rank {largest} --lora-modules adapter={repo_id}"),
        "**As a GGUF of your own**, in any quantization:",
        "",
        *_block("", f"lowvram-ft export --base {base} --adapter {repo_id} --out model.gguf"),
    ]
    if base == EMBEDDED_HUB_ID:
        lines += [
            "It was trained on `smollm2-135m`, which is that model from 4-bit (Q4_1) weights; on the original weights, "
            "its answers differ somewhat. `--base smollm2-135m` gives the model that was measured.",
            "",
        ]
    return lines


def _block(language: str, *lines: str) -> list[str]:
    return [f"```{language}", *lines, "```", ""]
