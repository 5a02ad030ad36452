"""What a scheduler did, step by step, kept for a figure.

A step names requests that go on changing, so what is to be seen of them is noted when
the step ends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple, Protocol

from radix_lib.request import Request, Step


class Queue(Protocol):
    """A scheduler, or a first attempt at one: it says who waits and who runs."""

    @property
    def waiting(self) -> Collection[Request]:
        """Those who wait."""

    @property
    def running(self) -> Collection[Request]:
        """Those who hold pages."""


class Mark(NamedTuple):
    """What a step meant for one request."""

    what: str  # prefilled, decoded, holds, waits, retracted, cancelled or failed
    n_tokens: int = 0  # computed
    n_reused: int = 0  # found in the cache, where it was admitted
    ends: bool = False  # its answer is complete


class Moment(NamedTuple):
    """One step, or several that are alike: its marks by the number of the request."""

    first: int
    last: int
    n_tokens: int  # computed in each
    n_room: int  # pages that are free or can be evicted, at its end
    ended_at: float
    marks: dict[int, Mark]

    @property
    def n_steps(self) -> int:
        """How many steps it stands for."""
        return self.last - self.first + 1


class Timeline:
    """Notes the steps of a scheduler: hand it to `run` or `play` as their `progress`.

    >>> from radix_lib.scheduler import Scheduler
    >>> from radix_lib.token_time import TokenTime
    >>> scheduler = Scheduler(TokenTime(n_pages=8, page_size=4))
    >>> timeline = Timeline(scheduler)
    >>> request = scheduler.submit([1, 2, 3, 4, 5], max_new_tokens=2)
    >>> scheduler.run(timeline)
    >>> [moment.marks[0].what for moment in timeline.moments]
    ['prefilled', 'decoded']
    """

    def __init__(self, queue: Queue):
        self.queue = queue
        self.moments: list[Moment] = []

    def __call__(self, step: Step) -> None:
        """Note what a step did, and who waits and runs when it is over."""
        marks: dict[int, Mark] = {}
        for request, mark in self._marks(step):
            marks.setdefault(request.number, mark)
        self.moments.append(
            Moment(
                step.number + 1,
                step.number + 1,
                sum(step.computed.values()),
                step.usage.free + step.usage.unlocked,
                step.ended_at,
                marks,
            )
        )

    def _marks(self, step: Step) -> Iterator[tuple[Request, Mark]]:
        """What there is to tell of each request; the first is the strongest."""
        for what in ("cancelled", "failed", "retracted"):
            for request in getattr(step, what):
                yield request, Mark(what)
        for request, n_tokens in step.prefilled.items():
            n_reused = 0
            if request in step.admitted:
                n_reused = n_reused_at_admission(request, n_tokens)
            ends = request in step.finished
            yield request, Mark("prefilled", n_tokens, n_reused, ends)
        for request in step.decoded:
            yield request, Mark("decoded", 1, ends=request in step.finished)
        for request in self.queue.running:
            yield request, Mark("holds")
        for request in self.queue.waiting:
            yield request, Mark("waits")


def n_reused_at_admission(request: Request, n_prefilled: int) -> int:
    """How many tokens a request found in the cache in the step that admitted it."""
    if request.lease:
        return request.lease.n_cached
    return request.n_tokens - 1 - n_prefilled  # it is over: all of it was computed


def folded(moments: Iterable[Moment], least: int = 3) -> list[Moment]:
    """The same moments, with runs of at least `least` that are alike told as one."""
    runs: list[list[Moment]] = []
    for moment in moments:
        if runs and _are_alike(runs[-1][-1], moment):
            runs[-1].append(moment)
        else:
            runs.append([moment])
    found = []
    for run in runs:
        found += [_as_one(run)] if len(run) >= least else run
    return found


def _are_alike(one: Moment, other: Moment) -> bool:
    is_event = any(
        mark.ends or mark.n_reused or mark.what not in ("decoded", "holds", "waits")
        for mark in (*one.marks.values(), *other.marks.values())
    )
    return one.marks == other.marks and not is_event


def _as_one(run: list[Moment]) -> Moment:
    n_steps = len(run)
    marks = {
        number: mark._replace(n_tokens=mark.n_tokens * n_steps)
        for number, mark in run[-1].marks.items()
    }
    return run[-1]._replace(first=run[0].first, marks=marks)
