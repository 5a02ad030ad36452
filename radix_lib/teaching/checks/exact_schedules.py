"""Chapter 08: a schedule on a real model, beside Hugging Face's forward, bit by bit.

All logits that any step computes are held against Hugging Face's own forward of that
request alone, in whatever arithmetic is in force, and every token against the one that
those logits lead to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, stack

from radix_lib.equality import baseline_logits, compare_logits
from radix_lib.radix_model import RadixAttentionModel
from radix_lib.radix_tree import unpack_tokens
from radix_lib.request import Request, Step
from radix_lib.router import Lease
from radix_lib.scheduler import Scheduler
from radix_lib.teaching.checks.cache_states import Seen, Total, total
from radix_lib.teaching.checks.schedules import Asked, Drawn, play_schedule


class RecordingModel(RadixAttentionModel):
    """A model that keeps all logits of its steps in `seen`."""

    def __init__(self, *args: Any, **pool: Any):
        super().__init__(*args, **pool)
        self.seen: list[Seen] = []

    def step(
        self,
        leases: Sequence[Lease],
        n_tokens: Sequence[int],
        *,
        all_logits: bool = False,
    ) -> Tensor:
        """As in the model."""
        logits = super().step(leases, n_tokens, all_logits=True)
        parts = logits.split(list(n_tokens))
        for lease, part in zip(leases, parts, strict=True):
            self.seen.append(Seen(tuple(lease.tokens[: lease.n_computed]), part))
        return logits if all_logits else stack([part[-1] for part in parts])


def sampling_of(asked: Asked) -> dict[str, Any]:
    """What `submit` gets for a drawn request: greedy, or sampled with its seed."""
    if asked.seed is None:
        return {"stop": asked.stop}
    return {"stop": asked.stop, "temperature": 1.0, "top_p": 0.9, "seed": asked.seed}


def compare_schedule(
    model: Any,
    drawn: Drawn,
    scheduler_type: type[Scheduler] = Scheduler,
    after_step: Callable[[Scheduler, Step], Any] = lambda scheduler, step: None,
) -> tuple[Total, list[Step]]:
    """Play a schedule on `model` and compare all logits with Hugging Face's.

    Raises AssertionError if a request ends as it should not, or with other tokens than
    Hugging Face's logits lead to. Returns the comparison of logits, and the steps.
    """
    size = {"page_size": drawn.page_size, "n_pages": drawn.n_pages}
    ours = RecordingModel(model, None, **size)
    requests, steps = play_schedule(
        drawn, ours, scheduler_type, sampling_of, after_step
    )
    theirs = {}
    for asked, request in zip(drawn.requests, requests, strict=True):
        tokens = tuple(unpack_tokens(request.key))
        theirs[tokens] = baseline_logits(model, tokens, all_logits=True)
        sampler = ours.sampler(**sampling_of(asked))
        _check_tokens(request, theirs[tokens], sampler.choose)
    comparisons = []
    for seen in ours.seen:
        rows = _rows_of(seen, theirs)
        comparisons.append((compare_logits(seen.logits, rows), rows.numel()))
    return total(comparisons), steps


def _check_tokens(
    request: Request, theirs: Tensor, choose: Callable[[Tensor, int], int]
) -> None:
    rows = theirs[request.n_prompt - 1 :]
    due = [choose(rows[place], place) for place in range(request.n_output)]
    assert request.output == due, f"{request.output}, but alone {due}"
    assert request.state == "cancelled" or request.is_complete, "it ended too early"


def _rows_of(seen: Seen, theirs: dict[tuple[int, ...], Tensor]) -> Tensor:
    """Their logits for the same tokens, from a forward of the request alone."""
    n_tokens = len(seen.tokens)
    for tokens, logits in theirs.items():
        if tokens[:n_tokens] == seen.tokens:
            return logits[n_tokens - len(seen.logits) : n_tokens]
    raise AssertionError(f"nobody asked for {seen.tokens}")
