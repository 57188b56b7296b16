"""One function renders, for training, evaluation, export and use.

The user message is the prompt, the assistant message the completion, in the model's own chat template with its default
system text made explicit. Loss is on the completion and the end token only, and on the blank that a template puts
between the two, such as DeepSeek-Coder's newline, which the model has to write as well. What a template puts after the
end token, such as ChatML's newline, carries none, and is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from lowvram_ft.errors import ModelError

Encode = Callable[[str], list[int]]
EncodeMany = Callable[[list[str]], list[list[int]]]
_SYSTEM = "Xq7 sentinel system Xq7"
_USER = "Xq7 sentinel user Xq7"
_ASSISTANT = "Xq7 sentinel assistant Xq7"


@dataclass(frozen=True)
class Rendered:
    """A prompt, or a prompt and its completion, as the model sees it.

    Attributes:
        text: the whole text.
        input_ids: its tokens, shape [T].
        completion_mask: shape [T]; 1 for the completion's tokens, any blank before the end token, and the end token,
            else 0.
    """

    text: str
    input_ids: tuple[int, ...]
    completion_mask: tuple[int, ...]


@dataclass(frozen=True)
class ChatFormat:
    """A model's chat format.

    Attributes:
        template: the Jinja chat template.
        special: the special tokens that the template may name: ``bos_token``, ``eos_token``, …
        system: the system text, explicit; None where the template has no default.
        end_token: text of the token that ends the assistant's turn.
        encode: text to token ids, special tokens recognized, none added.
        encode_many: the same for several texts in one go; None where there is no quicker way than one by one.
        folder: of the model that it was read from; None where it was put together otherwise.
        control: texts of the tokens that mean something to the model, and that nobody's own text may spell out.
    """

    template: str
    special: Mapping[str, str]
    system: str | None
    end_token: str
    encode: Encode
    encode_many: EncodeMany | None = None
    folder: Path | None = None
    control: tuple[str, ...] = ()

    def control_token_in(self, text: str) -> str | None:
        """The first control token that a text spells out; None where there is none.

        Where a prompt or a completion does, the model reads another conversation, or learns to end in the middle.
        """
        found = [(place, token) for token in self.control if (place := text.find(token)) >= 0]
        return min(found)[1] if found else None

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Token ids of several texts."""
        return self.encode_many(texts) if self.encode_many is not None else [self.encode(text) for text in texts]

    @property
    def digest(self) -> str:
        """Changes when the template, its texts or the tokenizer change."""
        import hashlib

        found = hashlib.sha256(
            json.dumps([self.template, dict(self.special), self.system, self.end_token], sort_keys=True).encode()
        )
        if self.folder is not None:
            found.update((self.folder / "tokenizer.json").read_bytes())
        return found.hexdigest()[:32]

    def messages(self, prompt: str, completion: str | None = None) -> list[dict[str, str]]:
        """The conversation: the system text (where there is one), the prompt, and the completion if given."""
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        answer = [{"role": "assistant", "content": completion}] if completion is not None else []
        return [*system, {"role": "user", "content": prompt}, *answer]

    def prompt_text(self, prompt: str) -> str:
        """The text that the model continues."""
        return apply_template(self.template, self.messages(prompt), self.special, add_generation_prompt=True)

    def render(self, prompt: str, completion: str | None = None) -> Rendered:
        """Render a prompt, or a prompt with its completion.

        Raises:
            ModelError: the template changes the completion, so that training and use would differ.
        """
        if completion is not None:
            return self.render_many([(prompt, completion)])[0]
        before = self.prompt_text(prompt)
        ids = self.encode(before)
        return Rendered(before, tuple(ids), (0,) * len(ids))

    def render_many(self, pairs: Sequence[tuple[str, str]]) -> list[Rendered]:
        """Render prompts with their completions; their tokens are made in one go.

        Raises:
            ModelError: the template changes a completion, so that training and use would differ.
        """
        befores = [self.prompt_text(prompt) for prompt, _ in pairs]
        answers = [self._answer(before, *pair) for before, pair in zip(befores, pairs, strict=True)]
        encoded = self.encode_batch([*befores, *answers])
        halves = zip(befores, answers, encoded[: len(pairs)], encoded[len(pairs) :], strict=True)
        return [
            Rendered(before + answer, (*ids, *answer_ids), (0,) * len(ids) + (1,) * len(answer_ids))
            for before, answer, ids, answer_ids in halves
        ]

    def _answer(self, before: str, prompt: str, completion: str) -> str:
        """What the model is to write after ``before``: the completion, any blank, and the end token."""
        whole = apply_template(self.template, self.messages(prompt, completion), self.special)
        rest = whole.removeprefix(before + completion)
        blank = rest[: len(rest) - len(rest.lstrip())]
        if not whole.startswith(before + completion) or not rest.startswith(blank + self.end_token):
            raise ModelError(
                "chat template: changes the assistant's text, or does not continue the prompt "
                f"(expected {(completion + self.end_token)[-40:]!r} after {before[-40:]!r}); "
                "strip the completion, or use another template"
            )
        return completion + blank + self.end_token


