"""Chapter 10: dispatch. Which of many workers gets a request, in token time.

A policy sees a prompt and how much each worker has to do, and names a worker. What it
believes of their caches stands in a `PrefixIndex`: filled with past requests, as in
SGLang's router, or with what the workers tell of their caches (`kv_events`).

Left out here: processes and HTTP (`fleet`). Sources: `sglang-router` 0.3.2 (cache_aware
and its thresholds); production-stack (prefix share minus load); Dynamo (prefill blocks
after the overlap, plus decode blocks).
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Protocol
from zlib import crc32

from radix_lib.kv_events import BlockStored, PrefixIndex, TellingCache, block_hashes
from radix_lib.radix_tree import pack_tokens, whole_number
from radix_lib.request import Request
from radix_lib.scheduler import Scheduler
from radix_lib.token_time import Arrival, TokenTime, timetable

Tokens = Sequence[int]


class TellingTime(TokenTime):
    """A stand-in for a model whose cache tells what it stores and evicts."""

    cache_type = TellingCache


class Worker:
    """A worker of a fleet in token time: a scheduler, and what it has to do."""

    def __init__(self, number: int, n_pages: int, page_size: int):
        self.number = number
        self.model = TellingTime(n_pages, page_size)
        self.scheduler = Scheduler(self.model)
        self.n_requests = 0  # under way
        self.n_tokens = 0  # of their prompts and answers

    def submit(self, arrival: Arrival, now: float) -> Request:
        """Take a request; a worker that had nothing to do has waited until now."""
        if not self.n_requests:
            self.model.now = max(self.model.now, now)
        self.n_requests += 1
        self.n_tokens += len(arrival.prompt) + arrival.max_new_tokens
        request = self.scheduler.submit(
            arrival.prompt, arrival.max_new_tokens, **arrival.options
        )
        request.submitted_at = now
        return request

    def ended(self, request: Request) -> None:
        """A request is over."""
        self.n_requests -= 1
        self.n_tokens -= request.n_prompt + request.max_new_tokens


class Policy(Protocol):
    """Chooses workers, and may learn from what it chose or what workers tell."""

    def choose(self, prompt: Tokens, workers: Sequence[Worker]) -> Worker:
        """The worker that gets a prompt."""

    def hear(self, worker: Worker) -> None:
        """A worker has taken a step."""


def least_loaded(workers: Sequence[Worker]) -> Worker:
    """The worker with the fewest requests under way; of several, the first."""
    return min(workers, key=lambda worker: worker.n_requests)


class AtRandom:
    """Any worker, by lot."""

    def __init__(self, seed: int = 0):
        self.random = random.Random(seed)

    def choose(self, prompt: Tokens, workers: Sequence[Worker]) -> Worker:
        """The worker that gets a prompt."""
        return self.random.choice(workers)

    def hear(self, worker: Worker) -> None:
        """It learns nothing."""


class RoundRobin:
    """One worker after another."""

    def __init__(self) -> None:
        self.n_chosen = 0

    def choose(self, prompt: Tokens, workers: Sequence[Worker]) -> Worker:
        """The worker that gets a prompt."""
        worker = workers[self.n_chosen % len(workers)]
        self.n_chosen += 1
        return worker

    def hear(self, worker: Worker) -> None:
        """It learns nothing."""


class ConsistentHashing:
    """The same first tokens always go to the same worker, whatever it has to do.

    Each worker stands at several places of a ring of hashes; a prompt goes to the next.
    A worker that is added takes over its share of the prompts and moves no others.
    """

    def __init__(self, n_tokens: int = 64, n_places: int = 32):
        self.n_tokens = n_tokens
        self.n_places = n_places
        self.ring: list[tuple[int, int]] = []  # (place, worker)

    def choose(self, prompt: Tokens, workers: Sequence[Worker]) -> Worker:
        """The worker that gets a prompt."""
        if len(self.ring) != len(workers) * self.n_places:
            self.ring = sorted(
                (crc32(f"{worker.number} {i}".encode()), worker.number)
                for worker in workers
                for i in range(self.n_places)
            )
        place = crc32(pack_tokens(list(prompt[: self.n_tokens])))
        at = bisect_left(self.ring, (place, 0)) % len(self.ring)
        _, number = self.ring[at]
        return workers[number]

    def hear(self, worker: Worker) -> None:
        """It learns nothing."""


class WithIndex:
    """What policies have in common that believe something of the workers' caches.

    Without `exact` they believe that a worker has whatever it was sent; with it, what
    the worker tells.
    """

    def __init__(self, block_size: int = 16, *, exact: bool = False):
        self.index = PrefixIndex(block_size)
        self.exact = exact

    def hear(self, worker: Worker) -> None:
        """Take in what a worker tells of its cache."""
        cache: Any = worker.model.router.cache
        events = cache.take_events()
        if self.exact:
            self.index.apply(worker.number, events)

    def remember(self, prompt: Tokens, worker: Worker) -> None:
        """Believe that a worker has this prompt from now on."""
        if self.exact:
            return
        size = self.index.block_size
        names = block_hashes(pack_tokens(list(prompt)), size)
        self.index.apply(worker.number, [BlockStored(names, None, [], size)])


class CacheAware(WithIndex):
    """SGLang's router: the longest match, unless that is short or the load uneven.

    Uneven: most minus fewest requests above `balance_abs`, and most above
    `balance_rel` times the fewest. Then, and below the `threshold`, least loaded.
    """

    def __init__(
        self,
        block_size: int = 16,
        *,
        threshold: float = 0.3,
        balance_abs: int = 64,
        balance_rel: float = 1.5,
        exact: bool = False,
    ):
        super().__init__(block_size, exact=exact)
        self.threshold = threshold
        self.balance_abs = balance_abs
        self.balance_rel = balance_rel

    def choose(self, prompt: Tokens, workers: Sequence[Worker]) -> Worker:
        """The worker that gets a prompt."""
        worker = self._choose(prompt, workers)
        self.remember(prompt, worker)
        return worker

    def _choose(self, prompt: Tokens, workers: Sequence[Worker]) -> Worker:
        loads = [worker.n_requests for worker in workers]
        most, fewest = max(loads), min(loads)
        uneven = most - fewest > self.balance_abs and most > self.balance_rel * fewest
        found = {} if uneven else self.index.match(list(prompt))
        if not found:
            return least_loaded(workers)
        best = max(found, key=lambda number: found[number])
        if found[best] <= self.threshold * len(prompt):
            return least_loaded(workers)
        return workers[best]


class PrefixMinusLoad(WithIndex):
    """The share of the prompt that is cached, minus `beta` times the relative load."""

    def __init__(self, block_size: int = 16, *, beta: float = 0.3, exact: bool = False):
        super().__init__(block_size, exact=exact)
        self.beta = beta

    def choose(self, prompt: Tokens, workers: Sequence[Worker]) -> Worker:
        """The worker that gets a prompt."""
        found = self.index.match(list(prompt))
        mean = sum(worker.n_requests for worker in workers) / len(workers) or 1.0

        def score(worker: Worker) -> float:
            share = found.get(worker.number, 0) / len(prompt)
            return share - self.beta * worker.n_requests / mean

        worker = max(workers, key=score)
        self.remember(prompt, worker)
        return worker


class FewestBlocks(WithIndex):
    """The fewest blocks: those of the prompt to compute, plus those under way."""

    def choose(self, prompt: Tokens, workers: Sequence[Worker]) -> Worker:
        """The worker that gets a prompt."""
        found = self.index.match(list(prompt))

        def cost(worker: Worker) -> int:
            n_to_prefill = len(prompt) - found.get(worker.number, 0)
            return n_to_prefill + worker.n_tokens

        worker = min(workers, key=cost)
        self.remember(prompt, worker)
        return worker


# ── A fleet in token time ────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Dispatched:
    """What came of a workload that was dispatched to a fleet."""

    requests: list[Request]  # in order of arrival
    workers: list[int]  # the number of the worker of each
    predicted: list[int]  # cached tokens that the policy expected of each
    n_workers: int

    @property
    def requests_of(self) -> list[int]:
        """How many requests each worker got."""
        counts = [0] * self.n_workers
        for number in self.workers:
            counts[number] += 1
        return counts

    @property
    def spread(self) -> float:
        """The most requests that a worker got ÷ the mean; 0 if there were none."""
        counts = self.requests_of
        return max(counts) * len(counts) / (sum(counts) or 1)


def dispatch(
    arrivals: Sequence[Arrival],
    policy: Policy,
    n_workers: int,
    *,
    n_pages: int = 1024,
    page_size: int = 16,
) -> Dispatched:
    """Play arrivals to a fleet of workers, each on its own clock.

    Policies compare prompts alone: raises ValueError for an arrival with a namespace,
    and as `timetable` does.
    """
    n_workers = whole_number(n_workers, "n_workers", least=1)
    for number, arrival in enumerate(arrivals):
        if arrival.options.get("namespace") is not None:
            raise ValueError(
                f"arrival {number} has the namespace {arrival.options['namespace']!r}, "
                "and no policy here looks at it: leave it out"
            )
    workers = [Worker(number, n_pages, page_size) for number in range(n_workers)]
    due, followers = timetable(arrivals)
    busy: list[tuple[float, int]] = []  # workers with work: (their clock, number)
    numbers: dict[Request, int] = {}
    chosen: list[int] = []
    predicted: list[int] = []
    while due or busy:
        if due and (not busy or due[0][0] <= busy[0][0]):
            now, number = heappop(due)
            arrival = arrivals[number]
            expected = _expected(policy, arrival.prompt)
            worker = policy.choose(arrival.prompt, workers)
            idle = not worker.n_requests
            numbers[worker.submit(arrival, now)] = number
            chosen.append(worker.number)
            predicted.append(expected.get(worker.number, 0))
            if idle:
                heappush(busy, (worker.model.now, worker.number))
            continue
        _, at = heappop(busy)
        worker = workers[at]
        step = worker.scheduler.advance()
        policy.hear(worker)
        for request in (*step.finished, *step.failed):
            worker.ended(request)
            for number in followers[numbers[request]]:
                heappush(due, (worker.model.now + arrivals[number].time, number))
        if worker.n_requests:
            heappush(busy, (worker.model.now, worker.number))
    return Dispatched(list(numbers), chosen, predicted, n_workers)


def _expected(policy: Policy, prompt: Tokens) -> dict[int, int]:
    """How many tokens a policy believes that each worker has of a prompt."""
    index: PrefixIndex | None = getattr(policy, "index", None)
    return index.match(list(prompt)) if index else {}
