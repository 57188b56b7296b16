"""A Modelfile's Go template against the Jinja template that it was made from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from gguf_export import modelfile, render, render_modelfile_messages, render_modelfile_template
from gguf_export.errors import UnsupportedError
from tests.gguf_models import CHATML_TEMPLATE, make_tokenizer

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEEPSEEK_CODER = (
    "{%- set ns = namespace(found=false) -%}{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{%- set ns.found = true -%}{%- endif -%}{%- endfor -%}"
    "{{ bos_token }}{%- if not ns.found -%}{{ 'You are an AI programming assistant.\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if message['role'] == 'system' %}{{ message['content'] }}"
    "{%- elif message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] + '\n' }}"
    "{%- else %}{{ '### Response:\n' + message['content'] + '\n<|EOT|>\n' }}{%- endif %}{%- endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:' }}{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}<turn>{{ m['role'] }}\n{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
TEMPLATES = {
    "chatml": (CHATML_TEMPLATE, "", "<|im_end|>"),
    "smollm2": (SMOLLM2, "<|im_start|>", "<|im_end|>"),
    "deepseek": (DEEPSEEK_CODER, "<｜begin▁of▁sentence｜>", "<|EOT|>"),
    "llama3": (LLAMA3, "<|begin_of_text|>", "<|eot_id|>"),
}
PROMPT = (
    "### Task: Write pytest tests\n\n### Code Under Test:\ndef f(x):\n    return {'a': [x, \"{{ y }}\"]}\n\n"
    "### Constraints:\npytest only, no hypothesis, no unittest."
)


def _modelfile(name: str, add_bos: bool = False, **settings: object) -> str:
    template, bos, eos = TEMPLATES[name]
    return modelfile(
        "model.gguf",
        chat_template=template,
        eos_tokens=[eos],
        num_ctx=4096,
        bos_token=bos,
        add_bos=add_bos,
        **settings,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("system", [None, "You write tests.\nNothing else."])
def test_one_prompt_gives_the_same_token_ids_through_both(tmp_path: Path, name: str, system: str | None) -> None:
    template, bos, eos = TEMPLATES[name]
    messages = [{"role": "user", "content": PROMPT}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    jinja = render(template, messages, bos_token=bos, eos_token=eos)
    go = render_modelfile_template(_modelfile(name), system, PROMPT)
    tokenizer = Tokenizer.from_file(str(make_tokenizer(tmp_path) / "tokenizer.json"))
    assert tokenizer.encode(go).ids == tokenizer.encode(jinja).ids
    assert go == jinja


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1).map(lambda s: f"a{s}b")


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=30, deadline=None)
@given(turns=st.lists(TEXT, min_size=1, max_size=5).filter(lambda t: len(t) % 2), system=st.none() | TEXT)
def test_conversations_come_out_the_same(name: str, turns: list[str], system: str | None) -> None:
    template, bos, eos = TEMPLATES[name]
    messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": t} for i, t in enumerate(turns)]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    jinja = render(template, messages, bos_token=bos, eos_token=eos)
    assert render_modelfile_messages(_modelfile(name), messages) == jinja


def test_smollm2s_own_system_text_is_made_explicit() -> None:
    text = _modelfile("smollm2")
    assert 'SYSTEM """You are a helpful AI assistant named SmolLM, trained by Hugging Face"""' in text
    for system in (None, ""):  # with the Modelfile's SYSTEM, and without any
        rendered = render_modelfile_template(text, system, "hi")
        assert rendered == render(SMOLLM2, [{"role": "user", "content": "hi"}])
    assert "SYSTEM" not in _modelfile("chatml").replace("{{ .System }}", "")


def test_stop_context_and_file_are_written() -> None:
    lines = _modelfile("deepseek").splitlines()
    assert lines[0] == "FROM ./model.gguf"
    assert 'PARAMETER stop "<|EOT|>"' in lines
    assert lines[-1] == "PARAMETER num_ctx 4096"


@pytest.mark.parametrize("name", ["deepseek", "llama3"])
def test_bos_is_not_repeated_where_llama_cpp_adds_it(name: str) -> None:
    bos = TEMPLATES[name][1]
    assert bos in _modelfile(name)
    assert bos not in _modelfile(name, add_bos=True)
    whole = render_modelfile_template(_modelfile(name), None, "hi")
    assert bos + render_modelfile_template(_modelfile(name, add_bos=True), None, "hi") == whole
    with pytest.raises(UnsupportedError, match="does not begin with"):
        modelfile(
            "m.gguf",
            chat_template=CHATML_TEMPLATE,
            eos_tokens=["x"],
            num_ctx=1,
            bos_token="<s>",
            add_bos=True,
        )


def test_a_template_that_strips_messages_is_noted() -> None:
    assert "strips white space" in _modelfile("llama3")
    assert "strips white space" not in _modelfile("chatml")


def test_a_template_without_system_messages() -> None:
    text = modelfile("m.gguf", chat_template=NO_SYSTEM, eos_tokens=["<end>"], num_ctx=1, bos_token="<s>")
    assert "System" not in text
    assert render_modelfile_template(text, None, "hi") == "<s><turn>user\nhi<end>\n<turn>assistant\n"
    with pytest.raises(UnsupportedError, match="takes no system message"):
        modelfile("m.gguf", chat_template=NO_SYSTEM, eos_tokens=["<end>"], num_ctx=1, system="be brief")


LAST_TURN = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {% if loop.last %}now: {% endif %}"
    "{{ m['content'] }} [/INST]{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
)
FIRST_TURN = LAST_TURN.replace("loop.last", "loop.first")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (LAST_TURN, "differently"),
        (FIRST_TURN, "depends on its place"),
        ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "repeats, drops or changes"),
        ("{% for m in messages %}{{ m['content'] | replace('def', 'DEF') }}|{% endfor %}", "differently"),
        ("{{ messages[0]['nothing'].x }}", "cannot render"),
        ("{% for m in messages %}", "cannot render"),
        (
            "{{ strftime_now('%d %b') }}{% for m in messages %}<{{ m['content'] }}>{% endfor %}",
            "today's date",
        ),
    ],
)
def test_what_cannot_be_expressed_is_refused(template: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        modelfile("m.gguf", chat_template=template, eos_tokens=["</s>"], num_ctx=1)


def test_literal_braces_and_quotes_survive() -> None:
    template = (
        "{% for m in messages %}{{ '{{' }}{{ m['role'] }}: \"{{ '{' }}{{ m['content'] }}}}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'say \"' }}{% endif %}"
    )
    text = modelfile("m.gguf", chat_template=template, eos_tokens=["}"], num_ctx=1)
    assert render_modelfile_template(text, "s", "hi") == '{{system: "{s}}{{user: "{hi}}say "'


def test_the_evaluator_refuses_what_it_does_not_know() -> None:
    for action in ("{{ printf .System }}", "{{ if not .System }}{{ end }}", "{{ end }}", "{{- .System }}"):
        with pytest.raises(UnsupportedError):
            render_modelfile_template(f'TEMPLATE """{action}"""\n', "s", "hi")
    with pytest.raises(UnsupportedError, match="no TEMPLATE"):
        render_modelfile_template("FROM x\n", None, "hi")


def test_generation_blocks_and_json_render_as_in_transformers() -> None:
    template = "{% for m in messages %}{% generation %}{{ m | tojson }}{% endgeneration %}\n{% endfor %}"
    message = {"role": "user", "content": "<é>"}
    assert render(template, [message]).strip() == json.dumps(message, ensure_ascii=False)
