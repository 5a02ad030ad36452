"""Chapter 08: schedules drawn by lot, and what must hold of each.

A schedule is a pool, the settings of a scheduler, and requests that come, share
beginnings, go on from each other's answers and are cancelled at odd moments. Whatever a
scheduler makes of it, every answer is what the request alone would get.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

from radix_lib.admission import NewTokenRatio
from radix_lib.orders import ORDERS
from radix_lib.request import Request, Step
from radix_lib.router import Lease
from radix_lib.scheduler import Scheduler
from radix_lib.teaching.checks.oracle import Memory
from radix_lib.token_time import TokenTime

VOCABULARY = 64


class Asked(NamedTuple):
    """A request of a drawn schedule."""

    at_step: int
    prompt: list[int]
    max_new_tokens: int
    namespace: Hashable
    priority: int
    stop: list[int]
    seed: int | None  # None: greedy
    cancel_in: int | None  # a step, in the middle of which it is cancelled
    follows: int | None  # a request whose tokens come before the prompt

    @property
    def most_tokens(self) -> int:
        """How many tokens it can have, without those of the request that it follows."""
        return len(self.prompt) + self.max_new_tokens


class Drawn(NamedTuple):
    """A schedule: the pool, the scheduler's settings, and the requests."""

    n_pages: int
    page_size: int
    settings: dict[str, Any]
    requests: list[Asked]


