"""Everything at once, over a tiny model: answers are what Hugging Face's model says."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from radix_lib.executor import Chunk
from radix_lib.page_manager import KVPool
from radix_lib.radix_model import RadixAttentionModel
from radix_lib.request import Request
from radix_lib.router import Lease
from radix_lib.teaching.checks.cache_states import tiny_model
from tests.support.answers import CLOSE, Characters, hf_answer, hf_logits
from tests.support.planting import Fault
from tests.support.state_machine import Machine, play
from tests.support.watched import WatchedRouter

QUICK_SEEDS = range(6)
N_OPERATIONS = 100  # a machine


class WatchedModel(RadixAttentionModel):
    """A model over a watched router, which is told of every forward."""

    router_type = WatchedRouter
    router: WatchedRouter

    def _forward(self, chunks: Sequence[Chunk], all_logits: bool = False) -> Tensor:
        rows = super()._forward(chunks, all_logits)
        for chunk in chunks:
            self.router.note(chunk.page_table, chunk.start, chunk.tokens)
        return rows


@cache
def hf_model() -> Any:
    """In float64, where all ways to compute logits agree on the largest."""
    return tiny_model(dtype=torch.float64)


class ModelMachine(Machine):
    """A machine over a model that computes."""

    def draw_model(self, policy: str) -> WatchedModel:
        size = {"page_size": self.page_size, "n_pages": self.n_pages}
        self.note("model", size, policy)
        return WatchedModel(hf_model(), Characters(), policy=policy, **size)

    def due(self, request: Request) -> list[int]:
        answer = hf_answer(hf_model(), request.prompt, request.max_new_tokens)
        ends = (i for i, t in enumerate(answer, 1) if t in request.sampler.ends)
        return answer[: next(ends, None)]

    def check_row(self, lease: Lease, row: Tensor) -> None:
        due = hf_logits(hf_model(), lease.tokens[: lease.n_computed])
        torch.testing.assert_close(row, due, **CLOSE)

    def stream(self, tokens: list[int], name: Hashable) -> Iterator[object]:
        for answer in self.model.stream(tokens, 1, namespace=name):
            assert answer.tokens == hf_answer(hf_model(), tokens, 1)
            yield answer


def test_everything_at_once_changes_no_answer_of_a_model(one_thread: None) -> None:
    counts = play(QUICK_SEEDS, N_OPERATIONS, ModelMachine)
    print(f"\n{counts['operations']:,} operations:", dict(sorted(counts.items())))
    assert counts["operations"] == 600


@pytest.mark.long
def test_everything_at_once_changes_no_answer_of_a_model_at_length(
    one_thread: None,
) -> None:
    counts = play(range(1_000, 1_200), N_OPERATIONS, ModelMachine)
    print(f"\n{counts['operations']:,} operations:", dict(sorted(counts.items())))
    assert counts["operations"] == 20_000


FAULTS = {
    "a fork lacks what is in its last page": Fault(
        RadixAttentionModel,
        "_fork",
        "self.pool.copy_page(lease.page_table[tail], fork.page_table[tail])",
        "pass",
    ),
    "a fork is copied to its origin": Fault(
        KVPool,
        "copy_page",
        "self.data[:, target] = self.data[:, self.checked(source)]",
        "self.data[:, source] = self.data[:, target]",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(
    name: str, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    FAULTS[name].plant(monkeypatch)
    with pytest.raises(AssertionError, match="seed") as found:
        play(QUICK_SEEDS, N_OPERATIONS, ModelMachine)
    print(str(found.value).splitlines()[-1])
