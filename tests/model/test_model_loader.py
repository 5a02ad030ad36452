"""`radix_lib.model_loader`: the default model and its tokenizer, and others.

The tests of the real model use the ordinary cache folder and prepare the model where it
is missing. All others work in temporary folders, without a network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from radix_lib import model_loader
from radix_lib.default_model import DEFAULT_MODEL, prepare_default_model
from radix_lib.model_loader import LoadedModel, load_model
from radix_lib.supported_models import ModelError, check_supported
from tests.support.tiny_models import TINY

REPOSITORY = Path(__file__).parents[2]

# ── The real default model ────────────────────────────────────────────────────────────


def ids(real: LoadedModel, text: str) -> list[int]:
    found = real.tokenizer(text).input_ids
    assert isinstance(found, list)
    return found


def test_the_default_model_is_ready_for_inference(real: LoadedModel) -> None:
    model = real.model
    assert real.name == DEFAULT_MODEL
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config._attn_implementation == "sdpa"
    check_supported(model.config)


def test_the_default_model_has_the_shape_of_smollm2(real: LoadedModel) -> None:
    config = real.model.config
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
    model = real.model
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
def test_golden_ids(real: LoadedModel, text: str, golden: list[int]) -> None:
    assert ids(real, text) == golden


def test_golden_ids_follow_from_the_vocabulary(real: LoadedModel) -> None:
    # SmolLM2 sets digits apart before byte-pair merges, so a number is its digits' own
    # tokens, and the two line feeds before one stay together.
    vocabulary = real.tokenizer.get_vocab()
    for number in ("7", "10", "2026", "3141592653589793"):
        assert ids(real, number) == [vocabulary[digit] for digit in number]
    assert ids(real, "\n\n1.") == [vocabulary[piece] for piece in ("ĊĊ", "1", ".")]
    assert ids(real, " 1") == [vocabulary["Ġ"], vocabulary["1"]]


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
def test_decoding_gives_the_text_back(real: LoadedModel, text: str) -> None:
    assert real.tokenizer.decode(ids(real, text)) == text


def test_the_chat_template_writes_chatml(real: LoadedModel) -> None:
    chat = [
        {"role": "user", "content": "What is 6 x 7?"},
        {"role": "assistant", "content": "42."},
        {"role": "user", "content": "And 6 x 8?"},
    ]
    text = real.tokenizer.apply_chat_template(
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
    tokens = real.tokenizer.apply_chat_template(chat, add_generation_prompt=True)[
        "input_ids"
    ]
    assert tokens == ids(real, text)
    assert tokens.count(1) == 5  # <|im_start|>
    own = [{"role": "system", "content": "Be brief."}, *chat]
    assert real.tokenizer.apply_chat_template(own, tokenize=False).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    )


def test_generate_answers_and_stops(real: LoadedModel) -> None:
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = real.tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt"
    )
    out = real.model.generate(**prompt, max_new_tokens=30, do_sample=False)
    answer = real.tokenizer.decode(out[0, prompt["input_ids"].shape[1] :])
    assert "Paris" in answer
    assert answer.endswith("<|im_end|>")


def test_a_later_load_prints_nothing_and_changes_no_setting(
    real: LoadedModel, capfd: pytest.CaptureFixture[str], no_network: None
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
        again.model.state_dict()[weight], real.model.state_dict()[weight]
    )


def test_the_command_says_where_the_model_lies(real: LoadedModel) -> None:
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


# ── Other models ──────────────────────────────────────────────────────────────────────


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
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def prepare() -> NoReturn:
        pytest.fail("the model was prepared")

    monkeypatch.setattr(model_loader, "prepare_default_model", prepare)
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
    with pytest.raises(ModelError, match="cannot load the configuration"):
        load_model(str(tmp_path))
    assert asked == []


# ── Relative folders ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "form", ["{0.name}", "./{0.name}", "../{0.parent.name}/{0.name}"]
)
def test_a_relative_model_is_refused_wherever_python_is_started(
    tiny: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADIX_LIB_MODEL", form.format(tiny))
    monkeypatch.chdir(tiny.parent)
    with pytest.raises(ModelError, match=f"relative path.* Set it to {tiny}"):
        load_model()
    with pytest.raises(SystemExit, match=f"relative path.* Set it to {tiny}"):
        model_loader.main()


def test_a_relative_model_is_refused_where_it_is_not_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADIX_LIB_MODEL", "../folder")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="relative path"):
        load_model()


def test_an_argument_may_be_relative(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.parent)
    assert load_model(f"./{tiny.name}").name == f"./{tiny.name}"


# ── Broken folders ────────────────────────────────────────────────────────────────────


@pytest.fixture
def broken(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be broken."""
    return Path(shutil.copytree(tiny, tmp_path / "broken"))


def configure(folder: Path, **changed: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))


def reweigh(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def refused(folder: Path) -> str:
    """What the refusal of the model in `folder` says."""
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    return str(caught.value)


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("missing", "part"),
    [
        ("config.json", "configuration"),
        ("tokenizer.json", "tokenizer"),
        ("model.safetensors", "weights"),
    ],
)
def test_a_folder_without_a_file(broken: Path, missing: str, part: str) -> None:
    (broken / missing).unlink()
    assert refused(broken).startswith(f"cannot load the {part} of '{broken}'")


