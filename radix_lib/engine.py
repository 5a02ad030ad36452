"""Chapter 10: a scheduler in a thread of its own, and asyncio on the other side.

The thread takes one step after another while there is anything to do, and tells after
each who got on. Whoever asked reads that in an asyncio loop, and may go away: a request
that nobody listens to is cancelled, and its pages are free at the next step.

Left out here: HTTP (`worker`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Hashable
from contextlib import suppress
from typing import Any

from radix_lib.draft import next_text
from radix_lib.request import Request, Step
from radix_lib.scheduler import Scheduler


class Overloaded(RuntimeError):
    """As many requests are being served as may be: come again later."""


class EngineStopped(RuntimeError):
    """The thread that serves is over; `__cause__` says why, if it died of an error."""


class Engine:
    """Serves requests over one scheduler, from any number of asyncio tasks.

    At most `max_requests` are under way, those that wait included.
    """

    def __init__(self, scheduler: Scheduler, max_requests: int = 256):
        if max_requests < 1:
            raise ValueError(f"max_requests is at least 1, not {max_requests}")
        self.scheduler = scheduler
        self.max_requests = max_requests
        self.error: Exception | None = None
        self._listeners: dict[Request, _Listener] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """End after the present step; whoever still listens hears that it is over."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether it serves."""
        return self._thread.is_alive() and not self._stopping

    async def stream(
        self,
        prompt: Any,
        max_new_tokens: int,
        *,
        namespace: Hashable = None,
        **sampling: Any,
    ) -> AsyncGenerator[Request, None]:
        """The request, each time it has got a token, and once more when it is over.

        Raises what `Scheduler.submit` raises, Overloaded, or EngineStopped. Closed
        before the end, the request is cancelled.
        """
        if not self.alive:
            raise EngineStopped("this worker serves no more") from self.error
        if self.scheduler.n_unfinished >= self.max_requests:
            raise Overloaded(
                f"{self.max_requests} requests are under way, and no more may be"
            )
        request = self.scheduler.submit(
            prompt, max_new_tokens, namespace=namespace, **sampling
        )
        listener = _Listener()
        self._listeners[request] = listener
        if request.n_output or request.outcome or not self.alive:
            listener.tell()  # the thread was faster, or is over, and told nobody
        self._wake.set()
        try:
            over = False
            while not over:
                await listener.heard()
                # Read first: it may end while whoever asked looks at it.
                over = bool(request.outcome)
                if not over and not self.alive:
                    raise EngineStopped("this worker stopped") from self.error
                yield request
        finally:
            self._listeners.pop(request, None)
            request.cancel()  # unless it is over
            self._wake.set()

    # ── In the thread ────────────────────────────────────────────────────────────────

    def _serve(self) -> None:
        try:
            while not self._stopping:
                if self.scheduler.n_unfinished:
                    self._tell(self.scheduler.advance())
                else:
                    self._wake.wait()
                    self._wake.clear()
        except Exception as error:
            self.error = error
        finally:
            self._stopping = True
            for listener in list(self._listeners.values()):
                listener.tell()

    def _tell(self, step: Step) -> None:
        for request in (*step.computed, *step.cancelled):
            listener = self._listeners.get(request)
            if listener:
                listener.tell()


class _Listener:
    """Whoever waits for a request, in the asyncio loop in which this was made."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.event = asyncio.Event()

    def tell(self) -> None:
        """There is something new. May be called from any thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self.loop.call_soon_threadsafe(self.event.set)

    async def heard(self) -> None:
        """Wait until there is something new since the last call."""
        await self.event.wait()
        self.event.clear()


def text_of(request: Request, tokenizer: Any, shown: str = "") -> str:
    """The text of the answer so far. It begins with what was `shown` before.

    A character of which bytes are missing is held back until they come.
    """
    is_whole = bool(request.outcome)
    return next_text(shown, request.output, tokenizer, is_whole=is_whole)
