"""Everything at once: a scheduler, its router and its pages, and others beside it.

A `Machine` draws operations by lot, from a seed. After each of them the oracle and the
router hold the same, page by page, and every answer is what the request alone would
get. The words of a failure are the seed and all that was done.
"""

from __future__ import annotations

import functools
import gc
import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import islice
from typing import Any

import pytest

from radix_lib.admission import NewTokenRatio
from radix_lib.eviction import POLICIES
from radix_lib.orders import ORDERS
from radix_lib.page_manager import OutOfPages
from radix_lib.request import Request
from radix_lib.router import Lease, Namespace
from radix_lib.teaching.checks.schedules import VOCABULARY, alone
from tests.support.inspection import check_idle
from tests.support.scheduling import check_queue
from tests.support.streams import no_automatic_collection
from tests.support.watched import WatchedScheduler, WatchedTokenTime

PAGE_SIZES = [1, 2, 7, 16]
NAMES: list[Hashable] = [None, None, None, "a", Namespace("a", "b")]

#: How often each operation is drawn, where it can be.
WEIGHTS = {
    "submit": 10,
    "step": 14,
    "listen": 2,
    "cancel": 3,
    "admit": 6,
    "compute": 5,
    "append": 4,
    "grow": 3,
    "commit": 2,
    "fork": 3,
    "end": 6,
    "leave_a_stream": 2,
    "flush": 2,
    "match": 1,
    "ask_too_much": 2,
}


