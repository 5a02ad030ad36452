"""The comparison sees every bit, and the baseline is Hugging Face's."""

from __future__ import annotations

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
