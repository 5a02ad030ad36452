"""Chapter 06: the check of its longest exercise.

It takes what the reader wrote and raises AssertionError where it goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

PAGE_SIZE = 16
SCALING = 0.125

#: From a query, pages of K and V, the number of tokens and a factor to the values.
PagedAttention = Callable[[Tensor, Iterable[tuple[Tensor, Tensor]], int, float], Tensor]


def attends_by_page(paged_attention: PagedAttention) -> None:
    """Attention that sees one page at a time gives what attention over all gives.

    Pages are [16, head_dim]. The last may be filled in part, and each is gone (NaN)
    when the next one comes.
    """
    generator = torch.Generator().manual_seed(0)
    for n_tokens, size in ((1, 1), (16, 1), (17, 1), (60, 1), (60, 100), (1, -10)):
        k, v = torch.randn(2, 64, 64, generator=generator) * 3
        query = torch.randn(64, generator=generator) * size
        if size < 0:  # against its own key, so that its only score is far below 0
            query = size * k[0]
        due = (k[:n_tokens] @ query * SCALING).softmax(0) @ v[:n_tokens]
        n_pages = -(-n_tokens // PAGE_SIZE)
        pages = list(zip(k.split(PAGE_SIZE), v.split(PAGE_SIZE), strict=True))
        found = paged_attention(query, _one_by_one(pages[:n_pages]), n_tokens, SCALING)
        scores = "large scores" if abs(size) > 1 else "small scores"
        apart = (found - due).abs().max()
        assert apart <= 1e-4, f"{n_tokens} tokens, {scores}: it differs"


def _one_by_one(pages: list[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    for k, v in pages:
        yield k, v
        k.fill_(torch.nan)
        v.fill_(torch.nan)
