"""Chapter 00: which models the course can run, and the error that refuses the others.

Left out: decoders that are not Llama-shaped. They would need another forward in
chapter 06, or could not share a prefix at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

# transformers takes seconds to import, and is needed here for a type alone
if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")  # values of config.model_type


class ModelError(RuntimeError):
    """A model cannot be had or used; the message says which, why, and what to do."""


def check_supported(config: PreTrainedConfig) -> None:
    """Refuse by name what is not a Llama-shaped decoder with full causal attention.

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
