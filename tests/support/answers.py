"""What tests of generation share: a tokenizer, prompts, Hugging Face's own answers.

Logits are compared in float64, where all ways to compute them agree to about 1e-14.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from radix_lib.radix_model import RadixAttentionModel

Models = Callable[..., Any]
CLOSE = {"rtol": 0, "atol": 1e-10}


class Characters:
    """A tokenizer for tiny models: token i is the i-th printable character."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(character) - 32 for character in text]

    def decode(self, tokens: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(chr(32 + token) for token in tokens)


def some_tokens(n: int, seed: int = 0) -> list[int]:
    return torch.randint(
        3, 97, (n,), generator=torch.Generator().manual_seed(seed)
    ).tolist()


def hf_answer(model: Any, tokens: list[int], max_new_tokens: int = 32) -> list[int]:
    """What Hugging Face's own `generate` answers, greedily."""
    ids = torch.tensor([tokens])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return out[0, len(tokens) :].tolist()


@torch.inference_mode()
def hf_logits(model: Any, tokens: list[int]) -> Tensor:
    """Hugging Face's logits after the last of `tokens`."""
    return model(torch.tensor([tokens]), logits_to_keep=1).logits[0, -1]


def assert_idle(model: RadixAttentionModel) -> None:
    """Nobody holds anything, and the books are in order."""
    model.router.check_integrity()
    usage = model.router.usage()
    assert (usage.locked, usage.private, len(model.router.leases)) == (0, 0, 0)


def state(model: RadixAttentionModel) -> tuple[Any, ...]:
    """What a refused call leaves alone: K/V, counts, tree, leases, totals."""
    nodes = [
        (node.key, node.pages.tolist(), node.lock_ref) for node in model.cache.nodes()
    ]
    leases = [
        (lease.key, lease.n_computed, lease.n_shared, lease.page_table.tolist())
        for lease in model.router.leases
    ]
    counts = model.cache.page_manager.ref_counts.tolist()
    return model.pool.data.tolist(), counts, sorted(nodes), leases, model.stats()