class Payload:
    """Unpickled, it writes a file: what else a stranger's weights could do."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_weights_that_only_a_pickle_holds_are_refused_and_not_read(
    broken: Path, name: str
) -> None:
    weights: dict[str, Any] = load_file(broken / "model.safetensors")
    (broken / "model.safetensors").unlink()
    torch.save(weights, broken / name)
    assert refused(broken).startswith(f"cannot load the weights of '{broken}'")
    torch.save(weights | {"more": Payload(broken / "mark")}, broken / name)
    assert "safetensors" in refused(broken)
    assert not (broken / "mark").exists()


@pytest.mark.parametrize(
    ("file", "key", "classes"),
    [
        ("config.json", "auto_map", {"AutoConfig": "evil.Config"}),
        ("config.json", "auto_map", {"AutoModelForCausalLM": "evil.Model"}),
        ("tokenizer_config.json", "auto_map", {"AutoTokenizer": ["evil.T", None]}),
    ],
    ids=["configuration", "model", "tokenizer"],
)
@pytest.mark.parametrize("known", [True, False], ids=["of a known type", "unknown"])
def test_code_that_comes_with_a_model_never_runs(
    broken: Path, file: str, key: str, classes: Any, known: bool
) -> None:
    mark = broken / "mark"
    (broken / "evil.py").write_text(
        f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    )
    if not known:
        configure(broken, model_type="nonesuch")
        told = json.loads((broken / "tokenizer_config.json").read_text())
        told["tokenizer_class"] = "NonesuchTokenizer"
        (broken / "tokenizer_config.json").write_text(json.dumps(told))
    text = json.loads((broken / file).read_text()) | {key: classes}
    (broken / file).write_text(json.dumps(text))
    if known:
        load_model(str(broken))  # with the class that transformers has for it
    else:
        assert "cannot load the configuration" in refused(broken)
    assert not mark.exists()


def test_a_tokenizer_that_needs_code_of_its_own_is_refused(broken: Path) -> None:
    (broken / "evil.py").write_text("raise SystemExit('it ran')\n")
    (broken / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "NonesuchTokenizer",
                "auto_map": {"AutoTokenizer": ["evil.NonesuchTokenizer", None]},
            }
        )
    )
    assert "trust_remote_code" in refused(broken)


def test_truncated_weights(broken: Path) -> None:
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    assert "cannot load the weights" in refused(broken)


def test_a_missing_tensor(broken: Path) -> None:
    reweigh(broken, lambda tensors: tensors.pop(UP))
    assert f"{UP} is missing" in refused(broken)


def test_a_tensor_of_a_wrong_shape(broken: Path) -> None:
    reweigh(broken, lambda tensors: tensors.update({UP: torch.zeros(3, 3)}))
    assert f"{UP} has shape [3, 3], not [48, 32]" in refused(broken)


def test_a_tensor_that_no_layer_reads(broken: Path) -> None:
    bias = "model.layers.0.self_attn.q_proj.bias"
    reweigh(broken, lambda tensors: tensors.update({bias: torch.zeros(32)}))
    assert f"{bias} has no place" in refused(broken)


@pytest.mark.parametrize(
    "quantised",
    [
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "fp8"},
        {"quant_method": "nonesuch"},
    ],
    ids=lambda quantised: quantised["quant_method"],
)
def test_quantised_weights(broken: Path, quantised: dict[str, Any]) -> None:
    configure(broken, quantization_config=quantised)
    assert f"'quant_method': '{quantised['quant_method']}'" in refused(broken)


def test_an_unknown_activation(broken: Path) -> None:
    configure(broken, hidden_act="nonesuch")
    assert "the unknown activation 'nonesuch'" in refused(broken)


def test_unknown_rotary_positions(broken: Path) -> None:
    configure(broken, rope_parameters={"rope_type": "nonesuch", "rope_theta": 1e4})
    assert "'nonesuch' rotary positions" in refused(broken)


@pytest.mark.parametrize("content", ["{}", "[]", "not JSON"])
def test_a_tokenizer_that_is_none(broken: Path, content: str) -> None:
    (broken / "tokenizer.json").write_text(content)
    assert "cannot load the tokenizer" in refused(broken)


@pytest.mark.parametrize(
    "changed",
    [
        {"num_attention_heads": 3},
        {"num_key_value_heads": 0},
        {"hidden_size": "32"},
        {"vocab_size": 98},
        {"num_hidden_layers": 2},
        {"num_hidden_layers": 4},
    ],
    ids=str,
)
def test_a_configuration_that_is_not_the_weights(
    broken: Path, changed: dict[str, Any]
) -> None:
    configure(broken, **changed)
    assert "cannot load the" in refused(broken)


@contextmanager
def as_no_root() -> Iterator[None]:
    """Run the block as a user who may not read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no modes here")
def test_a_file_that_may_not_be_read_is_not_called_absent(tiny: Path) -> None:
    with TemporaryDirectory() as folder:  # pytest's own are closed to others
        Path(folder).chmod(0o755)
        private = Path(shutil.copytree(tiny, Path(folder, "model")))
        private.chmod(0o755)
        (private / "model.safetensors").chmod(0)
        with as_no_root():
            said = refused(private)
    assert "model.safetensors is there, but this user may not read it" in said
    assert f"chmod -R a+rX {private}" in said
