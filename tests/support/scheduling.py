"""A stand-in model that remembers what was written where, and requests drawn by lot."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple
from zlib import crc32

from radix_lib.admission import NewTokenRatio
from radix_lib.orders import ORDERS
from radix_lib.radix_tree import pack_tokens
from radix_lib.request import Request, Step
from radix_lib.router import Lease
from radix_lib.scheduler import Scheduler
from radix_lib.teaching.checks.oracle import Memory
from radix_lib.token_time import TokenTime
from tests.support.oracle import check_idle, check_router


class RememberingModel(TokenTime):
    """Token time with a memory: what a lease reads must be its own, in every step."""

    def __init__(self, n_pages: int, page_size: int, **more: Any):
        super().__init__(n_pages, page_size, **more)
        self.memory = Memory(page_size)

    def step(self, leases: Sequence[Lease], n_tokens: Sequence[int]) -> list[int]:
        for lease in leases:
            self.router.check_live(lease)
            self.memory.check(lease)
        for lease, n in zip(leases, n_tokens, strict=True):
            first = lease.n_computed
            assert 0 < n <= lease.n_tokens - first
            self.memory.write(lease, range(first, first + n))
        return super().step(leases, n_tokens)


def answer_alone(
    prompt: Sequence[int], max_new_tokens: int, stop: Sequence[int] = ()
) -> list[int]:
    """What a stand-in of 50,000 tokens answers, worked out without a scheduler."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + max_new_tokens:
        tokens.append(crc32(pack_tokens(tokens)) % 50_000)
        if tokens[-1] in stop:
            break
    return tokens[len(prompt) :]


class Asked(NamedTuple):
    """A request of a drawn schedule."""

    at_step: int
    prompt: list[int]
    max_new_tokens: int
    namespace: Hashable
    priority: int
    cancel_at: int | None  # a step


class Drawn(NamedTuple):
    """A schedule: the pool, the scheduler's settings, and the requests."""

    n_pages: int
    page_size: int
    settings: dict[str, Any]
    requests: list[Asked]


def draw(seed: int, n_words: int = 3, longest: int = 40) -> Drawn:
    """Requests that share beginnings, in a pool in which two or three have room."""
    rng = random.Random(seed)
    page_size = rng.choice([1, 2, 3, 4, 8])
    words = [[rng.randrange(60) for _ in range(rng.randint(1, 9))] for _ in range(4)]
    requests = []
    for _ in range(rng.randint(2, 10)):
        prompt = [t for _ in range(rng.randint(0, n_words)) for t in rng.choice(words)]
        prompt += [rng.randrange(60) for _ in range(rng.randint(1, 6))]
        prompt = prompt[: longest - 1]
        requests.append(
            Asked(
                at_step=rng.choice([0, 0, rng.randint(0, 12)]),
                prompt=prompt,
                max_new_tokens=rng.randint(1, min(20, longest - len(prompt))),
                namespace=rng.choice([None, None, None, "other"]),
                priority=rng.choice([0, 0, 0, 1]),
                cancel_at=rng.choice([None, None, None, rng.randint(0, 20)]),
            )
        )
    most = max(len(r.prompt) + r.max_new_tokens for r in requests)
    n_pages = -(-most // page_size) + rng.randint(0, 8 // page_size + 1)
    budget = rng.randint(1, 24)
    share = rng.choice([0.0, 0.0, 0.1, 0.7, 1.0])
    settings = {
        "token_budget": budget,
        "max_running": rng.randint(1, budget),
        "chunk_tokens": rng.choice([None, rng.randint(1, 9)]),
        "order": rng.choice(list(ORDERS)),
        "patience": rng.choice([1, 3, 256]),
        "prefill_first": rng.random() < 0.3,
        "share_in_batch": rng.random() < 0.5,
        "lpm_fallback": rng.choice([None, 2]),
        "ratio": NewTokenRatio(share, share),
    }
    return Drawn(n_pages, page_size, settings, requests)


def play_drawn(
    drawn: Drawn,
    model: Any,
    scheduler_type: type[Scheduler] = Scheduler,
    check: Any = None,
) -> tuple[list[Request], list[Step]]:
    """Run a schedule to its end, with all checks of the router after every step."""
    scheduler = scheduler_type(model, **drawn.settings)
    requests: dict[int, Request] = {}
    steps: list[Step] = []
    last = max(asked.at_step for asked in drawn.requests)
    while scheduler.n_unfinished or len(steps) <= last:
        for i, asked in enumerate(drawn.requests):
            if asked.at_step == len(steps):
                requests[i] = scheduler.submit(
                    asked.prompt,
                    asked.max_new_tokens,
                    namespace=asked.namespace,
                    priority=asked.priority,
                )
            if asked.cancel_at == len(steps) and i in requests:
                requests[i].cancel()
        steps.append(scheduler.advance())
        check_scheduler(scheduler)
        assert len(steps) < 5_000, "it never ends"
    check_idle(model.router)
    return [requests[i] for i in range(len(drawn.requests))], steps


def check_scheduler(scheduler: Scheduler) -> None:
    """All that must hold between two steps."""
    router = scheduler.router
    check_router(router, getattr(scheduler.model, "memory", None))
    assert [r.number for r in scheduler.waiting] == sorted(
        r.number for r in scheduler.waiting
    )
    assert {*scheduler.waiting, *scheduler.running} == {*scheduler.unfinished.values()}
    assert not {*scheduler.waiting} & {*scheduler.running}
    assert {r.lease for r in scheduler.running} == {*router.leases}
    for request in scheduler.unfinished.values():
        runs = request in scheduler.running
        state = "running" if runs else "waiting"
        assert request.state == (request.outcome or state)
        if request.lease:
            assert request.key.startswith(request.lease.key)
            assert request.n_pending > 0 or request.outcome
