"""Chapter 11: broken on purpose. Faulty executors and caches, and what catches each.

Every fault is one small change to a part that is right. `examine` runs all cache states
with it, and says what integrity checks, a tolerance, greedy tokens and bits have to
say. Some faults are so small that only the bits differ: whoever compares with a
tolerance would have shipped them.
"""

# ruff: noqa: D102  (a broken class has one method, and says in its own docstring what
# is wrong)

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, ClassVar, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor as T
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from radix_lib import packed_weights, shared_tiles
from radix_lib.batch_invariance import batch_invariant
from radix_lib.executor import AttentionExecutor, Batch, CachedChunks, Chunk
from radix_lib.packed_weights import OneDNN, onednn
from radix_lib.page_manager import KVPool
from radix_lib.radix_cache import CacheNode, RadixCache
from radix_lib.radix_model import RadixAttentionModel
from radix_lib.radix_tree import Match, Pages
from radix_lib.router import Lease, Router
from radix_lib.teaching.checks.cache_states import (
    CACHE_STATES,
    Total,
    compare_states,
    serve,
)

TOLERANCE = 1e-3  # of a logit: generous, and still in use


class Watched(RadixAttentionModel):
    """A model whose router is checked before and after every step.

    What is broken is noted in `broken`.
    """

    broken: ClassVar[list[str]] = []

    def step(self, *args: Any, **options: Any) -> T:
        self._check()
        logits = super().step(*args, **options)
        self._check()
        return logits

    def _check(self) -> None:
        try:
            self.router.check_integrity()
        except AssertionError as error:
            self.broken.append(str(error))


class PositionsRestart(AttentionExecutor):
    """New tokens after a hit are at positions 0, 1, … again."""

    def pack(self, chunks: Sequence[Chunk]) -> Batch:
        positions = torch.cat([torch.arange(len(chunk.tokens)) for chunk in chunks])
        return super().pack(chunks)._replace(positions=self._tensor(positions)[None])


class BrokenElsewhere(AttentionExecutor):
    """An executor that finds one function of the exact arithmetic replaced."""

    where: ClassVar[tuple[ModuleType, str]]

    def forward(self, chunks: Sequence[Chunk], *, all_logits: bool = False) -> T:
        right = getattr(*self.where)
        with patch.object(*self.where, partial(self.broken, right)):
            return super().forward(chunks, all_logits=all_logits)

    def broken(self, right: Callable[..., Any], *args: Any) -> Any:
        """What is done in place of `right`."""
        raise NotImplementedError


class MaskOneTooFar(BrokenElsewhere):
    """Every query after a hit looks at one token of its own future."""

    where = shared_tiles, "_hidden"

    def broken(self, right: Callable[..., Any], *args: Any) -> Any:
        hidden = right(*args)
        return np.concatenate([hidden[:, :1], hidden[:, :-1]], 1)


class WrittenTooLate(AttentionExecutor):
    """New K/V enter their pages only after attention has read them."""

    def compute_attention_with_cached_kv(
        self, layer: int, q: T, k: T, v: T, batch: Batch
    ) -> T:
        attended = self._attend(layer, q, k, v, batch)
        self.pool.write(layer, batch.slots, k[0], v[0])
        return attended


class RotatedTwice(AttentionExecutor):
    """The rotary embedding is applied to keys a second time."""

    def compute_attention_with_cached_kv(
        self, layer: int, q: T, k: T, v: T, batch: Batch
    ) -> T:
        rotary = self.decoder.rotary_emb(k, position_ids=batch.positions)
        k = apply_rotary_pos_emb(k, k, *rotary)[1]
        return super().compute_attention_with_cached_kv(layer, q, k, v, batch)


class WrittenUnrotated(AttentionExecutor):
    """Keys are stored as they were before the rotary embedding."""

    def compute_attention_with_cached_kv(
        self, layer: int, q: T, k: T, v: T, batch: Batch
    ) -> T:
        attended = super().compute_attention_with_cached_kv(layer, q, k, v, batch)
        cos, sin = self.decoder.rotary_emb(k, position_ids=batch.positions)
        self.pool.write(
            layer, batch.slots, apply_rotary_pos_emb(k, k, cos, -sin)[1][0], v[0]
        )
        return attended


