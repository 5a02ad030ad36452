"""Chapter 00: the language model that the course runs on, and its tokenizer.

`load_model` gives a Llama-shaped decoder of transformers, ready for inference.
`python -m radix_lib.model_loader` prepares the default one and says where it lies.

Left out: weights sharded over devices.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError

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
        with no_transformers_bars():
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


def main() -> None:
    """Prepare the default model and say where it lies."""
    name = os.environ.get("RADIX_LIB_MODEL") or DEFAULT_MODEL
    if name != DEFAULT_MODEL:
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
