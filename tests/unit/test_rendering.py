"""One function renders: masks, default system texts and end tokens, for compact templates of four families."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lowvram_ft.errors import ModelError
from lowvram_ft.rendering import ChatFormat, apply_template, default_system, end_token, from_folder, make
from tests.chat_templates import CHATML, DEEPSEEK, FAMILIES, SPECIAL

NAMES = {"bos_token": "<s>"}


def byte_level() -> Tokenizer:
    """A byte-level BPE that knows every text, with some merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(
        ["from solution import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"], trainer
    )
    return tokenizer


TOKENIZER = byte_level()


def encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False).ids


def decode(ids) -> str:
    return TOKENIZER.decode(list(ids), skip_special_tokens=False)


FORMATS: dict[str, ChatFormat] = {name: make(family[0], NAMES, SPECIAL, encode) for name, family in FAMILIES.items()}
TEXT = st.text(st.sampled_from(string.printable + "éß日本🙂"), min_size=1).map(lambda t: t.replace("<", "").strip())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_default_system_text_and_the_end_token_are_found(name):
    assert FORMATS[name].system == FAMILIES[name][1]
    assert FORMATS[name].end_token == FAMILIES[name][2]


@pytest.mark.parametrize("name", FAMILIES)
@given(prompt=TEXT, completion=TEXT.filter(bool))
def test_loss_is_on_the_completion_and_the_end_token_and_on_nothing_else(name, prompt, completion):
    _, _, end, blank = FAMILIES[name]
    rendered = FORMATS[name].render(prompt, completion)
    pairs = list(zip(rendered.input_ids, rendered.completion_mask, strict=True))
    assert decode(token for token, mask in pairs if mask) == completion + blank + end
    assert decode(token for token, mask in pairs if not mask) == FORMATS[name].prompt_text(prompt)
    assert decode(rendered.input_ids) == rendered.text
    masks = [mask for _, mask in pairs]
    assert masks == sorted(masks), "the trained part is one piece, at the end"
    assert pairs[-1] == (TOKENIZER.token_to_id(end), 1)
    assert [token for token, mask in pairs if mask].count(TOKENIZER.token_to_id(end)) == 1


@pytest.mark.parametrize("name", FAMILIES)
@given(prompt=TEXT, completion=TEXT.filter(bool))
def test_what_is_trained_is_what_the_template_itself_writes(name, prompt, completion):
    chat = FORMATS[name]
    bare = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    whole = apply_template(chat.template, bare, NAMES)  # no system message: the template's own default
    rendered = chat.render(prompt, completion)
    assert whole.startswith(rendered.text)
    assert whole[len(rendered.text) :].strip() == ""


@pytest.mark.parametrize("name", FAMILIES)
@given(prompt=TEXT, completion=TEXT.filter(bool))
def test_training_and_use_begin_with_the_same_tokens(name, prompt, completion):
    asked = FORMATS[name].render(prompt)
    trained = FORMATS[name].render(prompt, completion)
    assert not any(asked.completion_mask)
    assert trained.input_ids[: len(asked.input_ids)] == asked.input_ids


def test_a_mask_one_token_too_long_would_be_noticed():
    """The oracle of the property above tells a wrong mask from a right one."""
    rendered = FORMATS["chatml"].render("code", "test")
    wrong = list(rendered.completion_mask)
    wrong[wrong.index(1) - 1] = 1
    trained = [token for token, mask in zip(rendered.input_ids, wrong, strict=True) if mask]
    assert decode(trained) != "test<|im_end|>"


def test_a_template_that_trims_the_completion_is_refused():
    with pytest.raises(ModelError, match="changes the assistant's text"):
        FORMATS["llama3"].render("code", "  test\n")
    assert FORMATS["llama3"].render("code", "test").text.endswith("test<|eot_id|>")


@pytest.mark.parametrize(
    "broken",
    [
        CHATML.replace("message['content'] + '<|im_end|>", "message['content'] | upper + '<|im_end|>"),
        CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>model\n'"),
        CHATML.replace("message['content'] + '<|im_end|>", "message['content'] + ' - bye<|im_end|>"),
    ],
    ids=["changes the text", "does not continue the prompt", "adds words"],
)
def test_a_template_that_trains_something_else_than_it_prompts_is_refused(broken):
    chat = ChatFormat(broken, NAMES, None, "<|im_end|>", encode)
    with pytest.raises(ModelError, match="use another template"):
        chat.render("code", "test")


def test_a_template_without_a_default_system_text_has_none():
    plain = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    assert default_system(plain, {}) is None
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + plain
    assert default_system(refuses, {}) is None
    assert [m["role"] for m in make(refuses, {}, SPECIAL, encode).messages("code")] == ["user"]


def test_a_template_that_refuses_a_conversation_says_why():
    with pytest.raises(ModelError, match="chat template: only one turn; use a base model"):
        apply_template("{{ raise_exception('only one turn') }}", [{"role": "user", "content": "x"}], {})
    with pytest.raises(ModelError, match="chat template"):
        apply_template("{% for %}", [], {})


def test_a_template_cannot_reach_into_python():
    with pytest.raises(ModelError):
        apply_template("{{ ''.__class__.__mro__[1].__subclasses__() }}", [], {})


def test_a_template_without_an_end_token_is_refused():
    with pytest.raises(ModelError, match="no end token after the assistant's text"):
        end_token("{% for m in messages %}{{ m.content }} over {% endfor %}", {}, SPECIAL)


def test_the_longest_end_token_wins():
    template = "{% for m in messages %}{{ m.content }}<|end|>er{% endfor %}"
    assert end_token(template, {}, ["<|end|>", "<|end|>er", "<|e"]) == "<|end|>er"


def write_folder(folder, config, template=None):
    TOKENIZER.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.mark.parametrize("where", ["config", "file", "named"])
def test_a_folder_gives_its_chat_format_wherever_the_template_is_kept(tmp_path, where):
    config = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "<|EOT|>", "unk_token": None}
    if where == "config":
        config["chat_template"] = DEEPSEEK
    if where == "named":
        config["chat_template"] = [
            {"name": "tool_use", "template": "{{ raise_exception('tools') }}"},
            {"name": "default", "template": DEEPSEEK},
        ]
    chat = from_folder(write_folder(tmp_path, config, DEEPSEEK if where == "file" else None))
    assert chat.special == {"bos_token": "<s>", "eos_token": "<|EOT|>"}
    assert chat.render("code", "test") == FORMATS["deepseek"].render("code", "test")


def test_a_folder_without_a_template_or_with_a_broken_tokenizer_is_refused(tmp_path):
    write_folder(tmp_path, {"eos_token": "<|EOT|>"})
    with pytest.raises(ModelError, match="has no chat template; use an instruct model"):
        from_folder(tmp_path)
    write_folder(tmp_path, {}, CHATML)
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(ModelError, match=r"tokenizer\.json: cannot be read"):
        from_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: cannot be read"):
        from_folder(tmp_path)


def test_control_tokens_are_those_that_mean_something_to_the_model(tmp_path):
    config = {"bos_token": "<s>", "eos_token": "<|EOT|>"}
    chat = from_folder(write_folder(tmp_path, config, DEEPSEEK))
    assert chat.end_token in chat.control
    assert chat.control_token_in("assert encode('<s>') == [1]\n# <|EOT|>") == "<s>"
    assert chat.control_token_in("assert encode('<|eot|>') == [1]") is None
