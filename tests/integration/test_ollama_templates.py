"""The Modelfile's template, rendered by Go's own engine under Ollama's rules, gives the string that Jinja gives."""

from __future__ import annotations

import random
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from gguf_export import UnsupportedError, modelfile, render, render_modelfile_messages
from gguf_export.ollama.gotemplate import modelfile_block
from gguf_export.ollama.template_shape import probe
from lowvram_ft.data.sources.samples import held_out_rows
from tests.chat_templates import CHATML, DEEPSEEK, LLAMA3, QWEN
from tests.go_templates import GoUnavailable, render_all, renderer
from tests.official_route import OracleUnavailable, llama_cpp_source

N_CONVERSATIONS = 50
NOW = datetime(2026, 3, 9)

ALPACA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\n\n' }}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '### Instruction:\n' + m['content'] + '\n\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ '### Response:\n' + m['content'] + eos_token + '\n\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
ALTERNATES = (
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
)
MISTRAL_V1 = (
    "{{ bos_token }}{% for m in messages %}" + ALTERNATES + "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + "
    "' [/INST]' }}{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
WITHOUT_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    "{% else %}{% set turns = messages %}{% endif %}{{ bos_token }}{% for m in turns %}" + ALTERNATES
)
MISTRAL_FIRST = (
    WITHOUT_SYSTEM + "{% if m['role'] == 'user' %}{% if loop.first and system is defined %}{{ ' [INST] ' + system + "
    "'\n\n' + m['content'] + ' [/INST]' }}{% else %}{{ ' [INST] ' + m['content'] + ' [/INST]' }}{% endif %}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_LAST = (
    MISTRAL_FIRST.replace("loop.first", "loop.last").replace("' [INST] '", "'[INST]'").replace(" [/INST]", "[/INST]")
)
LLAMA2 = (
    WITHOUT_SYSTEM.replace("{{ bos_token }}", "") + "{% if loop.first and system is defined %}{% set content = "
    "'<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m['content'] %}{% else %}{% set content = m['content'] %}{% endif %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}{{ ' ' + "
    "content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
DATED = (
    "{{ bos_token }}{{ '<|start_header_id|>system<|end_header_id|>\n\n' }}"
    "{{ 'Today Date: ' + strftime_now('%d %b %Y') + '\n\n' }}"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim }}{% endif %}{{ '<|eot_id|>' }}"
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "qwen": QWEN,
    "deepseek": DEEPSEEK,
    "alpaca": ALPACA,
    "llama3": LLAMA3,
    "llama3.2": DATED,
    "mistral-v0.1": MISTRAL_V1,
    "mistral-v0.2": MISTRAL_FIRST,
    "mistral-v0.3": MISTRAL_LAST,
    "iso-date": DATED.replace("%d %b %Y", "%Y-%m-%d"),
    "long-date": DATED.replace("%d %b %Y", "%B %d, %Y"),
}
BOS, EOS = "<s>", "</s>"
PIECES = (
    "def f(x):\n    return {'a': [x, \"{{ y }}\"]}",
    "{% raw %} {{ .System }} {{- end -}}",
    "naïve 日本語 🚀 \u2028 \x7f",
    "quotes \" ' ` and \\n \\u0041 <b>&amp;</b>",
    '"""three quotes"""',
    "tabs\tand\r\nline ends\n\n\n",
    "$x $.Messages {{",
    "### Instruction:\n### Response:",
    "[INST] <<SYS>> [/INST]",
    "0",
)


@pytest.fixture(scope="module")
def go() -> Path:
    try:
        return renderer()
    except GoUnavailable as error:
        pytest.skip(str(error))


def _conversations(template: str, takes_system: bool) -> list[list[dict[str, str]]]:
    """Conversations of one to four turns; the first are the kit's own prompts."""
    rng = random.Random(template)
    prompts = [row.prompt for row in held_out_rows()][:10]
    trims = probe(template, bos_token=BOS, eos_token=EOS).trims

    def text(role: str) -> str:
        made = "".join(rng.choice((" ", "\n", "")) + rng.choice(PIECES) for _ in range(rng.randint(1, 4)))
        return made.strip() if role in trims else made

    found = []
    for index in range(N_CONVERSATIONS):
        n_turns = rng.randint(1, 4)
        roles = ["system"] if takes_system and index % 2 else []
        roles += ["user", "assistant"] * (n_turns - 1) + ["user"]
        messages = [{"role": role, "content": text(role)} for role in roles]
        if index < len(prompts):
            messages[-1]["content"] = prompts[index].strip()
        found.append(messages)
    return found


