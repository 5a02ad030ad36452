"""Arithmetic in which nothing depends on what is computed beside it; and with it, not
one bit.
"""

from __future__ import annotations

import random
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

import radix_lib
from radix_lib import invariant_rows
from radix_lib.batch_invariance import batch_invariant, linear
from radix_lib.equality import baseline_generate, baseline_logits, compare_logits
from radix_lib.exact_attention import KEYS, attention
from radix_lib.executor import attention_over_pages
from radix_lib.radix_cache import RadixCache
from radix_lib.radix_model import RadixAttentionModel
from radix_lib.teaching.checks.cache_states import (
    CACHE_STATES,
    FAMILIES,
    compare_states,
    tiny_model,
)

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.05}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def fresh_choice(monkeypatch):
    monkeypatch.setattr(invariant_rows, "_ways", {})
    monkeypatch.setattr(invariant_rows, "_careful_ways", {})


@cache
def model_of(family: str, dtype: torch.dtype):
    return tiny_model(FAMILIES[family], dtype)


def numbers(
    *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


# ── Linear layers ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (15,), (16,), (17,), (2, 9), (3, 1, 40), (0,)])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_is_linear(dtype, shape, bias):
    x, w = numbers(*shape, 24, dtype=dtype), numbers(10, 24, dtype=dtype, seed=1)
    b = numbers(10, dtype=dtype, seed=2) if bias else None
    theirs = F.linear(x, w, b)
    assert linear(x, w, b).shape == theirs.shape
    torch.testing.assert_close(
        linear(x, w, b), theirs, atol=CLOSE[dtype], rtol=CLOSE[dtype]
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n_in", "n_out"), [(24, 10), (100, 300), (576, 192), (33, 1)])
def test_a_row_is_the_same_wherever_it_stands(dtype, n_in, n_out):
    x, w = numbers(70, n_in, dtype=dtype), numbers(n_out, n_in, dtype=dtype, seed=1)
    whole = linear(x, w)
    for start, end in [(0, 1), (0, 16), (5, 22), (69, 70), (3, 70)]:
        assert torch.equal(linear(x[start:end], w), whole[start:end])
    order = torch.randperm(70)
    assert torch.equal(linear(x[order], w), whole[order])


# ── Attention ─────────────────────────────────────────────────────────────────────────


def qkv(
    n_queries: int, n_keys: int, kv_heads: int = 2, dtype: torch.dtype = torch.float32
):
    q = numbers(2, 4, n_queries, 8, dtype=dtype)
    return q, *(numbers(2, kv_heads, n_keys, 8, dtype=dtype, seed=s) for s in (1, 2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("n", [1, 16, 17, 64, 65, 150])
def test_causal_attention_is_attention(dtype, kv_heads, n):
    q, k, v = qkv(n, n, kv_heads, dtype)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    ours = attention(q, k, v, is_causal=True, enable_gqa=True)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, atol=CLOSE[dtype], rtol=CLOSE[dtype])


@pytest.mark.parametrize("boolean", [True, False])
@pytest.mark.parametrize(
    "shape",
    [
        (70, 130),
        (1, 130),
        (4, 70, 130),
        (1, 1, 70, 130),
        (2, 1, 70, 130),
        (2, 1, 70, 1),
        (2, 4, 70, 130),
    ],
)
def test_masks_of_every_shape(boolean, shape):
    q, k, v = qkv(70, 130, kv_heads=4)
    mask = numbers(*shape, seed=3) > 0
    mask[..., 0] = True  # each query sees a key
    if not boolean:
        mask = torch.zeros(shape).masked_fill(~mask, -torch.inf) + numbers(
            *shape, seed=4
        )
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)
    torch.testing.assert_close(
        attention(q, k, v, attn_mask=mask, scale=0.3), theirs, atol=1e-5, rtol=1e-5
    )


def test_without_a_mask_everything_is_seen():
    q, k, v = qkv(5, 70, kv_heads=4)
    torch.testing.assert_close(
        attention(q, k, v), F.scaled_dot_product_attention(q, k, v)
    )


def test_keys_that_begin_hidden_are_no_nan():
    q, k, v = qkv(3, 2 * KEYS + 5, kv_heads=4)
    # as in a batch that is padded on the left
    mask = torch.arange(2 * KEYS + 5) >= KEYS + 1
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.expand(3, -1))
    torch.testing.assert_close(attention(q, k, v, attn_mask=mask.expand(3, -1)), theirs)


def test_sums_of_bfloat16_are_kept_in_float32():
    q, k, v = qkv(5, 3 * KEYS, kv_heads=4, dtype=torch.bfloat16)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    torch.testing.assert_close(
        attention(q, k, v).double(), exact, atol=1e-6, rtol=2**-8
    )


def test_a_query_that_may_look_at_no_key_gets_zeros():
    q, k, v = qkv(3, 2 * KEYS + 5, kv_heads=4)
    mask = torch.tensor([True, False, True])[:, None].expand(-1, 2 * KEYS + 5)
    ours = attention(q, k, v, attn_mask=mask)
    assert not ours[:, :, 1].any()
    torch.testing.assert_close(
        ours, F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_a_query_is_the_same_alone_later_and_among_others(dtype, kv_heads):
    n = 2 * KEYS + 9
    q, k, v = qkv(n, n, kv_heads, dtype)
    whole = attention(q, k, v, is_causal=True, enable_gqa=True)
    for start, end in [(0, 1), (40, 41), (3, 70), (KEYS, n), (n - 1, n)]:
        mask = torch.arange(end) <= torch.arange(start, end)[:, None]
        cut = attention(
            q[:, :, start:end], k[:, :, :end], v[:, :, :end], mask, enable_gqa=True
        )
        assert torch.equal(cut, whole[:, :, start:end])
    repeated = attention(
        q, *(x.repeat_interleave(4 // kv_heads, 1) for x in (k, v)), is_causal=True
    )
    assert torch.equal(repeated, whole)


def test_dropout_is_refused():
    with pytest.raises(ValueError, match=r"model\.eval"):
        attention(*qkv(2, 2, kv_heads=4), dropout_p=0.1)


def test_a_mask_beside_is_causal_is_refused():
    with pytest.raises(ValueError, match="no mask beside is_causal"):
        attention(
            *qkv(2, 2, kv_heads=4), torch.ones(2, 2, dtype=torch.bool), is_causal=True
        )


# ── The mode, and its test of itself ──────────────────────────────────────────────────


def test_it_ends_with_its_block_even_by_an_error():
    x, w = numbers(40, 100), numbers(9, 100, seed=1)
    before = F.linear(x, w)
    with pytest.raises(KeyboardInterrupt), batch_invariant():
        assert torch.equal(F.linear(x, w)[7:8], F.linear(x[7:8], w))
        raise KeyboardInterrupt
    assert torch.equal(F.linear(x, w), before)


def test_the_name_is_the_class_even_after_its_module_was_imported():
    assert radix_lib.batch_invariant is batch_invariant


def test_gradients_do_not_go_missing_in_silence():
    x, w = numbers(3, 24), numbers(10, 24, seed=1)
    x.requires_grad_()
    with batch_invariant():
        y = F.linear(x, w).sum()
    with pytest.warns(UserWarning, match="backprop"):
        y.backward()


# ── Norms, activations, angles ────────────────────────────────────────────────────────

FUNCTIONS = {
    "mean of squares": lambda x: x.pow(2).mean(-1, keepdim=True),
    "root": lambda x: torch.rsqrt(x.abs()),
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "cosine": lambda x: x.cos(),
    "sine": lambda x: x.sin(),
}


@pytest.mark.parametrize("n_threads", [1, 5])  # five leave odd pieces to each
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_row_of_numbers_is_the_same_wherever_it_stands(name, dtype, n_threads):
    """A kernel may take the last few numbers otherwise than all before."""
    torch.set_num_threads(n_threads)
    function = FUNCTIONS[name]
    for width in (33, 48, 1000, 1536):
        x = numbers(300, width, dtype=dtype) * 5
        with batch_invariant():
            whole = function(x)
            assert whole.dtype == dtype
            for start, end in [(0, 1), (5, 6), (3, 20), (17, 50), (100, 300)]:
                assert torch.equal(function(x[start:end]), whole[start:end])
        torch.testing.assert_close(whole, function(x))


def test_functions_of_other_kinds_are_left_as_they_are():
    x = numbers(3, 4, 5)
    with batch_invariant():
        assert torch.equal(x.mean(), torch.mean(x))
        assert torch.equal(x.mean(0), torch.mean(x, 0))
        assert torch.equal(x.mean((0, 2), keepdim=True), torch.mean(x, (0, 2), True))
        assert torch.sigmoid(torch.tensor([0, 1])).dtype == torch.float32
        assert F.silu(numbers(0, 4)).shape == (0, 4)
        assert torch.tanh(torch.tensor(0.5)) == pytest.approx(0.4621, abs=1e-4)


# ── Hugging Face's model in this mode ─────────────────────────────────────────────────


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_their_model_stays_their_model(family, dtype):
    model, tokens = model_of(family, dtype), list(range(3, 60))
    untouched = baseline_logits(model, tokens, all_logits=True)
    with batch_invariant():
        exact = baseline_logits(model, tokens, all_logits=True)
        assert torch.equal(exact[-1], baseline_logits(model, tokens))
        assert torch.equal(
            exact[:20], baseline_logits(model, tokens[:20], all_logits=True)
        )
        batch = torch.tensor([tokens, tokens[::-1], tokens])
        together = model(batch, use_cache=False).logits
        assert torch.equal(together[0], exact) and torch.equal(together[2], exact)
    if dtype != torch.bfloat16:
        found = compare_logits(exact, untouched)
        assert found.max_abs_diff <= 1e-3 and found.same_argmax == found.rows


def test_a_left_padded_batch_is_computed_as_usual():
    """Not to the bit: padding moves the keys to other tiles. But nothing may become
    NaN.
    """
    model, tokens = model_of("Llama", torch.float32), list(range(3, 60))
    batch = torch.tensor([tokens, [0] * 40 + tokens[:17]])
    mask = torch.ones_like(batch)
    mask[1, :40] = 0
    with batch_invariant():
        exact = model(batch, attention_mask=mask, use_cache=False).logits
    usual = model(batch, attention_mask=mask, use_cache=False).logits
    assert exact.isfinite().all()
    torch.testing.assert_close(exact[mask == 1], usual[mask == 1], atol=1e-4, rtol=1e-4)


def test_both_sides_generate_the_same_bits():
    model = model_of("Llama", torch.float32)
    ours = RadixAttentionModel(model, None, page_size=4, n_pages=64)
    tokens = list(range(5, 40))
    with batch_invariant():
        theirs, logits = baseline_generate(model, tokens, 12)
        for _ in range(2):  # cold, then with the prompt and the answer cached
            lease, row = ours.prefill(tokens, max_new_tokens=12)
            with lease:
                for token, their_row in zip(theirs, logits, strict=True):
                    assert compare_logits(row, their_row).bitwise
                    row = ours.decode_step([lease], [token])[0]


# ── Every state of the cache ──────────────────────────────────────────────────────────


def zero_bits(case: int) -> None:
    """One randomly drawn case: model, dtype, page size, state, prompt."""
    rng = random.Random(case)
    model = model_of(rng.choice(list(FAMILIES)), rng.choice(DTYPES))
    page_size, state = rng.choice([1, 2, 4, 16]), rng.choice(list(CACHE_STATES))
    longest = 12 if state == "hit at every length" else 80
    tokens = [rng.randrange(64) for _ in range(rng.randint(2, longest))]
    with batch_invariant():
        ((_, found),) = compare_states(
            model, tokens, page_size=page_size, states=[state], seed=case
        )
    assert found.numbers > 0
    assert found.differing == 0, f"case {case}: {state}, pages of {page_size}: {found}"


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_no_bit_differs(first):
    for case in range(first, first + 20):
        zero_bits(case)


@pytest.mark.long
@pytest.mark.parametrize("first", range(60, 700, 80))
def test_no_bit_differs_in_many_more_cases(first):
    for case in range(first, first + 80):
        zero_bits(case)


@pytest.mark.parametrize("state", CACHE_STATES)
def test_every_state_compares_something(state):
    model = model_of("Llama", torch.float32)
    with batch_invariant():
        ((_, found),) = compare_states(model, range(1, 20), page_size=4, states=[state])
    assert found.numbers > 0 and found.differing == 0 and found.same_top == found.rows


@pytest.mark.parametrize(
    "n_tokens", [9, 13, 40]
)  # the first two are those of chapter 11
def test_the_state_that_evicts_does(monkeypatch, n_tokens):
    evicted, evict = [], RadixCache.evict
    monkeypatch.setattr(
        RadixCache, "evict", lambda cache, n: evicted.append(n) or evict(cache, n)
    )
    model, state = model_of("Llama", torch.float32), "evicted, computed again"
    dict(compare_states(model, range(1, n_tokens + 1), page_size=4, states=[state]))
    assert sum(evicted) > 0


def test_the_comparison_can_fail():
    """One number of one weight is another while ours computes: the bits show it."""
    model = model_of("Llama", torch.float32)

    class OneBit(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if func is attention_over_pages:  # only our executor calls it
                out = out.clone()
                out.view(-1)[0] = torch.nextafter(out.view(-1)[0], torch.tensor(9.0))
            return out

    with batch_invariant(), OneBit():
        ((_, found),) = compare_states(
            model, range(1, 20), page_size=4, states=["odd chunks"]
        )
    assert found.differing > 0


def test_the_model_of_the_course(real):
    tokens = real.tokenizer.encode(
        "The keeper fed the old lion at noon because it was hungry."
    )
    with batch_invariant():
        found = dict(
            compare_states(
                real.model, tokens, page_size=4, states=["odd chunks", "forks"]
            )
        )
    assert all(total.numbers and total.differing == 0 for total in found.values())
