"""Chapter 05: one call at a time, whoever makes it.

Between its first and its last step a call leaves tree, counts and page tables that do
not fit together. Two callers could come in between. One is another thread. The other is
a finaliser, on the very thread that is inside: Python closes forgotten generators when
it collects garbage, which may be in the middle of any call, and closing one ends the
request of a `with` block in it. (The handler of a signal is of that kind, too.)

A lock stops the threads. It does not stop a finaliser: a plain one would wait for
itself for ever, a re-entrant one lets it in. So a call that finds its own thread inside
already is put off until that call is over, or refused.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from threading import RLock
from typing import Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
G = TypeVar("G", bound="Guarded")


class Guarded:
    """An object whose calls run one at a time, if they go through `_alone`.

    >>> class Counter(Guarded):
    ...     n = 0
    ...     @atomic
    ...     def count(self):
    ...         self.n += 1
    ...         self.reset()  # as a finaliser might
    ...         return self.n
    ...     def reset(self):
    ...         self._alone(lambda: setattr(self, "n", 0), or_later=True)
    >>> counter = Counter()
    >>> counter.count(), counter.n
    (1, 0)
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._inside = False  # seen as True only by the thread that is
        self._put_off: deque[Callable[[], object]] = deque()

    def _alone(self, call: Callable[[], R], *, or_later: bool = False) -> R:
        """Make a call; other threads wait until it is over.

        In the middle of another call of this thread it raises RuntimeError. With
        `or_later`, for one that answers nothing, it returns there, and the call is made
        when the other is over: twice, if an interrupt comes just after the first time,
        so that the second must do nothing.
        """
        with self._lock:
            if self._inside:
                result = self._in_the_middle(call, or_later)
            else:
                self._inside = True
                try:
                    if self._put_off:  # the last call was interrupted at its end
                        self._catch_up()
                    result = call()
                finally:
                    try:
                        if self._put_off:
                            self._catch_up()
                    finally:
                        self._inside = False
        return result

    def _in_the_middle(self, call: Callable[[], R], or_later: bool) -> R:
        if not or_later:
            raise RuntimeError(
                "a finaliser or the handler of a signal called a "
                f"{type(self).__name__} in the middle of another call: do that later"
            )
        self._put_off.append(call)
        return None  # type: ignore[return-value]

    def _catch_up(self) -> None:
        while self._put_off:
            self._put_off[0]()
            self._put_off.popleft()


def atomic(method: Callable[Concatenate[G, P], R]) -> Callable[Concatenate[G, P], R]:
    """Make each call of a method one that runs alone."""

    @functools.wraps(method)
    def call(self: G, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._alone(lambda: method(self, *args, **kwargs))

    return call
