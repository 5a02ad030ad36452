"""An interruption at any place of generation: the books are whole, the answers right.

In batch-invariant arithmetic an answer's logits have the same bits whatever was cached,
so what comes after an interruption is compared bit by bit with Hugging Face's forward.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor

from radix_lib.batch_invariance import batch_invariant
from radix_lib.equality import baseline_logits
from radix_lib.radix_model import RadixAttentionModel
from radix_lib.router import Lease
from radix_lib.scheduler import Scheduler
from tests.support.answers import Characters, Models, some_tokens
from tests.support.inspection import check_idle, check_router
from tests.support.interrupts import (
    codes_of,
    ctrl_c,
    interrupted_everywhere,
    out_of_memory,
)
from tests.support.scheduling import check_scheduler
from tests.support.streams import no_automatic_collection
from tests.support.world import CONTROL_PLANE


def files(*names: str) -> set[str | None]:
    return {import_module(f"radix_lib.{name}").__file__ for name in names}


#: What chapter 07 builds, and all that lies below it.
OWN = files("radix_model", "draft")
ALL = OWN | files("executor", "sampling") | {x.__file__ for x in CONTROL_PLANE}
STEP = files("scheduler", "request", "admission", "orders")

PAGE_SIZE = 4
N_PAGES = 26
KNOWN = some_tokens(15, seed=1)
CHAT = KNOWN[:9] + some_tokens(5, seed=2)
OTHER = some_tokens(6, seed=3)
#: What is asked afterwards, and in which namespace.
PROMPTS = [(KNOWN, None), ([*CHAT, 9], None), (OTHER, "tenant")]


@pytest.fixture(scope="module")
def tiny(tiny_models: Models) -> Iterator[Any]:
    """A tiny model, in arithmetic that knows no company."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for file in ALL | STEP:
        codes_of(str(file))  # while the collector still shows them
    with batch_invariant():
        yield tiny_models()
    torch.set_num_threads(n_threads)


@pytest.fixture
def due(tiny: Any) -> Callable[[list[int]], Tensor]:
    """Hugging Face's logits after the last of some tokens, [vocabulary]."""

    @cache
    def logits(tokens: tuple[int, ...]) -> Tensor:
        return baseline_logits(tiny, list(tokens))

    return lambda tokens: logits(tuple(tokens))


def forget(model: RadixAttentionModel) -> None:
    """Begin a stream that only the collector can close."""
    cycle: list[object] = [model.stream([*KNOWN[:10], 5, 6], 4)]
    cycle.append(cycle)
    next(cycle[0])  # type: ignore[call-overload]


class World:
    """A pool in use: a prompt is cached, two requests run, one of them in mid-page."""

    def __init__(self, tiny: Any, running: bool = True, forgotten: bool = False):
        self.model = RadixAttentionModel(
            tiny, Characters(), page_size=PAGE_SIZE, n_pages=N_PAGES
        )
        self.router = self.model.router
        self.model.generate(KNOWN, 2)
        self.model.generate(OTHER, 4, namespace="tenant")
        if running:
            self.model.prefill(CHAT, max_new_tokens=6)
            self.model.prefill(OTHER, max_new_tokens=6)
        self.leases = list(self.router.leases)
        if forgotten:
            forget(self.model)
        self.given: list[Lease] = []  # by the call, where it came to its end

    def check_aftermath(self, due: Callable[[list[int]], Tensor]) -> None:
        """Whatever happened, nothing is held for nobody, and all goes on."""
        model = self.model
        for guarded in (model, self.router):
            assert repr(guarded._lock).startswith("<unlocked")
            assert not guarded._inside
        for lease in self.given:
            self.router.finish(lease)
        check_router(self.router)
        assert list(self.router.leases) == self.leases
        for number, lease in enumerate(self.leases):
            # A token may have been added and not been computed.
            if lease.pending:
                [row] = model.step([lease], [len(lease.pending)])
                assert torch.equal(row, due(lease.tokens))
            [row] = model.decode_step([lease], [number + 7])
            assert torch.equal(row, due(lease.tokens))
        for prompt, namespace in PROMPTS:
            lease, row = model.prefill(prompt, namespace=namespace, max_new_tokens=1)
            assert torch.equal(row, due(prompt))
            [row] = model.decode_step([lease], [3])
            assert torch.equal(row, due([*prompt, 3]))
            self.router.finish(lease)
        check_router(self.router)
        for lease in self.leases:
            self.router.finish(lease)
        check_idle(self.router)