class Machine:
    """A pool that is too small, its scheduler, and leases that others hold."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.seed = seed
        self.log: list[str] = []
        self.page_size = self.rng.choice(PAGE_SIZES)
        self.n_pages = (
            self.rng.randint(4, 12) + self.rng.choice([8, 16]) // self.page_size
        )
        policy = self.rng.choice(list(POLICIES))
        self.model: Any = self.draw_model(policy)
        self.router = self.model.router
        self.scheduler = WatchedScheduler(self.model, **self.draw_settings())
        order = self.scheduler.waiting.order
        self.router.counts.update([policy, order, f"pages of {self.page_size}"])
        self.words = [
            [self.rng.randrange(VOCABULARY) for _ in range(n_tokens)]
            for n_tokens in (1, self.page_size, self.page_size, 2 * self.page_size + 1)
        ]
        self.answers: dict[Request, list[int]] = {}  # what is due to each
        self.n_beside = self.rng.randint(1, 3)  # leases of others, forks aside
        self.beside: list[Lease] = []
        self.ended: list[Lease] = []
        self.said: list[list[int]] = []  # prompts, and prompts with their answers

    def draw_model(self, policy: str) -> Any:
        self.note("model", self.n_pages, self.page_size, policy)
        return WatchedTokenTime(self.n_pages, self.page_size, policy)

    def draw_settings(self) -> dict[str, Any]:
        rng = self.rng
        budget = rng.choice([1, 5, 12, 24, 64])
        share = rng.choice([0.0, 0.0, 0.0, 0.0, 0.2, 0.7, 1.0])
        settings = {
            "token_budget": budget,
            "max_running": rng.choice([None, rng.randint(1, budget)]),
            "chunk_tokens": rng.choice([None, 1, 3, 16]),
            "order": rng.choice(list(ORDERS)),
            "patience": rng.choice([1, 3, 256]),
            "prefill_first": rng.choice([True, False]),
            "share_in_batch": rng.choice([True, False]),
            "lpm_fallback": rng.choice([None, 2]),
        }
        self.note("scheduler", *settings.items(), share)
        return settings | {"ratio": NewTokenRatio(share, share)}

    def due(self, request: Request) -> list[int]:
        """The answer that a request alone would get."""
        return alone(self.model, request)

    def check_row(self, lease: Lease, row: Any) -> None:
        """What the model says of the token that follows is what it says to it alone."""
        assert row == self.model.next_token(lease.tokens)

    # ── Playing ───────────────────────────────────────────────────────────────────────

    def play(self, n_operations: int) -> None:
        """Draw operations, and end all that runs. Raises AssertionError for a fault."""
        try:
            for _ in range(n_operations):
                self.operate()
                self.check()
            self.end_all()
        except Exception as error:
            done = "\n".join(self.log)
            raise AssertionError(
                f"seed {self.seed}:\n{done}\n{_chain(error)}"
            ) from error

    def operate(self) -> None:
        possible = {name: n for name, n in WEIGHTS.items() if self.is_possible(name)}
        (name,) = self.rng.choices(list(possible), list(possible.values()))
        getattr(self, name)()
        self.router.counts["operations"] += 1

    def is_possible(self, name: str) -> bool:
        if name in ("compute", "append", "grow", "commit", "fork", "end"):
            return bool(self.beside)
        if name in ("listen", "cancel"):
            return bool(self.answers)
        if name in ("admit", "leave_a_stream"):
            return len(self.beside) < self.n_beside
        return name != "submit" or self.scheduler.n_unfinished < 8

    def check(self) -> None:
        """Pages, counts, locks, leases, queue and answers are what they have to be."""
        self.router.check()
        self.check_requests()

    def check_requests(self) -> None:
        check_queue(self.scheduler)
        running = {request.lease for request in self.scheduler.running}
        others = {*self.beside, *self.router.forgotten}
        assert running <= {*self.router.leases} <= running | others, "a lease was left"
        for request in list(self.answers):
            due = self.answers[request]
            output = request.output
            assert output == due[: len(output)], f"answered: {output}, not {due}"
            if request.outcome and request.ended_at is not None:
                self.said.append(request.prompt + output)
                assert request.outcome == "cancelled" or output == due
                del self.answers[request]

    def end_all(self) -> None:
        """All that runs comes to an end, and then nothing is held."""
        for lease in self.beside:
            self.router.cancel(lease)
        gc.collect()
        self.beside.clear()
        self.check()
        while self.scheduler.n_unfinished:
            self.scheduler.advance()  # never in vain: nobody else holds a page
            self.check_requests()
        assert not self.answers, "a request never ended"
        check_idle(self.router)

    def note(self, *what: object) -> None:
        self.log.append(" ".join(str(part) for part in what))

    # ── What is drawn ─────────────────────────────────────────────────────────────────

    def draw_tokens(self, most: int) -> list[int]:
        """Words that others say, too, or a part of what was said before, and more."""
        rng = self.rng
        if self.said and rng.random() < 0.5:
            tokens = rng.choice(self.said[-6:])
            tokens = tokens[: rng.randint(len(tokens) // 2, len(tokens))]
        else:
            words = rng.choices(self.words, k=rng.randint(1, 3))
            tokens = [token for word in words for token in word]
        tokens = [*tokens, *rng.choices(range(3), k=rng.randint(0, 2))][:most] or [0]
        self.said.append(tokens)
        return tokens

    def draw_lease(self) -> Lease:
        return self.rng.choice(self.beside)

    # ── Requests of the scheduler ─────────────────────────────────────────────────────

    def submit(self) -> None:
        rng = self.rng
        longest = self.router.max_tokens
        tokens = self.draw_tokens(longest - 1)
        n_new = min(rng.choice([1, 4, 20, 20]), longest - len(tokens))
        options = {
            "namespace": rng.choice(NAMES),
            "priority": rng.choice([0, 0, 0, 1]),
            "stop": [rng.randrange(VOCABULARY)] if rng.random() < 0.2 else [],
        }
        self.note("submit", tokens, n_new, options)
        request = self.scheduler.submit(tokens, n_new, **options)
        self.answers[request] = self.due(request)

    def step(self) -> None:
        self.note("step")
        self.scheduler.step()

    def listen(self) -> None:
        """Take some tokens of an answer, and leave it at that."""
        request = self.rng.choice(list(self.answers))
        n_tokens = self.rng.randint(1, 3)
        self.note("listen", request.number, n_tokens)
        if request.outcome:
            return
        try:
            heard = list(islice(request, n_tokens))
        except RuntimeError as error:
            self.check_in_vain(str(error))
        else:
            assert heard == self.answers[request][:n_tokens]

    def check_in_vain(self, words: str) -> None:
        n_waiting = len(self.scheduler.waiting)
        assert f"requests waiting: {n_waiting}, running: none" in words
        assert not self.scheduler.running
        assert self.router.leases, "it waits in vain, and nobody is to blame"
        self.router.counts["waits in vain"] += 1

    def cancel(self) -> None:
        request = self.rng.choice(list(self.answers))
        self.note("cancel", request.number)
        request.cancel()

    # ── Leases of others ──────────────────────────────────────────────────────────────

    def take(self, call: Callable[[], Lease | None]) -> Lease | None:
        """Make a call that takes pages; the router sees to it that a refusal is due."""
        try:
            return call()
        except OutOfPages:
            return None

    def admit(self) -> None:
        longest = self.router.max_tokens
        tokens = self.draw_tokens(longest)
        room = min(self.rng.choice([0, 0, 1, 4]), longest - len(tokens))
        name = self.rng.choice(NAMES)
        self.note("admit", tokens, name, room)
        if lease := self.take(lambda: self.router.admit(tokens, name, room)):
            self.beside.append(lease)

    def compute(self) -> None:
        self.compute_some(self.draw_lease())

    def compute_some(self, lease: Lease) -> None:
        if lease.pending:
            n_tokens = self.rng.randint(1, len(lease.pending))
            self.note("compute", self.beside.index(lease), n_tokens)
            (row,) = self.model.step([lease], [n_tokens])
            self.check_row(lease, row)

    def append(self) -> None:
        lease = self.draw_lease()
        n_tokens = self.rng.randint(1, 3)
        room = len(lease.page_table) * self.page_size
        self.note("append", self.beside.index(lease), n_tokens)
        if lease.n_tokens + n_tokens <= room:
            lease.append(*range(n_tokens))
        else:
            words = f"room for {room} tokens was admitted"
            self.refuse(words, lambda: lease.append(*range(n_tokens)))

    def grow(self) -> None:
        lease = self.draw_lease()
        longest = self.router.max_tokens
        n_tokens = min(
            self.rng.randint(0, 2 * self.page_size), longest - lease.n_tokens
        )
        self.note("grow", self.beside.index(lease), n_tokens)
        self.take(lambda: self.router.grow(lease, n_tokens))

    def commit(self) -> None:
        lease = self.draw_lease()
        self.note("commit", self.beside.index(lease))
        self.router.commit(lease)

    def fork(self) -> None:
        lease = self.draw_lease()
        longest = self.router.max_tokens
        room = min(self.rng.choice([0, 1, 4]), longest - lease.n_tokens)
        self.note("fork", self.beside.index(lease), room)
        if fork := self.take(lambda: self.model.fork(lease, room)):
            self.beside.append(fork)
            if fork.n_tokens < len(fork.page_table) * self.page_size:
                fork.append(self.rng.randrange(VOCABULARY))
            self.compute_some(fork)

    def end(self) -> None:
        lease = self.draw_lease()
        keep = self.rng.random() < 0.5
        self.note("finish" if keep else "cancel lease", self.beside.index(lease))
        if keep:
            self.router.finish(lease)
        else:
            self.router.cancel(lease)
        self.beside.remove(lease)
        self.ended.append(lease)

    def leave_a_stream(self) -> None:
        """Begin an answer and forget it: its pages are held until others want them."""
        tokens = self.draw_tokens(self.router.max_tokens - 1)
        name = self.rng.choice(NAMES)
        self.note("leave a stream", tokens, name)
        live = {*self.router.leases}
        started = self.stream(tokens, name)
        cycle: list[object] = [started]
        cycle.append(cycle)  # only the collector can close it
        try:
            next(started)
        except OutOfPages:
            return
        (lease,) = {*self.router.leases} - live
        self.router.forgotten.append(lease)
        self.router.counts["streams left"] += 1

    def stream(self, tokens: list[int], name: Hashable) -> Iterator[object]:
        with self.router.admit(tokens, name, 1) as lease:
            self.model.step([lease], [len(lease.pending)])
            yield lease

    # ── The rest ──────────────────────────────────────────────────────────────────────

    def flush(self) -> None:
        self.note("flush")
        try:
            self.router.flush()
        except RuntimeError:  # the router saw to it that it is due
            return

    def match(self) -> None:
        tokens = self.draw_tokens(self.router.max_tokens)
        name = self.rng.choice(NAMES)
        self.note("match", tokens, name)
        self.router.match_prefix(tokens, name)

    def ask_too_much(self) -> None:
        """What is refused whatever is in the pool, with the numbers of the case."""
        longest = self.router.max_tokens
        n_prompt = self.rng.randint(0, longest)
        n_new = longest - n_prompt + self.rng.randint(1, 3)
        self.note("ask too much", n_prompt, n_new)
        tokens = [0] * n_prompt
        most = f"at most {longest} in all"
        self.refuse(
            f"a prompt of {n_prompt} tokens, max_new_tokens={n_new}: .*{most}",
            lambda: self.scheduler.submit(tokens, n_new),
        )
        self.refuse(
            f"tokens: {n_prompt}, room for more: {n_new}. .*{most}",
            lambda: self.router.admit(tokens, None, n_new),
        )
        for lease in self.beside:
            left = len(lease.pending)
            self.refuse(
                f"{left + 1} tokens cannot have been computed: {left} were missing",
                functools.partial(lease.advance, left + 1),
            )
        for lease in self.ended[-1:]:
            words = "it was finished or cancelled before"
            self.refuse(words, functools.partial(self.router.finish, lease))
            self.refuse(words, functools.partial(self.router.fork, lease))

    def refuse(self, words: str, call: Callable[[], object]) -> None:
        with pytest.raises(ValueError, match=words):
            call()
        self.router.counts["bad calls"] += 1


def _chain(error: BaseException | None) -> str:
    """An error, and those on whose account it was raised."""
    chain = []
    while error is not None:
        chain.append(repr(error))
        error = error.__context__
    return ", after ".join(chain)


def play(
    seeds: Iterable[int], n_operations: int, machine_type: type[Machine] = Machine
) -> Counter[str]:
    """Play a machine of each seed; returns how often what happened."""
    counts: Counter[str] = Counter()
    with no_automatic_collection():
        for seed in seeds:
            machine = machine_type(seed)
            machine.play(n_operations)
            counts += machine.router.counts
            counts["evictions"] += machine.router.oracle.n_evicted
    return counts
