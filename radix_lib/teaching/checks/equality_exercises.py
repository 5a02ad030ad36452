"""Chapter 11: the check of its longest exercise.

It takes what the reader wrote and raises AssertionError where it goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: The largest score, the sum of weights and the weighted sum of values of some tokens.
Triple = tuple[Tensor, Tensor, Tensor]


def merges_halves(
    scores: Tensor, values: Tensor
) -> Callable[[Callable[[Triple, Triple], Triple]], None]:
    """A contract: `merge(one, other)` of two parts' triples is the triple of all.

    `scores` are [tokens], `values` are [tokens, head_dim].
    """

    def triple(scores: Tensor, values: Tensor) -> Triple:
        weights = torch.exp(scores - scores.max())
        return scores.max(), weights.sum(), weights @ values

    def contract(merge: Callable[[Triple, Triple], Triple]) -> None:
        for cut in (1, len(scores) // 4, len(scores) - 1):
            for shift in (-200.0, 0.0, 200.0):
                moved = torch.cat([scores[:cut] + shift, scores[cut:]])
                one = triple(moved[:cut], values[:cut])
                other = triple(moved[cut:], values[cut:])
                found = merge(one, other)
                due = triple(moved, values)
                doing = f"the first {cut} scores {shift:+.0f}"
                names = ("top", "weight", "total")
                for name, ours, theirs in zip(names, found, due, strict=True):
                    same = torch.allclose(torch.as_tensor(ours), theirs, atol=1e-4)
                    assert same, f"{doing}: wrong {name}"

    return contract