def evicting(world: World) -> int:
    """How many tokens take all free pages and one that has to be evicted."""
    return PAGE_SIZE * (world.router.usage().free + 1)


def prefill(world: World, tokens: list[int], **options: Any) -> None:
    world.given.append(world.model.prefill(tokens, **options)[0])


def fork(world: World, room: int) -> None:
    world.given.append(world.model.fork(world.leases[0], room))


OPERATIONS: dict[str, Callable[[World], Any]] = {
    "prefill, nothing cached": lambda w: prefill(w, some_tokens(7, seed=4)),
    "prefill, a hit": lambda w: prefill(w, [*KNOWN[:13], 8, 8]),
    "prefill, in chunks": lambda w: prefill(w, [*KNOWN, 4, 5], chunk_tokens=2),
    "prefill, evicting": lambda w: prefill(
        w, some_tokens(5, seed=4), max_new_tokens=evicting(w) - 5
    ),
    "decode_step": lambda w: w.model.decode_step(w.leases, [11, 12]),
    "step": lambda w: w.model.step(w.leases, [1] * len(w.leases)),
    "stream": lambda w: list(w.model.stream([*KNOWN[:11], 8], 3)),
    "stream, closed early": lambda w: close_early(w),
    "sample": lambda w: w.model.sample([*KNOWN[:11], 8], 2, 2, temperature=1.0),
    "fork": lambda w: fork(w, 3),
    "fork, evicting": lambda w: fork(w, evicting(w) - 4),
    "flush": lambda w: w.model.flush(),
}


def close_early(world: World) -> None:
    stream = world.model.stream([*KNOWN[:11], 8], 3)
    next(stream)
    stream.close()  # type: ignore[attr-defined]


def world_for(tiny: Any, operation: str, forgotten: bool = False) -> World:
    world = World(tiny, operation != "flush", forgotten)
    if operation == "step":
        for lease in world.leases:
            lease.append(4)
    return world


def interrupt(
    tiny: Any,
    due: Callable[[list[int]], Tensor],
    operation: str,
    happens: Callable[[], object],
    where: Collection[str | None],
) -> int:
    """Let it happen at each place in turn; returns how many there were."""
    n_places = 0
    start = partial(world_for, tiny, operation, happens is gc.collect)
    for world in interrupted_everywhere(start, OPERATIONS[operation], where, happens):
        n_places += 1
        world.check_aftermath(due)
    return n_places


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_aftermath_of_no_interruption_is_sound(
    tiny: Any, due: Any, operation: str
) -> None:
    world = world_for(tiny, operation)
    OPERATIONS[operation](world)
    world.check_aftermath(due)


@pytest.mark.parametrize(
    "operation",
    [name for name in OPERATIONS if name not in ("sample", "stream")]
    + [pytest.param("stream", marks=pytest.mark.long)],
)
def test_ctrl_c_anywhere_in_generation_leaves_nothing_half_done(
    tiny: Any, due: Any, operation: str
) -> None:
    assert interrupt(tiny, due, operation, ctrl_c, OWN) > 0


def test_no_inference_mode_is_left_for_the_collector_to_end(tiny: Any) -> None:
    """torch's guard ends when it is freed: later, it would end somebody else's."""
    start = partial(world_for, tiny, "decode_step")
    gc.freeze()  # what was there before takes most of the time
    try:
        for _ in interrupted_everywhere(start, OPERATIONS["decode_step"], OWN):
            with torch.inference_mode():
                gc.collect()
                assert torch.is_inference_mode_enabled()
    finally:
        gc.unfreeze()


@pytest.mark.long
@pytest.mark.parametrize("happens", [ctrl_c, out_of_memory])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_interruption_anywhere_below_leaves_nothing_half_done(
    tiny: Any, due: Any, operation: str, happens: Callable[[], object]
) -> None:
    assert interrupt(tiny, due, operation, happens, ALL) > 10