def _differences(go: Path, template: str, text: str) -> list[list[dict[str, str]]]:
    """Conversations that Go and Jinja render differently; this kit's own reading has to give what Go gives."""
    shape = probe(template, bos_token=BOS, eos_token=EOS)
    conversations = _conversations(template, shape.system is not None)
    default = modelfile_block(text, "SYSTEM") or ""
    go_template = modelfile_block(text, "TEMPLATE")
    day = NOW.strftime("%Y-%m-%d")
    requests = [{"template": go_template, "system": default, "messages": each, "now": day} for each in conversations]
    found = render_all(go, requests)
    assert len(found) == N_CONVERSATIONS
    for messages, answer in zip(conversations, found, strict=True):
        assert render_modelfile_messages(text, messages, now=NOW) == answer
    expected = [render(template, each, bos_token=BOS, eos_token=EOS, now=NOW) for each in conversations]
    return [each for each, one, other in zip(conversations, found, expected, strict=True) if one != other]


def _modelfile(template: str, **settings: Any) -> str:
    return modelfile("m.gguf", chat_template=template, eos_tokens=[EOS], num_ctx=4096, bos_token=BOS, **settings)


@pytest.mark.parametrize("name", TEMPLATES)
def test_go_renders_what_jinja_renders(go: Path, name: str) -> None:
    template = TEMPLATES[name]
    text = _modelfile(template)
    assert _differences(go, template, text) == []
    broken = text.replace("{{ .Content }}", "{{ .Content }} ")
    assert broken != text and len(_differences(go, template, broken)) == N_CONVERSATIONS


def test_each_month_has_its_name(go: Path) -> None:
    for name in ("llama3.2", "long-date"):
        text = _modelfile(TEMPLATES[name])
        messages = [{"role": "user", "content": "hi"}]
        days = [datetime(2026, month, 28 - month) for month in range(1, 13)]
        body = modelfile_block(text, "TEMPLATE")
        requests = [{"template": body, "messages": messages, "now": day.strftime("%Y-%m-%d")} for day in days]
        expected = [render(TEMPLATES[name], messages, bos_token=BOS, now=day) for day in days]
        assert render_all(go, requests) == expected
    assert "needs an Ollama that knows currentDate" in text


def test_the_system_text_goes_where_training_put_it() -> None:
    system, first, answer, again = (
        {"role": role, "content": role[0].upper()} for role in ("system", "user", "assistant", "user")
    )
    chat = [system, first, answer, again]
    assert probe(CHATML).system_place == "opening"
    for template, place, text in (
        (MISTRAL_FIRST, "first_user", "<s> [INST] S\n\nU [/INST] A</s> [INST] U [/INST]"),
        (MISTRAL_LAST, "last", "<s>[INST]U[/INST] A</s>[INST]S\n\nU[/INST]"),
    ):
        assert probe(template, bos_token=BOS, eos_token=EOS).system_place == place
        assert render_modelfile_messages(_modelfile(template), chat) == text
    with pytest.raises(UnsupportedError, match="takes no system message"):
        _modelfile(MISTRAL_V1, system="be brief")


def test_what_the_file_adds_is_not_repeated(go: Path) -> None:
    for name in ("deepseek", "llama3", "mistral-v0.2", "mistral-v0.3"):
        text = _modelfile(TEMPLATES[name], add_bos=True)
        body = modelfile_block(text, "TEMPLATE")
        for messages in _conversations(TEMPLATES[name], True)[:6]:
            (found,) = render_all(go, [{"template": body, "messages": messages, "system": ""}])
            whole = render(TEMPLATES[name], messages, bos_token=BOS, eos_token=EOS)
            default = modelfile_block(text, "SYSTEM")
            if default and messages[0]["role"] != "system":
                continue  # Ollama puts the default system text first
            assert BOS + found == whole


def test_a_token_that_begins_every_turn_is_kept(go: Path) -> None:
    text = _modelfile(LLAMA2)
    assert "strips white space around assistant messages" in text or "around assistant and user messages" in text
    assert _differences(go, LLAMA2, text) == []


def test_ollama_fills_an_older_template_turn_by_turn(go: Path) -> None:
    """What our templates need not, since they name .Messages: the rule that others live by."""
    template = "{{ if .System }}<{{ .System }}>{{ end }}Q {{ .Prompt }} A {{ .Response }}E"
    chat = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    assert render_all(go, [{"template": template, "system": "s", "messages": chat}]) == ["<s>Q a A bEQ c A "]
    with pytest.raises(ValueError, match="unclosed action"):
        render_all(go, [{"template": "{{ if", "messages": chat}])


EXPRESSED = (
    "Qwen-Qwen2.5-7B-Instruct",
    "Qwen-Qwen3-0.6B",
    "Qwen3-Coder",
    "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "google-gemma-2-2b-it",
)


def test_the_templates_of_published_models(go: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        folder = llama_cpp_source() / "models" / "templates"
    except OracleUnavailable as error:
        pytest.skip(str(error))
    expressed, refused = [], []
    for path in sorted(folder.glob("*.jinja")):
        template = path.read_text(encoding="utf-8")
        try:
            text = _modelfile(template)
        except UnsupportedError:
            refused.append(path.stem)
            continue
        assert _differences(go, template, text) == [], path.stem
        expressed.append(path.stem)
    assert set(EXPRESSED) <= set(expressed)
    with capsys.disabled():
        print(f"\nchat templates of published models: {len(expressed)} expressed, {len(refused)} refused")
