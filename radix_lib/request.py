"""Chapter 08: a request in a queue, and what a step of the scheduler did.

Left out here: who decides (`scheduler`), and in which order (`orders`).
"""

from __future__ import annotations

from collections.abc import (
    Container,
    Generator,
    Hashable,
    Iterable,
    Iterator,
    Sequence,
)
from dataclasses import dataclass, field
from typing import Any, Protocol

from radix_lib.radix_cache import Usage
from radix_lib.radix_tree import TOKEN_BYTES, pack_tokens, unpack_tokens
from radix_lib.router import Lease, Router


class Sampler(Protocol):
    """Chooses the tokens of one answer."""

    @property
    def ends(self) -> Container[int]:
        """The answer is over after any of these."""

    def choose(self, row: Any, place: int) -> int:
        """Token number `place` of the answer, given what the model said before it."""


class Model(Protocol):
    """What a scheduler needs: `RadixAttentionModel` has it, and so has `TokenTime`."""

    router: Router

    def clock(self) -> float:
        """The time now."""

    def encode(self, prompt: Any) -> list[int]:
        """The token ids of a prompt."""

    def sampler(self, *_: Any, **options: Any) -> Sampler:
        """What chooses the tokens of an answer. Raises ValueError for a bad option."""

    def step(self, leases: Sequence[Lease], n_tokens: Sequence[int]) -> Iterable[Any]:
        """Compute the next `n_tokens` of each lease, all in one forward.

        Returns for each what it has to say about the token that follows.
        """


class RequestFailed(RuntimeError):
    """Somebody waits for the answer of a request that was cancelled or has failed.

    If an error in the model or the sampler was the reason, it is the `__cause__`.
    """


class Request:
    """A request in a scheduler: what was asked, and what has come of it so far.

    A `for` loop gives its tokens as they come, `wait()` or `await` all of them; either
    runs the scheduler as far as that takes. Times are the model's clock.
    """

    def __init__(
        self,
        scheduler: Any,
        number: int,
        key: bytes,
        max_new_tokens: int,
        namespace: Hashable,
        priority: int,
        sampler: Sampler,
    ):
        self.scheduler = scheduler
        self.number = number  # how many came before it
        self.key = key  # its tokens, packed: the prompt, then the answer so far
        self.n_prompt = len(key) // TOKEN_BYTES
        self.max_new_tokens = max_new_tokens
        self.namespace = namespace
        self.priority = priority
        self.sampler = sampler
        self.lease: Lease | None = None  # while it runs
        self.outcome = ""  # "finished", "cancelled" or "failed", once it is over
        self.error: BaseException | None = None
        self.n_cached = (
            0  # of the prompt, found in the cache when it was first admitted
        )
        self.n_retractions = 0
        self.prefilled_before: int = scheduler.n_prefilled
        self.submitted_at = scheduler.model.clock()
        self.admitted_at: float | None = None
        self.first_token_at: float | None = None
        self.ended_at: float | None = None

    @property
    def state(self) -> str:
        """Its outcome, or "running", or "waiting"."""
        return self.outcome or ("running" if self.lease else "waiting")

    @property
    def n_tokens(self) -> int:
        """How many tokens it has, those of its answer included."""
        return len(self.key) // TOKEN_BYTES

    @property
    def n_output(self) -> int:
        """How many tokens its answer has so far."""
        return len(self.key) // TOKEN_BYTES - self.n_prompt

    @property
    def n_pending(self) -> int:
        """How many of its tokens have no K/V yet."""
        n_computed = self.lease.n_computed if self.lease else 0
        return self.n_tokens - n_computed

    @property
    def prompt(self) -> list[int]:
        """The token ids of the prompt."""
        return unpack_tokens(self.key[: self.n_prompt * TOKEN_BYTES])

    @property
    def output(self) -> list[int]:
        """The token ids of the answer so far; the one that ended it is the last."""
        return unpack_tokens(self.key[self.n_prompt * TOKEN_BYTES :])

    @property
    def waited_tokens(self) -> int:
        """How many tokens were prefilled for others since it came."""
        waited: int = self.scheduler.n_prefilled - self.prefilled_before
        return waited

    @property
    def is_decoding(self) -> bool:
        """Whether it lacks only the K/V of the last token of its answer."""
        return self.n_pending == 1 and self.n_output > 0

    @property
    def is_complete(self) -> bool:
        """Whether its answer needs no further token."""
        if not self.n_output:
            return False
        (last,) = unpack_tokens(self.key[-TOKEN_BYTES:])
        return self.n_output == self.max_new_tokens or last in self.sampler.ends

    def append(self, token: int) -> None:
        """Add a token to the answer."""
        self.key += pack_tokens([token])

    def cancel(self) -> None:
        """End it. The pages are given back when the next step begins, not before."""
        if not self.outcome:
            self.outcome = "cancelled"
            self.scheduler.inbox.append(self)

    def __iter__(self) -> Iterator[int]:
        n_seen = 0
        while True:
            output = self.output[n_seen:]
            yield from output
            n_seen += len(output)
            if self.outcome and n_seen == self.n_output:
                break
            if not output:
                self.scheduler.advance()
        self._check_outcome()

    def wait(self) -> list[int]:
        """The whole answer. Raises RequestFailed if there is none to come."""
        return list(self)

    def __await__(self) -> Generator[None, None, list[int]]:
        while not self.outcome:
            self.scheduler.advance()
            yield  # whoever else awaits goes on between two steps
        self._check_outcome()
        return self.output

    def _check_outcome(self) -> None:
        if self.outcome != "finished":
            why = f": {self.error!r}" if self.error else ""
            raise RequestFailed(f"request {self.number} was {self.outcome}{why}") from (
                self.error
            )


@dataclass
class Step:
    """What a step did. Requests that failed in it are among those it computed."""

    number: int
    budget: int  # tokens that it might still have computed
    usage: Usage  # where the pages are when it ends
    began_at: float
    ended_at: float = 0.0
    decoded: list[Request] = field(default_factory=list)  # one token each
    prefilled: dict[Request, int] = field(default_factory=dict)  # so many tokens
    admitted: list[Request] = field(default_factory=list)
    refused: list[Request] = field(default_factory=list)  # they wait for pages
    shared: list[Request] = field(default_factory=list)  # they wait for a neighbour
    retracted: list[Request] = field(default_factory=list)
    finished: list[Request] = field(default_factory=list)
    cancelled: list[Request] = field(default_factory=list)
    failed: list[Request] = field(default_factory=list)

    @property
    def computed(self) -> dict[Request, int]:
        """How many tokens were computed of each request."""
        return dict.fromkeys(self.decoded, 1) | self.prefilled
