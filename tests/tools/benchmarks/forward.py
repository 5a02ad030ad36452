"""A forward of the model: ours beside Hugging Face's own, ordinary and exact.

Ours is timed from token ids to logits, through the public calls: admission, matching,
eviction, page tables, commit. Hugging Face's side is its ordinary forward alone, on a
`DynamicCache` that is ready. What brings a side back to its former length is not timed.

Where tokens are cached, their K/V are random numbers: they cost as much as true ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from itertools import count
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from radix_lib import RadixAttentionModel, batch_invariant, load_model
from radix_lib.lease import Lease
from tests.tools.benchmarks.rows import (
    EXACT,
    EXECUTOR,
    HUGGING_FACE,
    Measurement,
    Row,
    Side,
    Times,
    in_turn,
    row,
)

PAGE_SIZE = 16

Arithmetic = Callable[[], AbstractContextManager[Any]]

ARITHMETIC: dict[str, Arithmetic] = {EXACT: batch_invariant, EXECUTOR: nullcontext}


def timed(call: Callable[[], object]) -> float:
    """The seconds of a call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def warm(ours: Side, theirs: Side, runs: int) -> tuple[Times, Times]:
    """The times of two sides in turn, after a run of each that does not count."""
    ours()
    theirs()
    times = in_turn({"ours": ours}, {"theirs": theirs}, runs)
    return times["ours"], times["theirs"]


