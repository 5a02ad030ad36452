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
# "dynamic" and "longrope" turn the same position differently in a longer sequence
FIXED_ROPE = ("default", "linear", "yarn", "llama3")


class ModelError(RuntimeError):
    """A model cannot be had or used; the message says which, why, and what to do."""


def check_supported(config: PreTrainedConfig) -> None:
    """Refuse by name what is not a Llama-shaped decoder with full causal attention.

    A prefix can be reused only where K and V at a position depend on no later token,
    and the executor knows one attention, over all earlier positions. Raises ModelError.
    (transformers 5.23)
    """
    kind = config.model_type
    if kind in SUPPORTED:
        fault = _fault(config)
        if not fault:
            return
        kind_and_fault = f"{kind!r} with {fault}"
    else:
        kind_and_fault = repr(kind)
    raise ModelError(
        f"model type {kind_and_fault} is not supported. Supported: "
        f"{', '.join(SUPPORTED)} (SmolLM2 is llama), with full attention through sdpa, "
        "fixed rotary positions, and weights that are not quantised."
    )


def _fault(config: PreTrainedConfig) -> str:
    """What the executor cannot run in a model of a supported type, or nothing."""
    from transformers.activations import ACT2FN

    # the other types say it layer by layer
    if config.model_type == "mistral" and config.sliding_window is not None:
        return f"sliding_window={config.sliding_window}"
    layer_types = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if layer_types:
        return f"layers of {', '.join(sorted(layer_types))}"
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in FIXED_ROPE:
        return f"{rope!r} rotary positions"
    attention = config._attn_implementation  # None: not chosen yet
    if attention not in (None, "sdpa"):
        return f"attn_implementation={attention!r}"
    if config.hidden_act not in ACT2FN:
        return f"the unknown activation {config.hidden_act!r}"
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None:
        return f"quantization_config={quantised}"
    return ""
