"""Models for the tests: tiny random ones of every shape that the executor runs, and the
real one.

transformers is imported where it is first used: the tests of the control plane start
without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

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


@pytest.fixture(params=TINY_MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    """The name of each tiny model in turn."""
    return request.param


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run the test on one thread: in small products, and on a busy machine, two wait in
    turns.
    """
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def tiny_model(tiny_models: Callable[..., Any], one_thread: None) -> Callable[..., Any]:
    """`tiny_model(kind, dtype)`: a tiny random model, the same each time. Do not change
    it.
    """
    return tiny_models


@pytest.fixture(scope="session")
def tiny_models() -> Callable[..., Any]:
    """What `tiny_model` gives, made once."""
    import torch

    from radix_lib.teaching.checks.cache_states import tiny_model

    models: dict[tuple[str, torch.dtype], Any] = {}

    def get(kind: str = "llama", dtype: torch.dtype = torch.float32) -> Any:
        if (kind, dtype) not in models:
            class_name, more = TINY_MODELS[kind]
            models[kind, dtype] = tiny_model(class_name, dtype, **(TINY | more))
        return models[kind, dtype]

    return get


@pytest.fixture(scope="session")
def real() -> Any:
    """The default model and its tokenizer, in float32."""
    from radix_lib.model_loader import DEFAULT_MODEL, load_model

    return load_model(DEFAULT_MODEL)
