"""Chapter 00: the language model that the course runs on, and its tokenizer.

`load_model` gives a Llama-shaped decoder of transformers, ready for inference.
`python -m radix_lib.model_loader` prepares the default one and says where it lies.

Left out: weights sharded over devices.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from radix_lib.default_model import DEFAULT_MODEL, prepare_default_model
from radix_lib.progress import no_transformers_bars
from radix_lib.supported_models import ModelError, check_supported

# transformers takes seconds to import: only the functions that need it pay
if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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

    Weights are read from safetensors alone, and code that comes with a model is not
    run. Raises ModelError when the model cannot be had (no network, no space, no such
    name), is incomplete, or is not a supported decoder, and what torch raises when
    `device` or `dtype` cannot be had.
    """
    torch.empty(0, device=device, dtype=dtype)  # refuse before gigabytes are read
    name = name or _named_model()
    folder = Path(name).expanduser()
    if name == DEFAULT_MODEL:
        folder = prepare_default_model()
    where = name
    if folder.is_dir():
        where = str(folder)
        _check_readable(folder)
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with no_transformers_bars():
        with _named("configuration", name, where):
            config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        check_supported(config)  # before the weights, which may be a long download
        with _named("tokenizer", name, where):
            tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        with _named("weights", name, where):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                where,
                config=config,
                dtype=dtype,
                attn_implementation="sdpa",
                use_safetensors=True,  # a pickle could run what it likes
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # refused below, by name
                output_loading_info=True,
            )
            model, report = loaded
            _check_complete(report)
    model.requires_grad_(False)  # from_pretrained has set eval mode
    return LoadedModel(model.to(device), tokenizer, name)


def _named_model() -> str:
    """The model that `RADIX_LIB_MODEL` names, else the default."""
    name = os.environ.get("RADIX_LIB_MODEL") or DEFAULT_MODEL
    folder = Path(name).expanduser()
    is_folder = name.startswith(".") or folder.is_dir()
    if is_folder and not folder.is_absolute():
        raise ModelError(
            f"RADIX_LIB_MODEL={name} is a relative path, and the notebooks run in another "
            f"folder than the commands. Set it to {folder.resolve()}"
        )
    return name


def _check_readable(folder: Path) -> None:
    """Tell a file that may not be read from one that is not there."""
    try:
        for file in folder.iterdir():
            if file.is_file():
                file.open("rb").close()
    except PermissionError as error:
        raise ModelError(
            f"{error.filename} is there, but this user may not read it. Its owner can "
            f"allow it: chmod -R a+rX {folder}"
        ) from error


@contextmanager
def _named(part: str, name: str, where: str) -> Iterator[None]:
    """Turn whatever a broken `part` of a model raises inside into a ModelError."""
    try:
        yield
    # KeyError, RuntimeError, ImportError …: it depends on what is broken
    except Exception as error:
        raise ModelError(
            f"cannot load the {part} of {name!r} from {where}: {type(error).__name__}: "
            f"{error}\nName a local folder or, with a network, a hub id; a broken default "
            "model comes back when its folder is deleted."
        ) from error


def _check_complete(report: dict[str, Any]) -> None:
    """Refuse weights that are not the configuration's; `report` is transformers' own.

    A tensor that is missing or has another shape would hold random numbers.
    """
    for tensor in sorted(report["missing_keys"]):
        raise ValueError(f"{tensor} is missing")
    for tensor, shape, due in sorted(report["mismatched_keys"]):
        raise ValueError(f"{tensor} has shape {list(shape)}, not {list(due)}")
    for tensor in sorted(report["unexpected_keys"]):
        raise ValueError(f"{tensor} has no place in the configuration's model")


def main() -> None:
    """Prepare the default model and say where it lies."""
    try:
        name = _named_model()
        if name != DEFAULT_MODEL:
            print(f"RADIX_LIB_MODEL names {name}: {DEFAULT_MODEL} is not prepared.")
            return
        folder = prepare_default_model()
    except ModelError as error:
        sys.exit(f"radix_lib: {error}")
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{DEFAULT_MODEL} lies in {folder} ({size / 1e6:.0f} MB).")


if __name__ == "__main__":
    main()
