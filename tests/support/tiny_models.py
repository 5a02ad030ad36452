"""Configurations of tiny models, one of each shape that the executor runs."""

from __future__ import annotations

from typing import Any

TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": None,  # answers go on to their full length
}


def _rope(kind: str, **more: float) -> dict[str, Any]:
    scaled = {"rope_type": kind, "rope_theta": 10_000.0, "factor": 4.0, **more}
    return {"rope_parameters": scaled}


# Name → the config class of transformers, and what it has beyond TINY.
TINY_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama with wide heads": ("LlamaConfig", {"head_dim": 12}),  # 4 × 12 ≠ 32
    "llama with tied embeddings": ("LlamaConfig", {"tie_word_embeddings": True}),
    "llama with biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "llama with one kv head": ("LlamaConfig", {"num_key_value_heads": 1}),
    "llama with a kv head for each": ("LlamaConfig", {"num_key_value_heads": 4}),
    "llama with linear rope": ("LlamaConfig", _rope("linear")),
    "llama with yarn rope": (
        "LlamaConfig",
        _rope("yarn", original_max_position_embeddings=64),
    ),
    "llama with llama3 rope": (
        "LlamaConfig",
        _rope(
            "llama3",
            original_max_position_embeddings=32,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
        ),
    ),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 12}),
}