class LastPagesSwapped(AttentionExecutor):
    """The last two pages of a sequence are read in the wrong order."""

    def _cached(self, chunks: Sequence[Chunk], rows: Any) -> CachedChunks:
        swapped = [chunk._replace(page_table=self._swapped(chunk)) for chunk in chunks]
        return super()._cached(swapped, rows)

    def _swapped(self, chunk: Chunk) -> Pages:
        end = chunk.start + len(chunk.tokens)
        n_pages = -(-end // self.pool.page_size)
        table = chunk.page_table.copy()
        table[:n_pages][-2:] = table[:n_pages][-2:][::-1].copy()
        return table


class FinerAngles(AttentionExecutor):
    """Rotary angles are computed in float64: better numbers, and other ones."""

    def forward_layer_with_cached_prefix(
        self, layer: int, hidden: T, rotary: tuple[T, T], batch: Batch
    ) -> T:
        angles = (
            batch.positions[..., None].double()
            * self.decoder.rotary_emb.inv_freq.double()
        )
        angles = torch.cat([angles, angles], -1)
        finer = angles.cos().to(hidden.dtype), angles.sin().to(hidden.dtype)
        return super().forward_layer_with_cached_prefix(layer, hidden, finer, batch)


class ScaleOneBitOff(AttentionExecutor):
    """After a hit, the scale of attention is larger by its last bit."""

    def _attend(self, layer: int, q: T, k: T, v: T, batch: Batch) -> T:
        if batch.cached is not None:
            q = q.clone()
            q[:, :, batch.cached.rows] *= 1 + torch.finfo(q.dtype).eps
        return super()._attend(layer, q, k, v, batch)


class MasksExchanged(BrokenElsewhere):
    """In a shared tile, every query meets the mask of the query before it."""

    where = shared_tiles, "_hidden"

    def broken(self, right: Callable[..., Any], *args: Any) -> Any:
        return np.roll(right(*args), 1, axis=0)


class OnePageShared(BrokenElsewhere):
    """Tiles that begin with the same page are taken to be the same."""

    where = shared_tiles, "_name"

    def broken(self, right: Callable[..., Any], depth: int, slots: Any) -> Any:
        return depth, int(slots[0])


class SumsSwapped(BrokenElsewhere):
    """The sums of two queries at their first tile are exchanged."""

    where = shared_tiles, "in_order"

    def broken(self, right: Callable[..., Any], tiles: Sequence[T]) -> Any:
        first, *others = tiles
        return right([torch.cat([first[:2].flip(0), first[2:]]), *others])


class StaleWeights(BrokenElsewhere):
    """A packed weight is used on after the weight has changed."""

    where = packed_weights, "_is_current"

    def forward(self, chunks: Sequence[Chunk], *, all_logits: bool = False) -> T:
        with patch.object(packed_weights, "onednn", self._onednn_or_copies):
            return super().forward(chunks, all_logits=all_logits)

    def broken(self, right: Callable[..., Any], *args: Any) -> Any:
        return True

    def _onednn_or_copies(self, dtype: torch.dtype) -> OneDNN:
        """Where oneDNN is missing nothing is packed; a plain copy can be as stale."""
        operations = onednn(dtype)
        if operations is None or not operations.is_on():
            return OneDNN(in_layout=T.clone, multiply=F.linear, is_on=lambda: True)
        return operations


class HeadsMispaired(KVPool):
    """Query heads read the K/V head beside their own."""

    def write(self, layer: int, slots: T, k: T, v: T) -> None:
        super().write(layer, slots, k.roll(1, dims=0), v.roll(1, dims=0))


class LastBitFlipped(KVPool):
    """K/V are cached with the other last bit."""

    def write(self, layer: int, slots: T, k: T, v: T) -> None:
        super().write(layer, slots, self._flipped(k), self._flipped(v))

    def _flipped(self, x: T) -> T:
        return (x.contiguous().view(torch.int32) ^ 1).view(x.dtype)


class OneLayerInBfloat16(KVPool):
    """Cached K/V of one layer have passed through bfloat16."""

    def write(self, layer: int, slots: T, k: T, v: T) -> None:
        if layer == 1:
            k = k.bfloat16().to(k.dtype)
            v = v.bfloat16().to(v.dtype)
        super().write(layer, slots, k, v)


class NeverLocks(RadixCache):
    """What a request relies on may be evicted."""

    def lock(self, node: Any) -> None:
        pass

    unlock = lock


class DuplicatesStillReferenced(Router):
    """Duplicate pages are freed, and the page table lists them still."""

    def commit(self, lease: Lease) -> None:
        before = lease.page_table.copy()
        super().commit(lease)
        lease.page_table[:] = before


class OneTokenTooMany(Router):
    """A full hit leaves no token to compute."""

    def _match(self, key: bytes, namespace: Hashable) -> Match:
        return self.cache.match(key, namespace)


class OneRootForAll(RadixCache):
    """A tenant's pages are found by every other tenant."""

    def _root(self, namespace: Hashable) -> Any:
        return super()._root(None)


class NotCutAtItsEnd(CacheNode):
    """A node that is left whole where a cut would take all of its edge."""

    def split(self, n_pages: int, page_bytes: int) -> Any:
        return (
            self if n_pages == len(self.pages) else super().split(n_pages, page_bytes)
        )


class WholeEdgeTaken(RadixCache):
    """If an edge's first page agrees, the rest is not compared."""

    node_type = NotCutAtItsEnd

    def _common_pages(self, edge: bytes, key: bytes, start: int) -> int:
        return min(len(edge), len(key) - start) // self.page_bytes


class TailShared(Watched):
    """Forks write into one and the same last page."""

    def fork(self, lease: Lease, max_new_tokens: int = 0) -> Lease:
        fork = super().fork(lease, max_new_tokens)
        fork.page_table[lease.n_shared] = lease.page_table[lease.n_shared]
        return fork


class NeverFlushes(Watched):
    """Pages outlive a change of weights."""

    def flush(self) -> None:
        pass


class Mutant(NamedTuple):
    """One fault: what is wrong, in a sentence, and the broken part, by its kind."""

    what: str
    parts: dict[str, Any]

    @property
    def model_type(self) -> type[RadixAttentionModel]:
        """A watched model that is made of it."""
        parts = dict(self.parts)
        base = parts.pop("model", Watched)
        types = {f"{kind}_type": part for kind, part in parts.items()}
        return type(base.__name__, (base,), types)


_BROKEN: dict[str, list[type]] = {
    "executor": [
        PositionsRestart,
        MaskOneTooFar,
        WrittenTooLate,
        RotatedTwice,
        WrittenUnrotated,
        LastPagesSwapped,
        ScaleOneBitOff,
        FinerAngles,
        MasksExchanged,
        OnePageShared,
        SumsSwapped,
        StaleWeights,
    ],
    "pool": [HeadsMispaired, OneLayerInBfloat16, LastBitFlipped],
    "cache": [NeverLocks, OneRootForAll, WholeEdgeTaken],
    "router": [DuplicatesStillReferenced, OneTokenTooMany],
    "model": [TailShared, NeverFlushes],
}

#: All of them: "positions restart", "mask one too far", …
MUTANTS: dict[str, Mutant] = {
    re.sub(r"\B(?=[A-Z])", " ", broken.__name__).lower(): Mutant(
        str(broken.__doc__), {kind: broken}
    )
    for kind, faults in _BROKEN.items()
    for broken in faults
}


class Finding(NamedTuple):
    """What each check has to say. A NaN is within no tolerance."""

    crashed: str  # the first error's text
    isolation: bool  # integrity was broken, or one tenant got another's pages
    max_abs_diff: float
    same_tokens: bool  # every greedy token is the same
    within_tolerance: bool
    differing: int  # numbers with at least one other bit

    @property
    def caught_by(self) -> str:
        """The first check that fails, or an empty string."""
        legs = {
            "integrity": self.isolation,
            "an error": bool(self.crashed),
            "tolerance": not self.within_tolerance,
            "tokens": not self.same_tokens,
            "bits": self.differing > 0,
        }
        return next((leg for leg, failed in legs.items() if failed), "")


def examine(
    model: Any,
    tokens: Sequence[int],
    mutant: Mutant,
    page_size: int = 4,
    states: Sequence[str] = tuple(CACHE_STATES),
) -> Finding:
    """Run the states with a mutant's parts, in batch-invariant arithmetic."""
    model_type = mutant.model_type
    Watched.broken.clear()
    totals: list[Total] = []
    errors: list[str] = []
    left = list(states)
    with batch_invariant():
        while left:
            # all that are left at once: they share what Hugging Face computes
            compared = compare_states(
                model,
                tokens,
                page_size=page_size,
                states=tuple(left),
                model_type=model_type,
            )
            try:
                for _, found in compared:
                    totals.append(found)
                    left.pop(0)
            except Exception as error:  # a finding; the states after it still run
                errors.append(f"{left.pop(0)}: {error}")
        try:
            small = model_type(model, None, page_size=page_size, n_pages=64)
            isolated = _tenants_are_apart(small, tokens)
        except Exception as error:
            isolated = True
            errors.append(f"full hit: {error}")
    worst = float(torch.tensor([0.0, *(found.max_abs_diff for found in totals)]).max())
    return Finding(
        crashed=errors[0] if errors else "",
        isolation=bool(Watched.broken) or not isolated,
        max_abs_diff=worst,
        same_tokens=all(found.same_top == found.rows for found in totals),
        within_tolerance=worst <= TOLERANCE,
        differing=sum(found.differing for found in totals),
    )


def _tenants_are_apart(model: RadixAttentionModel, tokens: Sequence[int]) -> bool:
    """What one tenant has cached, another must not find, though the numbers agree."""
    page_size = model.router.page_size
    whole = tokens[: len(tokens) // page_size * page_size]
    for _ in range(2):
        serve(model, whole, "one")
    with model.router.admit(whole, "two") as lease:
        return lease.n_cached == 0