def draw_schedule(seed: int, longest: int = 40) -> Drawn:
    """Requests of at most `longest` tokens, in a pool with room for one or two.

    >>> draw_schedule(0).requests == draw_schedule(0).requests
    True
    """
    rng = random.Random(seed)
    words = [_tokens(rng, rng.randint(3, 9)) for _ in range(4)]
    requests: list[Asked] = []
    sizes: list[int] = []  # the most tokens of each, with what it follows
    for number in range(rng.randint(4, 10)):
        asked = _draw_request(rng, words, number, longest)
        size = asked.most_tokens
        if asked.follows is not None:
            size += sizes[asked.follows]
        if size > longest:
            asked = asked._replace(follows=None)
            size = asked.most_tokens
        requests.append(asked)
        sizes.append(size)
    page_size = rng.choice([1, 2, 3, 4, 8])
    n_pages = -(-max(sizes) // page_size) + rng.randint(0, 4 // page_size + 1)
    return Drawn(n_pages, page_size, _draw_settings(rng), requests)


def _draw_request(
    rng: random.Random, words: list[list[int]], number: int, longest: int
) -> Asked:
    first, *_ = words
    spoken = (
        [first, *rng.choices(words, k=rng.randint(0, 2))] if rng.random() < 0.7 else []
    )
    prompt = [token for word in spoken for token in word]
    prompt = [*prompt, *_tokens(rng, rng.randint(1, 6))][: longest // 2]
    return Asked(
        at_step=rng.choice([0, 0, rng.randint(0, 12)]),
        prompt=prompt,
        max_new_tokens=min(longest - len(prompt), rng.choice([1, 4, 12, 20])),
        namespace=rng.choice([None, None, None, "other"]),
        priority=rng.choice([0, 0, 0, 1]),
        stop=_tokens(rng, rng.choice([0, 0, 0, 2])),
        seed=rng.choice([None, None, rng.randrange(100)]),
        cancel_in=rng.choice([None, None, None, rng.randint(0, 20)]),
        follows=rng.randrange(number) if number and rng.random() < 0.4 else None,
    )


def _draw_settings(rng: random.Random) -> dict[str, Any]:
    budget = rng.choice([1, 3, *range(6, 25)])
    share = rng.choice([0.0] * 7 + [0.1, 0.7, 1.0])
    return {
        "token_budget": budget,
        "max_running": rng.choice([budget, rng.randint(1, budget)]),
        "chunk_tokens": rng.choice([None, rng.randint(1, 9)]),
        "order": rng.choice(list(ORDERS)),
        "patience": rng.choice([1, 3, 256]),
        "prefill_first": rng.random() < 0.3,
        "share_in_batch": rng.random() < 0.5,
        "lpm_fallback": rng.choice([None, 2]),
        "ratio": NewTokenRatio(share, share, decay=rng.choice([0.001, 1.0])),
    }


def _tokens(rng: random.Random, n: int) -> list[int]:
    return [rng.randrange(VOCABULARY) for _ in range(n)]


# ── Playing a schedule ────────────────────────────────────────────────────────────────


class Played(NamedTuple):
    """What came of a schedule."""

    requests: list[Request]  # in the order of the schedule
    steps: list[Step]


def play_schedule(
    drawn: Drawn,
    model: Any,
    scheduler_type: type[Scheduler] = Scheduler,
    options: Callable[[Asked], dict[str, Any]] = lambda asked: {"stop": asked.stop},
    after_step: Callable[[Scheduler, Step], Any] = lambda scheduler, step: None,
) -> Played:
    """Run a schedule to its end.

    `options` are what `submit` gets for sampling. Raises AssertionError where the books
    do not add up, a request does not end as it should, or pages are held in the end.
    """
    scheduler = _meddled_with(scheduler_type)(model, **drawn.settings)
    requests: dict[int, Request] = {}
    steps: list[Step] = []

    def cancel_some() -> None:
        for i, asked in enumerate(drawn.requests):
            if i in requests and asked.cancel_in == len(steps):
                requests[i].cancel()

    scheduler.meddle = cancel_some
    while scheduler.n_unfinished or len(requests) < len(drawn.requests):
        for i, asked in enumerate(drawn.requests):
            if i not in requests and _is_due(asked, requests, len(steps)):
                prompt = asked.prompt
                if asked.follows is not None:
                    before = requests[asked.follows]
                    prompt = [*before.prompt, *before.output, *prompt]
                requests[i] = scheduler.submit(
                    prompt,
                    asked.max_new_tokens,
                    namespace=asked.namespace,
                    priority=asked.priority,
                    **options(asked),
                )
        steps.append(scheduler.advance())
        after_step(scheduler, steps[-1])
        _check_step(scheduler, steps[-1])
        for i, request in requests.items():
            if request.lease:
                due = drawn.requests[i].namespace
                assert request.lease.namespace == due, "it is in another's namespace"
        assert len(steps) < 5_000, "it never comes to an end"
    usage = model.router.usage()
    assert usage.locked == usage.private == 0, f"pages are held in the end: {usage}"
    return Played([requests[i] for i in range(len(requests))], steps)


def _meddled_with(scheduler_type: type[Scheduler]) -> Any:
    """A scheduler in the middle of whose steps others call `meddle`, as threads may."""

    class Meddled(scheduler_type):  # type: ignore[valid-type,misc]
        def _admit(self, step: Step) -> None:
            self.meddle()
            super()._admit(step)

    return Meddled


def _is_due(asked: Asked, requests: dict[int, Request], n_steps: int) -> bool:
    if asked.follows is None:
        return asked.at_step <= n_steps
    return asked.follows in requests and requests[asked.follows].outcome != ""


def _check_step(scheduler: Scheduler, step: Step) -> None:
    """What holds after every step."""
    scheduler.router.check_integrity()
    counts = step.computed.values()
    assert sum(counts) + step.budget == scheduler.token_budget, "the budget is wrong"
    assert step.budget >= 0, "more was computed than the budget allows"
    assert all(0 < n <= scheduler.chunk_tokens for n in counts), "a chunk is too large"
    assert len(counts) <= scheduler.max_running, "too many ran at once"
    assert not step.failed, f"failed: {step.failed[0].error!r}"


# ── A stand-in that knows what was written where ──────────────────────────────────────


class RememberingModel(TokenTime):
    """Token time with a memory: whatever a step reads must be the request's own."""

    def __init__(self, n_pages: int, page_size: int, policy: str = "lru"):
        super().__init__(n_pages, page_size, policy=policy, vocab_size=VOCABULARY)
        self.memory = Memory(page_size)

    def step(self, leases: Sequence[Lease], n_tokens: Sequence[int]) -> list[int]:
        """As in token time, after a look at all K/V that are read."""
        for lease in leases:
            self.router.check_live(lease)
            self.memory.check(lease)
        for lease, n in zip(leases, n_tokens, strict=True):
            first = lease.n_computed
            assert 0 < n <= lease.n_tokens - first, f"{n} tokens cannot be computed"
            self.memory.write(lease, range(first, first + n))
        return super().step(leases, n_tokens)


def alone(model: TokenTime, request: Request) -> list[int]:
    """What a stand-in answers to a request without any scheduler or cache."""
    tokens = request.prompt
    for place in range(request.max_new_tokens):
        row = model.next_token(tokens)
        tokens.append(request.sampler.choose(row, place))
        if tokens[-1] in request.sampler.ends:
            break
    return tokens[request.n_prompt :]


def check_answers(model: TokenTime, played: Played) -> None:
    """Raise AssertionError unless every answer is what the request alone would get."""
    for request in played.requests:
        due = alone(model, request)
        if request.state == "cancelled":
            due = due[: request.n_output]
        else:
            assert request.state == "finished", f"a request was {request.state}"
        assert request.output == due, (
            f"request {request.number} was answered {request.output}, alone {due}"
        )
