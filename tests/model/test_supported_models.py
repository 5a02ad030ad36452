"""`radix_lib.supported_models`: which decoders run here, and which are refused."""

from __future__ import annotations

import pytest
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from radix_lib.supported_models import ModelError, check_supported
from tests.support.tiny_models import TINY

QWEN3 = {**TINY, "head_dim": 8}
LONGROPE = {
    "rope_type": "longrope",
    "factor": 2.0,
    "long_factor": [1.0] * 4,
    "short_factor": [1.0] * 4,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**TINY),
        LlamaConfig(**TINY, rope_parameters={"rope_type": "linear", "factor": 2.0}),
        MistralConfig(**TINY, sliding_window=None),
        Qwen2Config(**TINY),
        # All layers below max_window_layers: transformers gives every one full
        # attention.
        Qwen2Config(**TINY, use_sliding_window=True, max_window_layers=3),
        Qwen3Config(**QWEN3),
        LlamaConfig(**TINY, attn_implementation="sdpa"),
    ],
    ids=lambda config: config.model_type,
)
def test_supported(config: PreTrainedConfig) -> None:
    check_supported(config)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (MistralConfig(**TINY), "'mistral' with sliding_window=4096 is"),
        (
            MistralConfig(**TINY, sliding_window=10**6),
            "'mistral' with sliding_window=1000000 is",
        ),
        (
            Qwen2Config(**TINY, use_sliding_window=True, max_window_layers=1),
            "'qwen2' with layers of sliding_attention is",
        ),
        (
            Qwen3Config(**QWEN3, use_sliding_window=True, max_window_layers=0),
            "'qwen3' with layers of sliding_attention is",
        ),
        (
            LlamaConfig(
                **TINY, rope_parameters={"rope_type": "dynamic", "factor": 2.0}
            ),
            "'llama' with 'dynamic' rotary positions",
        ),
        (
            LlamaConfig(**TINY, rope_parameters=LONGROPE),
            "'llama' with 'longrope' rotary positions",
        ),
        (LlamaConfig(**TINY, attn_implementation="eager"), "'eager' is"),
        (MixtralConfig(**TINY), "'mixtral' is"),
        (Qwen3MoeConfig(**TINY), "'qwen3_moe' is"),
        (Gemma2Config(**TINY), "'gemma2' is"),
        (Gemma3TextConfig(**TINY), "'gemma3_text' is"),
        (GPT2Config(), "'gpt2' is"),
    ],
    ids=lambda value: value.replace(" is", "") if isinstance(value, str) else "",
)
def test_refused_by_name(config: PreTrainedConfig, told: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_supported(config)
    assert told in str(caught.value)
    assert "not supported. Supported: llama, mistral, qwen2, qwen3" in str(caught.value)
