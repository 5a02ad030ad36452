"""`radix_lib.executor` beside Hugging Face's own forward, on tiny random models of
every shape.

Before each test the pool is full of noise, and page tables are in scrambled order: what
is read from a wrong slot, or let through by a wrong mask, shows in the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from radix_lib.executor import AttentionExecutor, Chunk
from radix_lib.page_manager import KVPool
from radix_lib.supported_models import ModelError

Models = Callable[..., Any]

# Logits of the tiny models spread by about 1.7. The largest differences seen: 6e-5 and
# 4e-15.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-12}
DTYPES = list(TOLERANCE)


class Paged:
    """An executor, and page tables for sequences that nobody else writes to."""

    def __init__(self, model: Any, page_size: int = 4, n_pages: int = 160):
        config = model.config
        self.model = model
        self.pool = KVPool(
            config.num_hidden_layers,
            config.num_key_value_heads,
            model.model.layers[0].self_attn.head_dim,
            n_pages,
            page_size,
            dtype=model.dtype,
        )
        noise = torch.randn(
            self.pool.data.shape, generator=torch.Generator().manual_seed(1)
        )
        self.pool.data.copy_(30 * noise)
        self.executor = AttentionExecutor(model, self.pool)
        self.unused = np.random.default_rng(2).permutation(n_pages)

    def table(self, n_tokens: int) -> np.ndarray:
        n_pages = -(-n_tokens // self.pool.page_size)
        table, self.unused = np.split(self.unused, [n_pages])
        return table

    def run(self, tokens: list[int], start: int, table: np.ndarray) -> Tensor:
        """All logits of one chunk."""
        return self.executor.forward([Chunk(tokens, start, table)], all_logits=True)

    def prefilled(self, tokens: list[int], room: int = 0) -> np.ndarray:
        table = self.table(len(tokens) + room)
        if tokens:
            self.run(tokens, 0, table)
        return table


def some_tokens(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 97, n).tolist()


@torch.inference_mode()
def reference(model: Any, tokens: list[int], logits_to_keep: int = 0) -> Tensor:
    """Hugging Face's logits: all, or the last `logits_to_keep`."""
    return model(torch.tensor([tokens]), logits_to_keep=logits_to_keep).logits[0]


def assert_close(got: Tensor, expected: Tensor) -> None:
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE[got.dtype])


@contextmanager
def counted_tokens(module: torch.nn.Module) -> Iterator[list[int]]:
    """How many tokens each call of `module` was given, seen from outside of our
    code.
    """
    seen: list[int] = []
    handle = module.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape[:-1].numel())
    )
    try:
        yield seen
    finally:
        handle.remove()


# Cold prompts


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16], ids=str)
def test_a_cold_prompt_is_bitwise_equal_to_hugging_face(
    tiny_model: Models, kind: str, dtype: torch.dtype
) -> None:
    model = tiny_model(kind, dtype)
    for length in (1, 2, 17, 100):
        paged, tokens = Paged(model), some_tokens(length)
        chunk = Chunk(tokens, 0, paged.table(length))
        assert torch.equal(paged.executor.forward([chunk]), reference(model, tokens, 1))
        assert torch.equal(
            paged.executor.forward([chunk], all_logits=True), reference(model, tokens)
        )


