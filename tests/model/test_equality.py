"""The comparison sees every bit, and the baseline is Hugging Face's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from radix_lib.equality import baseline_generate, baseline_logits, compare_logits


@pytest.fixture(scope="module")
def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=3,
    )
    return LlamaForCausalLM(config).eval()


# ── The comparison ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_tensors_are_bitwise_equal(dtype: torch.dtype) -> None:
    logits = torch.randn(3, 5).to(dtype)
    result = compare_logits(logits, logits.clone())
    assert result.bitwise
    assert (result.max_abs_diff, result.first_difference) == (0, None)
    assert (result.same_argmax, result.rows, result.n_differing) == (3, 3, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_bit_is_seen(dtype: torch.dtype) -> None:
    ours = torch.ones(3, 5, dtype=dtype)
    theirs = ours.clone()
    theirs[1, 2] = 1 + torch.finfo(dtype).eps
    result = compare_logits(ours, theirs)
    assert not result.bitwise
    assert (result.n_differing, result.first_difference) == (1, (1, 2))
    assert result.max_abs_diff == torch.finfo(dtype).eps
    assert (result.same_argmax, result.rows) == (2, 3)


def test_the_first_of_several_differences_is_named() -> None:
    ours = torch.zeros(2, 3)
    theirs = ours.clone()
    theirs[0, 1] = 1
    theirs[1, 0] = 2
    result = compare_logits(ours, theirs)
    assert result.first_difference == (0, 1)
    assert (result.n_differing, result.max_abs_diff) == (2, 2)


def test_nothing_is_equal_to_nothing() -> None:
    result = compare_logits(torch.empty(0, 5), torch.empty(0, 5))
    assert result.bitwise and (result.max_abs_diff, result.rows) == (0, 0)


def test_minus_zero_differs_from_zero_and_nan_equals_itself() -> None:
    assert not compare_logits(torch.tensor([0.0]), torch.tensor([-0.0])).bitwise
    nan = torch.tensor([float("nan"), 1.0])
    assert compare_logits(nan, nan.clone()).bitwise


def test_a_view_with_strides_is_compared_by_its_numbers() -> None:
    logits = torch.randn(4, 6)
    assert compare_logits(logits.T.contiguous().T, logits).bitwise


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (torch.ones(3), torch.ones(2, 2)),
        (torch.ones(3), torch.ones(3, dtype=torch.float64)),
        (torch.tensor(1.0), torch.tensor(1.0)),  # a number is no row of logits
    ],
)
def test_what_cannot_be_compared_is_refused(ours: Tensor, theirs: Tensor) -> None:
    with pytest.raises(ValueError, match="cannot compare"):
        compare_logits(ours, theirs)


def test_the_verdict_reads_well() -> None:
    result = compare_logits(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]))
    assert str(result) == (
        "first difference at (1,): max |Δ| 5.0e-01, same top token in 1 of 1 rows"
    )


# ── The baseline ──────────────────────────────────────────────────────────────────────


def test_the_baseline_is_the_models_own_forward(tiny: LlamaForCausalLM) -> None:
    tokens = [5, 6, 7, 8]
    expected = tiny(torch.tensor([tokens])).logits[0]
    assert torch.equal(baseline_logits(tiny, tokens, all_logits=True), expected)
    assert torch.equal(
        baseline_logits(tiny, tokens),
        tiny(torch.tensor([tokens]), logits_to_keep=1).logits[0, 0],
    )


def test_baseline_generate_gives_a_row_of_logits_a_token(
    tiny: LlamaForCausalLM,
) -> None:
    tokens, logits = baseline_generate(tiny, [5, 6, 7, 8], 6)
    assert 1 <= len(tokens) <= 6 and logits.shape == (len(tokens), 64)
    assert logits.argmax(-1).tolist() == tokens
    stopped, _ = baseline_generate(tiny, [5, 6, 7, 8], 6, stop=tokens[:1])
    assert stopped == tokens[:1]


def test_the_baseline_ends_at_its_own_end_and_at_stop(
    tiny: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, _ = baseline_generate(tiny, [5, 6, 7, 8], 6)
    first = tokens[0]
    later = next(token for token in tokens if token != tokens[0])
    n = tokens.index(later)
    for own, stop in ((first, later), (later, 63), (63, later), ([63, later], 62)):
        monkeypatch.setattr(tiny.generation_config, "eos_token_id", own)
        stopped, _ = baseline_generate(tiny, [5, 6, 7, 8], 6, stop=[stop])
        assert stopped == (tokens[:1] if own == first else tokens[: n + 1])


#: What a checkpoint's generation_config may ask for, each so that it would show.
ASKED: dict[str, object] = {
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "encoder_repetition_penalty": 5.0,
    "encoder_no_repeat_ngram_size": 1,
    "num_beams": 4,
    "num_beam_groups": 2,
    "num_return_sequences": 2,
    "diversity_penalty": 1.0,
    "length_penalty": 3.0,
    "early_stopping": True,
    "do_sample": True,
    "temperature": 9.0,
    "penalty_alpha": 0.6,
    "dola_layers": "high",
    "guidance_scale": 3.0,
    "prompt_lookup_num_tokens": 2,
    "forced_bos_token_id": 9,
    "forced_eos_token_id": 9,
    "min_length": 40,
    "min_new_tokens": 20,
    "exponential_decay_length_penalty": (1, 50.0),
    "suppress_tokens": list(range(8, 64)),
    "begin_suppress_tokens": list(range(8, 64)),
    "bad_words_ids": [[i] for i in range(8, 64)],
    "sequence_bias": [[[7], 100.0]],
    "constraints": [1],
    "force_words_ids": [[7]],
    "stop_strings": ["a"],
    "max_time": 1e-9,
    "max_length": 5,
    "token_healing": True,
    "watermarking_config": {"bias": 50.0},
    "use_cache": False,
    "cache_implementation": "static",
    "prefill_chunk_size": 2,
    "return_dict_in_generate": False,
    "output_logits": False,
}


@pytest.mark.parametrize("name", ASKED)
def test_the_baseline_is_greedy_whatever_the_checkpoint_asks_for(
    tiny: LlamaForCausalLM, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = [5, 6, 7, 8]
    greedy: list[int] = []
    while len(greedy) < 8 and greedy[-1:] != [3]:
        greedy.append(int(baseline_logits(tiny, prompt + greedy).argmax()))
    config = copy.deepcopy(tiny.generation_config)
    setattr(config, name, ASKED[name])
    monkeypatch.setattr(tiny, "generation_config", config)
    tokens, logits = baseline_generate(tiny, prompt, 8)
    assert tokens == logits.argmax(-1).tolist() == greedy
    assert tiny.generation_config is config
    assert getattr(config, name) == ASKED[name]