def apply_template(
    template: str,
    messages: Sequence[Mapping[str, str]],
    special: Mapping[str, str],
    add_generation_prompt: bool = False,
) -> str:
    """Render a conversation with a Jinja chat template, in the sandbox and with the globals that transformers gives it.

    Raises:
        ModelError: the template is broken, or refuses the conversation.
    """
    import jinja2

    try:
        text: str = _compiled(template).render(
            messages=list(messages), add_generation_prompt=add_generation_prompt, **special
        )
    except jinja2.exceptions.TemplateError as error:
        raise ModelError(f"chat template: {error}; use a base model with a working chat template") from error
    return text


@cache
def _compiled(template: str) -> Any:
    """A ``jinja2.Template``: compiling takes longer than rendering."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def default_system(template: str, special: Mapping[str, str]) -> str | None:
    """The system text that a template puts in by itself; None where it puts in none.

    Found by rendering with and without a system message, and comparing what surrounds it.
    """
    user = {"role": "user", "content": _USER}
    bare = apply_template(template, [user], special, add_generation_prompt=True)
    try:
        explicit = apply_template(
            template, [{"role": "system", "content": _SYSTEM}, user], special, add_generation_prompt=True
        )
    except ModelError:
        return None  # a template that refuses system messages has no system text
    head, found, tail = explicit.partition(_SYSTEM)
    if not found or not bare.startswith(head) or not bare.endswith(tail) or len(bare) < len(head) + len(tail):
        return None
    return bare[len(head) : len(bare) - len(tail)]


def end_token(template: str, special: Mapping[str, str], tokens: Sequence[str]) -> str:
    """The token that a template puts after the assistant's text.

    Args:
        template: the Jinja chat template.
        special: the special tokens that it may name.
        tokens: every special token of the vocabulary.

    Raises:
        ModelError: none follows, and the model names no end token.
    """
    messages = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ASSISTANT}]
    after = apply_template(template, messages, special).partition(_ASSISTANT)[2].lstrip()
    found = [token for token in tokens if token and after.startswith(token)]
    if found:
        return max(found, key=len)
    raise ModelError(
        f"chat template: no end token after the assistant's text (got {after[:40]!r}); "
        "use an instruct model, whose template ends each turn with one"
    )


def from_folder(folder: Path, *, settings: Path | None = None, template: str | None = None) -> ChatFormat:
    """The chat format of a model folder in the hub's layout.

    Args:
        folder: of the model; its tokenizer counts.
        settings: another folder, whose chat template and special tokens count, as far as it has any.
        template: the chat template instead of all of them.

    Raises:
        ModelError: it has no tokenizer or no chat template.
    """
    from tokenizers import Tokenizer

    config = _json(folder / "tokenizer_config.json")
    places = [folder] if settings is None else [folder, settings]
    if settings is not None and (settings / "tokenizer_config.json").is_file():
        config |= _json(settings / "tokenizer_config.json")
    found = config.get("chat_template")
    for jinja in (place / "chat_template.jinja" for place in places):
        if jinja.is_file():
            found = jinja.read_text(encoding="utf-8")
    template = template if template is not None else found
    if isinstance(template, list):  # several named templates: the default one is for plain conversations
        template = next((item["template"] for item in template if item.get("name") == "default"), None)
    if not isinstance(template, str):
        raise ModelError(f"{folder}: has no chat template; use an instruct model")
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ModelError(f"{folder / 'tokenizer.json'}: cannot be read ({error}); download the model again") from error
    special = {key: _token(config[key]) for key in config if key.endswith("_token") and _token(config[key])}
    added = tokenizer.get_added_tokens_decoder().values()

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_many(texts: list[str]) -> list[list[int]]:
        return [found.ids for found in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    made = make(template, special, [token.content for token in added], encode)
    control = {made.end_token, *(token.content for token in added if token.special)}
    return replace(made, encode_many=encode_many, folder=folder, control=tuple(sorted(control - {""})))


def make(template: str, special: Mapping[str, str], tokens: Sequence[str], encode: Encode) -> ChatFormat:
    """Put a chat format together, and find its system text and end token.

    Args:
        template: the Jinja chat template.
        special: the special tokens that it may name.
        tokens: every special token of the vocabulary.
        encode: text to token ids, special tokens recognized, none added.
    """
    return ChatFormat(
        template=template,
        special=dict(special),
        system=default_system(template, special),
        end_token=end_token(template, special, tokens),
        encode=encode,
    )


def _token(value: Any) -> str:
    """A token in a tokenizer_config.json: a string, or an object that holds one."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); download the model again") from error
    return value if isinstance(value, dict) else {}
