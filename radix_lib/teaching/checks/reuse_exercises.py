"""Chapter 01: the check of its longest exercise.

It takes what the reader wrote and raises AssertionError where it goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class _Forward:
    """Runs tokens through a model, and remembers how many at a time."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.sizes: list[int] = []

    def __call__(self, ids: Sequence[int], cache: Any) -> Tensor:
        self.sizes.append(len(ids))
        given = torch.tensor([list(ids)])
        output = self.model(given, past_key_values=cache, logits_to_keep=1)
        logits: Tensor = output.logits[0, -1]
        return logits


def computes_in_pieces(
    model: Any, prompt: Sequence[int], atol: float = 0.01
) -> Callable[[Callable[..., Any]], None]:
    """A contract: `in_pieces(forward, ids, size)` gives the logits of the whole prompt.

    `forward(ids, cache)` runs the model; no call has more than `size` tokens, and each
    token is given once.
    """

    def contract(in_pieces: Callable[..., Any]) -> None:
        with torch.inference_mode():
            whole = _Forward(model)(prompt, None)
            for size in (len(prompt), 40, 7):
                forward = _Forward(model)
                logits = in_pieces(forward, prompt, size)
                assert logits is not None, "nothing was returned"
                most = max(forward.sizes)
                assert most <= size, f"{most} tokens at a time, not {size}"
                n = sum(forward.sizes)
                assert n == len(prompt), f"{n} tokens were given, not {len(prompt)}"
                apart = float((logits - whole).abs().max())
                told = f"in pieces of {size}, logits are off by {apart:.2g}"
                assert apart <= atol, told

    return contract