@pytest.mark.parametrize("operation", ["decode_step", "fork"])
def test_a_stream_closed_anywhere_in_generation_changes_nothing(
    tiny: Any, due: Any, operation: str
) -> None:
    with no_automatic_collection():
        assert interrupt(tiny, due, operation, gc.collect, OWN) > 0


@pytest.mark.long
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_stream_closed_anywhere_below_changes_nothing(
    tiny: Any, due: Any, operation: str
) -> None:
    with no_automatic_collection():
        assert interrupt(tiny, due, operation, gc.collect, ALL) > 10


# ── A scheduler over the model ────────────────────────────────────────────────────────


class Queue:
    """A scheduler in the middle of its work: one answers, one is in its prompt."""

    def __init__(self, tiny: Any):
        self.model = RadixAttentionModel(
            tiny, Characters(), page_size=PAGE_SIZE, n_pages=N_PAGES
        )
        self.scheduler = Scheduler(self.model, token_budget=8, chunk_tokens=6)
        self.requests = [self.scheduler.submit(OTHER, 6), self.scheduler.submit(KNOWN)]
        for _ in range(2):
            self.scheduler.step()
        self.requests.append(self.scheduler.submit(CHAT, 5))
        self.requests.append(self.scheduler.submit(OTHER, 4, temperature=1.0, seed=3))

    def step(self) -> None:
        self.scheduler.step()

    def check_aftermath(self, due: list[list[int]]) -> None:
        """Whatever happened, all answers are those that would have been."""
        check_scheduler(self.scheduler)
        self.scheduler.run(lambda step: check_scheduler(self.scheduler, step))
        for request, answer in zip(self.requests, due, strict=True):
            failed = request.outcome == "failed"
            assert request.output == answer[: request.n_output if failed else None]
        check_idle(self.model.router)


def undisturbed(tiny: Any) -> list[list[int]]:
    queue = Queue(tiny)
    queue.scheduler.run()
    return [request.output for request in queue.requests]


@pytest.mark.parametrize("happens", [ctrl_c, out_of_memory])
@pytest.mark.parametrize(
    ("places", "least"),
    [
        pytest.param(OWN, 5, id="in its forward"),
        pytest.param(ALL | STEP, 200, id="anywhere", marks=pytest.mark.long),
    ],
)
def test_a_step_of_a_scheduler_that_is_interrupted_changes_no_answer(
    tiny: Any, places: set[str], least: int, happens: Callable[[], object]
) -> None:
    due = undisturbed(tiny)
    n_places = 0
    start = partial(Queue, tiny)
    for queue in interrupted_everywhere(start, Queue.step, places, happens):
        n_places += 1
        queue.check_aftermath(due)
    assert n_places > least


# ── Exceptions of the model ───────────────────────────────────────────────────────────


class Fault(Exception):
    """What goes wrong in a model."""


@contextmanager
def failing(model: Any, at: int, error: type[BaseException]) -> Iterator[None]:
    """Make the n-th module that a model calls raise, when it has computed."""
    calls = iter(range(at - 1))

    def hook(*_: Any) -> None:
        if next(calls, None) is None:
            raise error

    handles = [part.register_forward_hook(hook) for part in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def failing_everywhere(
    tiny: Any, operation: str, error: type[BaseException]
) -> Iterator[World]:
    """The world after an operation in which a module raised, each of them in turn."""
    for at in count(1):
        world = world_for(tiny, operation)
        try:
            with failing(tiny, at, error):
                OPERATIONS[operation](world)
        except error:
            yield world
        else:
            return


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        ("prefill, a hit", Fault),
        ("decode_step", KeyboardInterrupt),
        ("step", MemoryError),
        pytest.param("prefill, in chunks", Fault, marks=pytest.mark.long),
        pytest.param("stream", Fault, marks=pytest.mark.long),
        pytest.param("sample", Fault, marks=pytest.mark.long),
    ],
)
def test_a_module_of_the_model_that_fails_leaves_nothing_half_done(
    tiny: Any, due: Any, operation: str, error: type[BaseException]
) -> None:
    n_places = 0
    for world in failing_everywhere(tiny, operation, error):
        n_places += 1
        world.check_aftermath(due)
    assert n_places > 30