class Sides:
    """The default model in one dtype, and what both sides need of it."""

    def __init__(self, dtype: torch.dtype):
        self.loaded = load_model(dtype=dtype)
        self.hf: Any = self.loaded.model
        self.random = torch.Generator().manual_seed(0)

    def tokens(self, n: int) -> list[int]:
        """Random token ids."""
        ids: list[int] = torch.randint(
            100, 40_000, (n,), generator=self.random
        ).tolist()
        return ids

    def model(self, n_pages: int) -> RadixAttentionModel:
        """Ours, with an empty cache."""
        return RadixAttentionModel(
            self.hf, self.loaded.tokenizer, page_size=PAGE_SIZE, n_pages=n_pages
        )

    def leases(
        self, lengths: Sequence[int], n_shared: int, room: int
    ) -> tuple[RadixAttentionModel, list[Lease]]:
        """Ours, with requests whose prompts are computed: `n_shared` tokens in common.

        Each has `room` for as many tokens of an answer.
        """
        n_pages = sum(-(-(length + room) // PAGE_SIZE) for length in lengths)
        model = self.model(n_pages)
        model.pool.data.normal_()
        shared = self.tokens(n_shared)
        leases = []
        for length in lengths:
            prompt = shared + self.tokens(length - n_shared)
            lease = model.router.admit(prompt, max_new_tokens=room)
            lease.advance(lease.n_tokens - lease.n_cached)
            model.router.commit(lease)
            leases.append(lease)
        return model, leases

    def dynamic_cache(self, n_sequences: int, length: int) -> DynamicCache:
        """Theirs, with `length` tokens of each sequence."""
        config = self.hf.config
        kv_shape = (
            n_sequences,
            config.num_key_value_heads,
            length,
            self.hf.model.layers[0].self_attn.head_dim,
        )
        ready = DynamicCache(config=config)
        for layer in range(config.num_hidden_layers):
            k = torch.randn(kv_shape, dtype=self.hf.dtype)
            v = torch.randn(kv_shape, dtype=self.hf.dtype)
            ready.update(k, v, layer)
        return ready

    @torch.inference_mode()
    def forward(self, ids: list[list[int]], past: DynamicCache, **more: Any) -> Tensor:
        """Theirs: the logits after the last token of each row of `ids`."""
        logits: Tensor = self.hf(
            input_ids=torch.tensor(ids),
            past_key_values=past,
            logits_to_keep=1,
            **more,
        ).logits
        return logits

    def prefill(
        self, model: RadixAttentionModel, prompt: list[int], n_cached: int, name: Any
    ) -> float:
        """The seconds until the logits of a prompt; nothing of it stays locked."""
        began = time.perf_counter()
        lease, _ = model.prefill(prompt, namespace=name)
        seconds = time.perf_counter() - began
        assert lease.n_cached == n_cached
        model.router.cancel(lease)
        return seconds

    def step(self, model: RadixAttentionModel, leases: list[Lease]) -> float:
        """The seconds of a decode step of all."""
        tokens = self.tokens(len(leases))
        return timed(lambda: model.decode_step(leases, tokens))

    def hf_step(self, past: DynamicCache, n_sequences: int) -> float:
        """The same, theirs."""
        ids = [[token] for token in self.tokens(n_sequences)]
        return timed(lambda: self.forward(ids, past))


@cache
def sides(dtype: torch.dtype = torch.float32) -> Sides:
    """Those of a dtype: loaded once."""
    return Sides(dtype)


def inside(part: str, side: Side) -> Side:
    """The same side, in the arithmetic of a part."""

    def run() -> float:
        with ARITHMETIC[part]():
            return side()

    return run


def first_token(part: str, target: float, runs: int) -> Iterator[Row]:
    """Most of a prompt is cached, or nothing: a namespace of its own is cold."""
    both = sides()
    model = both.model(n_pages=512)
    prefix = both.tokens(960)
    both.prefill(model, prefix, 0, None)
    fresh = count()
    hit = inside(part, lambda: both.prefill(model, prefix + both.tokens(64), 960, None))
    cold = inside(
        part, lambda: both.prefill(model, prefix + both.tokens(64), 0, next(fresh))
    )
    what = "first token, 960 of 1,024 cached"
    yield row(part, what, "ours, nothing cached", *warm(hit, cold, runs), target)


def suffix(n_cached: int, n_new: int, runs: int) -> Iterator[Row]:
    """The limit of a hit: the same suffix on a prefix that is ready on both sides."""
    both = sides()
    model = both.model(n_pages=512)
    prefix = both.tokens(n_cached)
    both.prefill(model, prefix, 0, None)
    past = both.dynamic_cache(1, n_cached)

    def theirs() -> float:
        ids = both.tokens(n_new)
        seconds = timed(lambda: both.forward([ids], past))
        past.crop(-n_new)
        return seconds

    def ours() -> float:
        return both.prefill(model, prefix + both.tokens(n_new), n_cached, None)

    what = f"first token, {n_new} on {n_cached} that are at hand"
    yield row(EXECUTOR, what, HUGGING_FACE, *warm(ours, theirs, runs), 0.95)


def cold_prefill(runs: int) -> Iterator[Row]:
    """A prompt of 1,024 tokens, of which nothing is cached."""
    both = sides()
    model = both.model(n_pages=128)
    fresh = count()
    ours = inside(EXACT, lambda: both.prefill(model, both.tokens(1024), 0, next(fresh)))

    def theirs() -> float:
        ids = both.tokens(1024)
        return timed(lambda: both.forward([ids], DynamicCache(config=both.hf.config)))

    what = "cold prefill of 1,024"
    yield row(EXACT, what, HUGGING_FACE, *warm(ours, theirs, runs), 1 / 1.05)


def decode(
    n_sequences: int, length: int, n_shared: int, target: float, runs: int
) -> Iterator[Row]:
    """A step of decoding: both sides grow by a token a run, from equal lengths."""
    both = sides()
    room = 2 * (runs + 1)
    model, leases = both.leases([length] * n_sequences, n_shared, room)
    past = both.dynamic_cache(n_sequences, length)
    what = f"decode step, {n_sequences} × {length}"
    if n_shared:
        what += f", {n_shared} shared"
    for part, due in ((EXACT, target), (EXECUTOR, 1 / 1.05)):
        ours = inside(part, lambda: both.step(model, leases))
        theirs = partial(both.hf_step, past, n_sequences)
        yield row(part, what, HUGGING_FACE, *warm(ours, theirs, runs), due)


def bfloat16_decode(n_sequences: int, runs: int) -> Iterator[Row]:
    """Exact steps in bfloat16, beside exact steps in float32."""
    steps: dict[torch.dtype, Side] = {}
    for dtype in (torch.bfloat16, torch.float32):
        both = sides(dtype)
        model, leases = both.leases([300] * n_sequences, 0, runs + 1)
        steps[dtype] = inside(EXACT, partial(both.step, model, leases))
    times = warm(steps[torch.bfloat16], steps[torch.float32], runs)
    what = f"decode step, {n_sequences} × 300, bfloat16"
    yield row(EXACT, what, "ours, float32", *times, 1.0)


def ragged_decode(runs: int) -> Iterator[Row]:
    """Sixteen sequences of 64 to 1,024 tokens. Theirs are padded to the longest."""
    both = sides()
    lengths = [64 * n for n in range(1, 17)]
    longest = max(lengths)
    room = 2 * (runs + 1)
    model, leases = both.leases(lengths, 0, room)
    past = both.dynamic_cache(len(lengths), longest)
    mask = torch.ones(len(lengths), longest + room, dtype=torch.int64)
    for of_sequence, length in zip(mask, lengths, strict=True):
        of_sequence[: longest - length] = 0

    def theirs() -> float:
        ids = [[token] for token in both.tokens(len(lengths))]
        n_past = past.get_seq_length()
        padding = longest - torch.tensor(lengths)
        more = {
            "attention_mask": mask[:, : n_past + 1],
            "position_ids": (n_past - padding)[:, None],
        }
        return timed(lambda: both.forward(ids, past, **more))

    what = "decode step, 16 × 64 to 1,024"
    for part in (EXACT, EXECUTOR):
        ours = inside(part, lambda: both.step(model, leases))
        yield row(part, what, f"{HUGGING_FACE}, padded", *warm(ours, theirs, runs))


RUNS = 10

#: sequences, tokens of each, tokens in common, the ratio that exact steps should have
DECODES = [
    (1, 300, 0, 1 / 0.8),
    (8, 300, 0, 1 / 0.8),
    (16, 300, 0, 1 / 0.8),
    (32, 300, 0, 1 / 0.8),
    (16, 544, 512, 1 / 0.5),
]

MEASUREMENTS = [
    Measurement("first token", (EXECUTOR,), RUNS, partial(first_token, EXECUTOR, 8)),
    *(
        Measurement("first token", (EXECUTOR,), RUNS, partial(suffix, n_cached, n_new))
        for n_cached, n_new in ((960, 64), (512, 32))
    ),
    Measurement("first token", (EXACT,), RUNS, partial(first_token, EXACT, 10)),
    Measurement("cold prefill", (EXACT,), RUNS, cold_prefill),
    *(
        Measurement("decode", (EXACT, EXECUTOR), RUNS, partial(decode, *sizes))
        for sizes in DECODES
    ),
    Measurement("ragged decode", (EXACT, EXECUTOR), RUNS, ragged_decode),
    *(
        Measurement("bfloat16", (EXACT,), RUNS, partial(bfloat16_decode, n))
        for n in (8, 16)
    ),
]