def test_the_real_model_is_bitwise_equal_on_a_cold_prompt(real: Any) -> None:
    tokens = real.tokenizer.encode(
        "The capital of France is Paris. The capital of Italy is"
    )
    paged = Paged(real.model, page_size=16, n_pages=4)
    chunk = Chunk(tokens, 0, paged.table(len(tokens)))
    assert torch.equal(
        paged.executor.forward([chunk]), reference(real.model, tokens, 1)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_layer_is_bitwise_equal_to_hugging_face(
    tiny_model: Models, kind: str, dtype: torch.dtype
) -> None:
    model, tokens = tiny_model(kind, dtype), some_tokens(30)
    paged = Paged(model)
    batch = paged.executor.pack([Chunk(tokens, 0, paged.table(30))])
    hidden = model.model.embed_tokens(batch.token_ids)
    rotary = model.model.rotary_emb(hidden, position_ids=batch.positions)
    got = paged.executor.forward_layer_with_cached_prefix(1, hidden, rotary, batch)
    expected = model.model.layers[1](
        hidden, attention_mask=None, position_embeddings=rotary
    )
    assert torch.equal(got, expected)


@pytest.mark.parametrize("page_size", [1, 2, 16])
def test_pages_hold_hugging_faces_keys_and_values(
    tiny_model: Models, kind: str, page_size: int
) -> None:
    model, tokens = tiny_model(kind), some_tokens(37)
    paged = Paged(model, page_size)
    table = paged.prefilled(tokens)
    with torch.inference_mode():
        cache = model(torch.tensor([tokens]), use_cache=True).past_key_values
    for layer, theirs in enumerate(cache.layers):
        ours = torch.cat([paged.pool.get_page(layer, int(page)) for page in table], 2)[
            :, :, :37
        ]
        # Per KV head: nothing is expanded to the heads of the queries.
        assert theirs.keys.shape == (
            1,
            model.config.num_key_value_heads,
            37,
            ours.shape[-1],
        )
        assert torch.equal(ours[0], theirs.keys[0])
        assert torch.equal(ours[1], theirs.values[0])


# Hits


@pytest.mark.parametrize("page_size", [1, 2, 16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_hit_gives_the_logits_of_the_whole_prompt(
    tiny_model: Models, kind: str, dtype: torch.dtype, page_size: int
) -> None:
    model, tokens = tiny_model(kind, dtype), some_tokens(70)
    expected = reference(model, tokens)
    for cut in (1, 2, 15, 16, 17, 40, 68, 69):
        paged = Paged(model, page_size)
        table = paged.prefilled(tokens[:cut], room=70 - cut)
        assert_close(paged.run(tokens[cut:], cut, table), expected[cut:])


def test_bfloat16_is_honoured(tiny_model: Models, kind: str) -> None:
    model, tokens = tiny_model(kind, torch.bfloat16), some_tokens(70)
    paged = Paged(model)
    assert paged.pool.data.dtype == torch.bfloat16
    table = paged.prefilled(tokens[:40], room=30)
    got, expected = paged.run(tokens[40:], 40, table), reference(model, tokens)[40:]
    assert got.dtype == torch.bfloat16
    # Eight bits of mantissa through three layers: the two agree as well as bfloat16
    # can.
    assert (got - expected).abs().mean() < 0.02 * expected.float().std()


@pytest.mark.parametrize("chunk_size", [1, 3, 16, 50])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_chunked_prompt_gives_the_logits_of_the_whole_one(
    tiny_model: Models, kind: str, dtype: torch.dtype, chunk_size: int
) -> None:
    model, tokens = tiny_model(kind, dtype), some_tokens(70)
    paged = Paged(model)
    table = paged.table(70)
    logits = [
        paged.run(tokens[start : start + chunk_size], start, table)
        for start in range(0, 70, chunk_size)
    ]
    assert_close(torch.cat(logits), reference(model, tokens))


@pytest.mark.parametrize(
    "bounds", [(0, 32, 80), (0, 16, 48, 79, 80), (0, 4, 5, 80)], ids=str
)
def test_with_the_same_chunks_hit_and_miss_are_bitwise_equal(
    tiny_model: Models, kind: str, bounds: tuple[int, ...]
) -> None:
    paged, tokens = Paged(tiny_model(kind)), some_tokens(80)
    miss = paged.table(80)
    logits = [paged.run(tokens[a:b], a, miss) for a, b in pairwise(bounds)]
    for i, start in enumerate(bounds[1:-1], 1):
        # whole pages are shared, what is left is copied
        n_shared = start // paged.pool.page_size
        hit = np.concatenate((miss[:n_shared], paged.table(80)[n_shared:]))
        if start % paged.pool.page_size:
            paged.pool.copy_page(int(miss[n_shared]), int(hit[n_shared]))
        again = [paged.run(tokens[a:b], a, hit) for a, b in pairwise(bounds[i:])]
        assert all(map(torch.equal, again, logits[i:]))


@pytest.mark.usefixtures("one_thread")
def test_the_real_model_answers_alike_with_and_without_a_hit(real: Any) -> None:
    tokens = real.tokenizer.encode(
        "One, two, three, four, five, six, seven, eight, " * 6
    )
    expected = reference(real.model, tokens)
    for cut in (1, 16, 64, len(tokens) - 1):
        paged = Paged(real.model, page_size=16, n_pages=16)
        table = paged.prefilled(tokens[:cut], room=len(tokens) - cut)
        got = paged.run(tokens[cut:], cut, table)
        assert (got - expected[cut:]).abs().max() <= 1e-3
        assert torch.equal(got.argmax(-1), expected[cut:].argmax(-1))


# Packed batches

# (new tokens, tokens before them): cold prompts, hits and decode steps.
BATCHES = [
    [(9, 0), (6, 13), (1, 20), (1, 5), (1, 33)],
    [(1, 20), (9, 0), (1, 5), (6, 13), (1, 33), (1, 0)],
    [(1, 7), (1, 8), (1, 9)],  # around the edge of a page
    [(1, 0), (1, 0)],
    [(1, 0), (1, 50)],
    [(1, 11), (1, 11)],  # as long as each other
    [(12, 0), (12, 0)],
    [(2, 30), (40, 3)],
    [(1, 40)],
]


@pytest.mark.parametrize("page_size", [1, 2, 16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_packed_sequences_are_equal_to_each_alone(
    tiny_model: Models, kind: str, dtype: torch.dtype, page_size: int
) -> None:
    model = tiny_model(kind, dtype)
    for sizes in BATCHES:
        paged, chunks, expected = Paged(model, page_size), [], []
        for seed, (n_new, n_old) in enumerate(sizes):
            tokens = some_tokens(n_old + n_new, seed)
            table = paged.prefilled(tokens[:n_old], room=n_new)
            chunks.append(Chunk(tokens[n_old:], n_old, table))
            expected.append(reference(model, tokens)[n_old:])
        assert_close(
            paged.executor.forward(chunks, all_logits=True), torch.cat(expected)
        )
        assert_close(
            paged.executor.forward(chunks), torch.stack([e[-1] for e in expected])
        )


def test_sequences_that_share_pages_are_equal_to_each_alone(tiny_model: Models) -> None:
    model = tiny_model(dtype=torch.float64)
    paged, prefix = Paged(model), some_tokens(24)
    shared = paged.prefilled(prefix)
    suffixes = [some_tokens(n, seed) for seed, n in enumerate((5, 1, 9, 1))]
    logits = paged.executor.forward(
        [Chunk(s, 24, np.concatenate((shared, paged.table(len(s))))) for s in suffixes]
    )
    expected = [reference(model, prefix + suffix)[-1] for suffix in suffixes]
    assert_close(logits, torch.stack(expected))


def test_a_page_table_may_have_room_to_spare(tiny_model: Models) -> None:
    model, tokens = tiny_model(dtype=torch.float64), some_tokens(30)
    paged = Paged(model)
    tables = [paged.prefilled(tokens[:n], room=40) for n in (20, 29, 5)]
    chunks = [
        Chunk(tokens[n : n + 1], n, t) for n, t in zip((20, 29, 5), tables, strict=True)
    ]
    assert_close(paged.executor.forward(chunks), reference(model, tokens)[[20, 29, 5]])


# What is computed, and what is read


def test_only_new_tokens_are_computed(tiny_model: Models, kind: str) -> None:
    model, tokens = tiny_model(kind), some_tokens(70)
    for layer in model.model.layers:
        for module in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.mlp):
            paged = Paged(model)
            table = paged.prefilled(tokens[:60], room=10)
            other = paged.prefilled(tokens[:12], room=1)
            with counted_tokens(module) as seen:
                paged.run(tokens[60:], 60, table)
                paged.executor.forward(
                    [Chunk([1, 2, 3], 60, table), Chunk([4], 12, other)]
                )
            assert seen == [10, 4]


@pytest.mark.parametrize("which", [0, 1], ids=["K", "V"])
@pytest.mark.parametrize("n_new", [1, 6])
def test_cached_pages_are_really_read(
    tiny_model: Models, kind: str, which: int, n_new: int
) -> None:
    tokens = some_tokens(30 + n_new)
    paged = Paged(tiny_model(kind))
    table = paged.prefilled(tokens[:30], room=n_new)
    chunk = Chunk(tokens[30:], 30, table)
    clean = paged.executor.forward([chunk])
    for layer in range(3):
        for page in (table[0], table[4]):
            before = paged.pool.get_page(layer, int(page)).clone()
            paged.pool.get_page(layer, int(page))[which] *= -1
            assert (paged.executor.forward([chunk]) - clean).abs().max() > 0.01
            paged.pool.get_page(layer, int(page)).copy_(before)
    assert torch.equal(paged.executor.forward([chunk]), clean)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("lengths", [(30,), (30, 5), (7, 8, 30)], ids=str)
def test_what_others_left_in_their_pages_changes_nothing(
    tiny_model: Models, lengths: tuple[int, ...], poison: float
) -> None:
    """Not even NaN, in pages of others or in slots of ours that are not written yet."""
    model = tiny_model()

    def logits(fill: float) -> Tensor:
        paged = Paged(model)
        paged.pool.data.fill_(fill)
        tables = [paged.prefilled(some_tokens(n), room=9) for n in lengths]
        chunks = [
            Chunk([n], n, table) for n, table in zip(lengths, tables, strict=True)
        ]
        return torch.cat(
            [paged.executor.forward(chunks), paged.executor.forward(chunks[:1])]
        )

    assert torch.equal(logits(poison), logits(0.0))


def test_only_the_slots_of_new_tokens_are_written(tiny_model: Models) -> None:
    paged = Paged(tiny_model(), page_size=4)
    table = paged.prefilled(some_tokens(10), room=10)

    def pages(layer: int) -> Tensor:
        return torch.stack([paged.pool.get_page(layer, page) for page in range(160)])

    before = [pages(layer) for layer in range(3)]
    paged.run(some_tokens(6), 10, table)  # half of page 2, all of page 3
    expected = torch.zeros(160, 4, dtype=torch.bool)
    expected[table[2], 2:] = expected[table[3]] = True
    for layer in range(3):
        # [pages, slots, …]
        changed = (pages(layer) != before[layer]).movedim(3, 1).flatten(2)
        assert torch.equal(changed.all(-1), expected) and torch.equal(
            changed.any(-1), expected
        )


def test_logits_ask_for_no_gradient(tiny_model: Models) -> None:
    paged = Paged(tiny_model())
    assert not paged.run([1, 2], 0, paged.table(2)).requires_grad


# Refusals


def tiny_config(class_name: str, **more: Any) -> Any:
    sizes = {
        "vocab_size": 8,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    return getattr(transformers, class_name)(**sizes, **more)


@pytest.mark.parametrize(
    ("config", "attention", "said"),
    [
        (
            tiny_config("MistralConfig", num_key_value_heads=1, sliding_window=4),
            "sdpa",
            "mistral",
        ),
        (tiny_config("MixtralConfig", num_key_value_heads=1), "sdpa", "mixtral"),
        (
            tiny_config("GemmaConfig", num_key_value_heads=1, head_dim=8),
            "sdpa",
            "gemma",
        ),
        (tiny_config("GPT2Config", bos_token_id=0, eos_token_id=0), "sdpa", "gpt2"),
        (tiny_config("LlamaConfig"), "eager", "eager"),
    ],
    ids=[
        "mistral with a sliding window",
        "mixtral",
        "gemma",
        "gpt2",
        "eager attention",
    ],
)
def test_an_unsupported_model_is_refused_by_name(
    config: Any, attention: str, said: str
) -> None:
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation=attention
    )
    with pytest.raises(ModelError, match=said):
        AttentionExecutor(model, KVPool(1, 1, 8, 1, 1))


@pytest.mark.parametrize(
    ("tokens", "start", "page_table", "said"),
    [
        ([], 0, [0, 1, 2], "new tokens: 0, .* at least one"),
        ([1], -1, [0, 1, 2], "position .* not -1"),
        ([1], 12, [0, 1, 2], "position 12"),
        ([1] * 13, 0, [0, 1, 2], "new tokens: 13, .* must fit"),
        ([1], 0, [], "0 pages"),
        ([1] * 6, 0, [1, 160], "page 160"),
        ([1] * 6, 0, [1, -1], "page -1"),
        ([1] * 2, 4, [160, 1], "page 160"),  # one that is only read
        ([1, 97], 0, [0, 1, 2], "97"),
        ([1, -1], 0, [0, 1, 2], "-1"),
    ],
)
def test_a_bad_chunk_is_refused_and_nothing_is_written(
    tiny_model: Models, tokens: list[int], start: int, page_table: list[int], said: str
) -> None:
    paged = Paged(tiny_model())
    before = paged.pool.data.clone()
    good = Chunk([1, 2], 0, np.array([7]))
    bad = Chunk(tokens, start, np.array(page_table, np.int64))
    with pytest.raises(ValueError, match=said):
        paged.executor.forward([good, bad])
    assert torch.equal(paged.pool.data, before)


def test_an_empty_batch_is_refused(tiny_model: Models) -> None:
    with pytest.raises(ValueError, match="at least one chunk"):
        Paged(tiny_model()).executor.forward([])


def test_two_chunks_cannot_write_to_the_same_slot(tiny_model: Models) -> None:
    paged = Paged(tiny_model())
    before = paged.pool.data.clone()
    with pytest.raises(ValueError, match="slot"):
        paged.executor.forward(
            [Chunk([1], 5, np.array([3, 4])), Chunk([2], 1, np.array([4]))]
        )
    assert torch.equal(paged.pool.data, before)
