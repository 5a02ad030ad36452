"""Chapter 08: token time. A model that computes nothing, on a clock that counts tokens.

A scheduler cannot tell it from a model: it has a router over real pages, and its
answers follow from the tokens before them. Thousands of requests are scheduled in
seconds, with the same result on every machine.

Left out here: K/V, and everything that depends on the machine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from heapq import heappop, heappush
from typing import Any, NamedTuple
from zlib import crc32

from radix_lib.page_manager import PageManager
from radix_lib.prompts import as_token_ids
from radix_lib.radix_cache import RadixCache
from radix_lib.radix_tree import pack_tokens
from radix_lib.request import Request, Step
from radix_lib.router import Lease, Router
from radix_lib.scheduler import Scheduler


class Cost(NamedTuple):
    """What a step costs, in ticks: `a` + `b` · new tokens + `c` · context.

    `context` counts, for every sequence of the step, all tokens that it attends to.
    """

    a: float = 20.0
    b: float = 1.0
    c: float = 0.002

    def of(self, n_new: int, n_context: int) -> float:
        """The ticks of a step."""
        return self.a + self.b * n_new + self.c * n_context


class Script(NamedTuple):
    """Chooses the tokens of an answer: those given, or else what the stand-in says."""

    answer: Sequence[int] = ()
    ends: Container[int] = ()

    def choose(self, row: int, place: int) -> int:
        """Token number `place` of the answer."""
        return self.answer[place] if place < len(self.answer) else row


class TokenTime:
    """A stand-in for a model: `clock()` is the sum of what its steps cost.

    >>> model = TokenTime(n_pages=8, page_size=4, cost=Cost(a=10, b=1, c=0))
    >>> request = Scheduler(model).submit([1, 2, 3, 4, 5], max_new_tokens=2)
    >>> len(request.wait()), model.clock()        # 10 + 5, then 10 + 1
    (2, 26.0)
    """

    router_type = Router
    cache_type = RadixCache

    def __init__(
        self,
        n_pages: int = 1024,
        page_size: int = 16,
        *,
        policy: str = "lru",
        cost: Cost | None = None,
        vocab_size: int = 50_000,
    ):
        cache = self.cache_type(PageManager(n_pages, page_size), policy)
        self.router = self.router_type(cache, vocab_size=vocab_size)
        self.cost = cost or Cost()
        self.now = 0.0

    def clock(self) -> float:
        """The ticks up to now."""
        return self.now

    def encode(self, prompt: Sequence[int]) -> list[int]:
        """The token ids of a prompt: token ids are all that it takes."""
        return list(prompt)

    def sampler(self, answer: Sequence[int] = (), stop: Any = ()) -> Script:
        """What chooses an answer: `answer`, then checksums; it ends after a `stop`."""
        ends = as_token_ids(stop)
        self.router.checked_key([*answer, *ends])
        return Script(answer, ends)

    def step(self, leases: Sequence[Lease], n_tokens: Sequence[int]) -> list[int]:
        """Say that the next `n_tokens` of each lease are computed; the clock goes on.

        Returns for each the token that follows, which counts if nothing is missing.
        """
        for lease, n in zip(leases, n_tokens, strict=True):
            lease.advance(n)
        n_context = sum(lease.n_computed for lease in leases)
        self.now += self.cost.of(sum(n_tokens), n_context)
        return [self.next_token(lease.key) for lease in leases]

    def next_token(self, tokens: Sequence[int] | bytes) -> int:
        """The token that follows: a checksum of all tokens before it."""
        return crc32(pack_tokens(tokens)) % self.router.vocab_size


class Arrival(NamedTuple):
    """A request that comes at a certain time; `options` as `submit` takes them.

    With `after`, the number of another arrival, the time counts from the end of that
    one: the next turn of a dialogue, after a pause to think.
    """

    time: float
    prompt: Sequence[int]
    max_new_tokens: int
    options: dict[str, Any] = {}  # noqa: RUF012  (never written to)
    after: int | None = None


def timetable(
    arrivals: Sequence[Arrival],
) -> tuple[list[tuple[float, int]], dict[int, list[int]]]:
    """Who comes when, a heap of (time, number), and who waits for the end of whom.

    Raises ValueError for an arrival that waits for what never comes.
    """
    due: list[tuple[float, int]] = []  # those of one time come in the order given
    followers: dict[int, list[int]] = defaultdict(list)
    for number, arrival in enumerate(arrivals):
        if arrival.after is None:
            heappush(due, (arrival.time, number))
        else:
            followers[arrival.after].append(number)
    come = [number for _, number in due]
    for number in come:  # it grows by those that follow
        come += followers[number]
    for number in {*range(len(arrivals))}.difference(come):
        raise ValueError(
            f"arrival {number} waits for arrival {arrivals[number].after}, which never "
            "ends: `after` is the number of another, and no two wait for each other"
        )
    return due, followers


def play(
    scheduler: Scheduler,
    arrivals: Iterable[Arrival],
    progress: Callable[[Step], Any] | None = None,
) -> list[Request]:
    """Submit requests when their time has come, and step until all are over.

    `scheduler` runs on a `TokenTime`, whose clock goes on to the next arrival while
    nothing is left to do. Returns the requests, in order of arrival. Raises ValueError
    as `timetable` does.
    """
    model: Any = scheduler.model
    arrivals = list(arrivals)
    due, followers = timetable(arrivals)
    numbers: dict[Request, int] = {}  # of those that have come
    while due or scheduler.n_unfinished:
        if not scheduler.n_unfinished:
            model.now = max(model.now, due[0][0])
        while due and due[0][0] <= model.now:
            time, number = heappop(due)
            came = arrivals[number]
            request = scheduler.submit(came.prompt, came.max_new_tokens, **came.options)
            request.submitted_at = time
            numbers[request] = number
        step = scheduler.advance()
        for ended in (*step.finished, *step.failed, *step.cancelled):
            if ended in numbers:  # and was not there before
                for number in followers[numbers[ended]]:
                    heappush(due, (model.now + arrivals[number].time, number))
        if progress:
            progress(step)
    return list(numbers)
