"""`radix_lib.shared_tiles` beside gathering pages: the same attention, to the bit for
every sequence alone, and each page read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from radix_lib import shared_tiles
from radix_lib.batch_invariance import batch_invariant
from radix_lib.exact_attention import KEYS, attention
from radix_lib.executor import AttentionExecutor, Chunk, attention_over_pages
from radix_lib.page_manager import KVPool
from radix_lib.teaching.checks.cache_states import tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.02}
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8


class Setting:
    """A pool of noise, and an executor to lay out chunks for it."""

    def __init__(
        self,
        page_size: int = 16,
        n_pages: int = 400,
        dtype: torch.dtype = torch.float32,
    ):
        self.model = tiny_model(dtype=dtype)
        self.pool = KVPool(2, KV_HEADS, HEAD_DIM, n_pages, page_size, dtype=dtype)
        noise = torch.Generator().manual_seed(1)
        self.pool.data.copy_(torch.randn(self.pool.data.shape, generator=noise))
        self.executor = AttentionExecutor(self.model, self.pool)
        self.module = self.model.model.layers[1].self_attn
        self.unused = np.random.default_rng(2).permutation(n_pages)

    def table(self, n_tokens: int, prefix: Sequence[int] = ()) -> np.ndarray:
        """Pages for so many tokens, the first of them those of `prefix`."""
        n_new = -(-n_tokens // self.pool.page_size) - len(prefix)
        new, self.unused = np.split(self.unused, [n_new])
        return np.concatenate([np.array(prefix, np.int64), new])

    def chunk(self, n_old: int, n_new: int, prefix: Sequence[int] = ()) -> Chunk:
        return Chunk([1] * n_new, n_old, self.table(n_old + n_new, prefix))

    def query(self, chunks: Sequence[Chunk], seed: int = 3) -> Tensor:
        n_tokens = sum(len(chunk.tokens) for chunk in chunks)
        numbers = torch.Generator().manual_seed(seed)
        query = torch.randn(1, HEADS, n_tokens, HEAD_DIM, generator=numbers)
        return query.to(self.pool.data.dtype)

    def attend(self, chunks: Sequence[Chunk], query: Tensor) -> Tensor:
        cached = self.executor.pack(chunks).cached
        return attention_over_pages(query, self.module, self.pool, 1, cached)

    def exact(self, chunks: Sequence[Chunk], query: Tensor) -> Tensor:
        with batch_invariant():
            return self.attend(chunks, query)


# (tokens before, new tokens): decode steps, hits and chunks around the edges of tiles
BATCHES = [
    [(1, 1)],
    [(63, 1), (64, 1), (65, 1), (200, 1), (5, 1)],
    [(60, 10)],
    [(10, 150), (128, 64), (64, 1), (300, 2)],
    [(KEYS, KEYS), (KEYS - 1, KEYS + 2), (1, 3 * KEYS)],
]


@pytest.mark.parametrize("page_size", [1, 3, 16, 64, 100])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_it_is_attention_over_pages(
    batch: list[tuple[int, int]], dtype: torch.dtype, page_size: int
) -> None:
    setting = Setting(page_size, 800 // page_size + 10, dtype)
    chunks = [setting.chunk(*sizes) for sizes in batch]
    query = setting.query(chunks)
    exact, usual = setting.exact(chunks, query), setting.attend(chunks, query)
    assert exact.dtype == dtype
    torch.testing.assert_close(exact, usual, atol=CLOSE[dtype], rtol=CLOSE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_a_sequence_is_the_same_alone_and_among_others(
    batch: list[tuple[int, int]], dtype: torch.dtype
) -> None:
    setting = Setting(dtype=dtype)
    prefix = setting.table(192)
    chunks = []
    for n_old, n_new in batch:
        n_shared = min(n_old, 150) // 16
        chunks.append(setting.chunk(n_old, n_new, prefix[:n_shared]))
    query = setting.query(chunks)
    together = setting.exact(chunks, query)
    turned = setting.exact(chunks[::-1], _turned(query, chunks))
    for first, chunk in zip(_firsts(chunks), chunks, strict=True):
        rows = slice(first, first + len(chunk.tokens))
        alone = setting.exact([chunk], query[:, :, rows])
        assert torch.equal(together[:, rows], alone)
    assert torch.equal(_turned(turned.mT, chunks[::-1]).mT, together)


@pytest.mark.parametrize(
    ("dim", "size"),  # all numbers of items and of rows that occur below
    [(0, 2), (0, 6), (0, 8), (1, 2), (1, 10), (1, 60), (1, 78)],
)
def test_a_product_of_tiles_may_be_wrong_for_one_number_of_items_or_rows(
    monkeypatch: pytest.MonkeyPatch, dim: int, size: int
) -> None:
    right = torch.bmm

    def wrong(left: Tensor, other: Tensor) -> Tensor:
        output = right(left, other)
        return output * (1 + 2**-23) if left.shape[dim] == size else output

    monkeypatch.setattr(torch, "bmm", wrong)
    setting = Setting()
    prefix = setting.table(192)
    n_new = [1, 1, 5, 1, 1, 30]
    chunks = [setting.chunk(192, n, prefix) for n in n_new]
    query = setting.query(chunks)
    together = setting.exact(chunks, query)
    for first, chunk in zip(_firsts(chunks), chunks, strict=True):
        rows = slice(first, first + len(chunk.tokens))
        alone = setting.exact([chunk], query[:, :, rows])
        assert torch.equal(together[:, rows], alone)


def _firsts(chunks: Sequence[Chunk]) -> list[int]:
    ends = np.cumsum([len(chunk.tokens) for chunk in chunks])
    return [int(end) - len(c.tokens) for end, c in zip(ends, chunks, strict=True)]


def _turned(x: Tensor, chunks: Sequence[Chunk]) -> Tensor:
    """`x`, [..., tokens, size], with the last chunk first."""
    lengths = [len(chunk.tokens) for chunk in chunks]
    dim = -2 if x.ndim == 4 else -1
    return torch.cat(x.split(lengths, dim)[::-1], dim)


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_attention_without_pages_to_the_bit(dtype: torch.dtype) -> None:
    setting = Setting(dtype=dtype)
    chunk = setting.chunk(100, 70)
    query = setting.query([chunk])
    pages = torch.as_tensor(chunk.page_table)
    k, v = setting.pool.gather(1, pages)[:170].permute(1, 2, 0, 3)[:, None]
    sees = torch.arange(170) <= torch.arange(100, 170)[:, None]
    scale = setting.module.scaling
    dense = attention(query, k, v, sees, scale=scale)
    paged = setting.exact([chunk], query)
    assert torch.equal(dense.transpose(1, 2).flatten(2), paged)


def test_a_mode_sees_the_function_though_all_tensors_are_plain() -> None:
    setting = Setting()
    chunks = [setting.chunk(20, 1)]
    seen: list[Any] = []

    class Watching(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    query = setting.query(chunks)
    with Watching():
        watched = setting.attend(chunks, query)
    assert attention_over_pages in seen
    assert torch.equal(watched, setting.attend(chunks, query))


# ── What is read ──────────────────────────────────────────────────────────────────────


class Reads(TorchDispatchMode):
    """Counts the bytes that are copied out of a pool."""

    def __init__(self, pool: KVPool):
        super().__init__()
        self.memory = pool.data.untyped_storage().data_ptr()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        from_pool = any(
            isinstance(x, Tensor) and x.untyped_storage().data_ptr() == self.memory
            for x in args
        )
        if isinstance(output, Tensor) and from_pool:
            copied = output.untyped_storage().data_ptr() != self.memory
            self.bytes += copied * output.numel() * output.element_size()
        return output


PER_TOKEN = 2 * KV_HEADS * HEAD_DIM * 4  # bytes of K/V in a layer


def tokens_read(setting: Setting, chunks: Sequence[Chunk]) -> int:
    query = setting.query(chunks)
    setting.exact(chunks, query)  # tests what it uses, on numbers of its own
    with Reads(setting.pool) as reads:
        setting.exact(chunks, query)
    assert reads.bytes % PER_TOKEN == 0
    return reads.bytes // PER_TOKEN


def test_sixteen_sequences_read_what_they_share_once() -> None:
    setting = Setting()
    prefix = setting.table(512)
    chunks = [setting.chunk(512, 1, prefix) for _ in range(16)]
    assert tokens_read(setting, chunks[:1]) == 512 + KEYS
    assert tokens_read(setting, chunks) == 512 + 16 * KEYS


def test_chunks_read_what_they_share_once() -> None:
    setting = Setting()
    prefix = setting.table(512)
    chunks = [setting.chunk(512, n, prefix) for n in (32, 7, 64, 1)]
    assert tokens_read(setting, chunks) == 512 + 4 * KEYS


def test_a_tree_of_sequences_reads_each_branch_once() -> None:
    setting = Setting()
    trunk = setting.table(2 * KEYS)
    branches = [setting.table(3 * KEYS, trunk) for _ in range(2)]
    leaves = [setting.chunk(3 * KEYS, 1, branch) for branch in branches * 3]
    assert tokens_read(setting, leaves) == (2 + 2 + 6) * KEYS


def test_nothing_is_read_for_being_as_long_as_another() -> None:
    setting = Setting()
    chunks = [setting.chunk(n, 1) for n in (10, 500, 70)]
    assert tokens_read(setting, chunks) == (1 + 8 + 2) * KEYS


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_what_others_left_in_their_pages_changes_nothing(poison: float) -> None:
    setting = Setting(page_size=16)
    chunks = [setting.chunk(n, 1) for n in (30, 5, 64, 100)]
    query = setting.query(chunks)
    clean = setting.exact(chunks, query)
    used = np.zeros((400, 16), bool)
    for chunk in chunks:
        at = np.arange(chunk.start + 1)
        used[chunk.page_table[at // 16], at % 16] = True
    setting.pool.data[:, torch.from_numpy(~used)] = poison
    assert torch.equal(setting.exact(chunks, query), clean)


@pytest.mark.parametrize("which", [0, 1], ids=["K", "V"])
def test_every_key_that_may_be_seen_is_read_and_no_other(which: int) -> None:
    setting = Setting(page_size=4)
    chunk = setting.chunk(66, 3)
    query = setting.query([chunk])
    before = setting.exact([chunk], query)
    for position in (0, 63, 64, 66, 67, 68):
        page, slot = chunk.page_table[position // 4], position % 4
        kept = setting.pool.data.clone()
        setting.pool.data[1, page, slot, which] += 1
        changed = (setting.exact([chunk], query) != before)[0].any(-1)
        setting.pool.data.copy_(kept)
        assert changed.tolist() == [position <= 66 + i for i in range(3)]


def test_the_plan_goes_with_its_batch() -> None:
    setting = Setting()
    chunks = [setting.chunk(20, 1)]
    before = len(shared_tiles._plans)
    setting.exact(chunks, setting.query(chunks))
    assert len(shared_tiles._plans) == before
