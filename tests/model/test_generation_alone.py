"""One call at a time: other threads wait, and forgotten streams come in nowhere."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from functools import partial
from types import FrameType
from typing import Any

import pytest
import torch

from radix_lib import page_manager, radix_cache, radix_model, radix_tree, router
from radix_lib.radix_model import RadixAttentionModel
from tests.support.answers import (
    CLOSE,
    Models,
    assert_idle,
    hf_answer,
    hf_logits,
    some_tokens,
)
from tests.support.streams import no_automatic_collection
from tests.support.threads import together

KEEPS_BOOKS = {
    module.__file__
    for module in (page_manager, radix_cache, radix_model, radix_tree, router)
}


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Garbage is collected when the test says so."""
    with no_automatic_collection():
        yield


# ── Threads ───────────────────────────────────────────────────────────────────────────


def test_threads_get_the_answers_that_they_would_get_alone(
    tiny_model: Models, cached: Models
) -> None:
    model = cached()
    hf = tiny_model(dtype=torch.float64)
    prompts = [some_tokens(9 + seed % 2, seed // 2) for seed in range(6)]
    expected = [hf_answer(hf, prompt, 6) for prompt in prompts]

    def ask(i: int) -> None:
        for _ in range(3):
            assert model.generate(prompts[i], 6).tokens == expected[i]
            [other] = model.sample(prompts[i], 1, 6)
            assert other.tokens == expected[i]

    together(*(partial(ask, i) for i in range(6)))
    assert_idle(model)
    stats = model.stats()
    assert stats.requests == 6 * 3 * 2
    assert stats.prompt_tokens == sum(map(len, prompts)) * 3 * 2
    assert stats.decoded_tokens == 5 * stats.requests


def test_two_threads_on_one_lease_take_turns(
    tiny_model: Models, cached: Models
) -> None:
    model = cached()
    lease, _ = model.prefill(some_tokens(6), max_new_tokens=61)

    def decode(token: int) -> None:
        for _ in range(30):
            model.decode_step([lease], [token])

    together(partial(decode, 5), partial(decode, 6))
    assert sorted(lease.tokens[6:]) == [5] * 30 + [6] * 30
    logits = model.decode_step([lease], [7])[0]
    expected = hf_logits(tiny_model(dtype=torch.float64), lease.tokens)
    torch.testing.assert_close(logits, expected, **CLOSE)


def test_what_finds_its_own_thread_inside_is_refused_by_name(cached: Models) -> None:
    model = cached()

    def hook(*_: Any) -> None:
        model.generate([1, 2, 3], 1)

    handle = model.model.model.layers[0].mlp.register_forward_pre_hook(hook)
    try:
        with pytest.raises(RuntimeError, match="RadixAttentionModel in the middle of"):
            model.generate([1, 2, 3], 1)
    finally:
        handle.remove()
    assert_idle(model)
    assert model.stats().requests == 0


# ── Forgotten streams ─────────────────────────────────────────────────────────────────


def forget_a_stream(model: RadixAttentionModel, prompt: list[int], taken: int) -> None:
    """Begin a stream, and leave it in a cycle that only a collection finds."""
    stream = model.stream(prompt, 8)
    for _ in range(taken):
        next(stream)
    cycle: list[Any] = [stream]
    cycle.append(cycle)


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("ask", ["generate", "sample", "prefill", "fork", "flush"])
def test_a_forgotten_stream_keeps_no_pages_from_others(
    tiny_model: Models, cached: Models, ask: str
) -> None:
    model = cached(n_pages=8)
    prompt = some_tokens(17, seed=1)
    if ask == "fork":
        mine, _ = model.prefill(prompt[:3])
    forget_a_stream(model, some_tokens(9), taken=2)
    assert model.router.usage().private > 0
    if ask == "generate":
        answer = model.generate(prompt, 8).tokens
        assert answer == hf_answer(tiny_model(dtype=torch.float64), prompt, 8)
    elif ask == "sample":
        model.sample(prompt[:3], 2, 9)
    elif ask == "prefill":
        model.router.finish(model.prefill(prompt, max_new_tokens=8)[0])
    elif ask == "fork":
        model.router.finish(model.fork(mine, 20))
        model.router.finish(mine)
    else:
        model.flush()
    assert_idle(model)


@pytest.mark.usefixtures("no_collection")
def test_a_collection_may_come_anywhere_in_a_call(
    tiny_model: Models, cached: Models
) -> None:
    """At whichever call or return: the books add up, and the answer is right.

    Closing the stream ends its request, on the thread that is in the middle of one.
    """
    model = cached(n_pages=12)
    prompt = some_tokens(10, seed=1)
    expected = hf_answer(tiny_model(dtype=torch.float64), prompt, 3)

    def ask() -> list[Any]:
        with model.prefill(prompt[:6], chunk_tokens=4, max_new_tokens=2)[0] as lease:
            fork = model.fork(lease, 1)
            model.decode_step([lease, fork], [5, 6])
            model.router.cancel(fork)
        return model.generate(prompt, 3).tokens

    calls = 0
    at = -1

    def collect(frame: FrameType, event: str, _: Any) -> None:
        nonlocal calls
        if frame.f_code.co_filename in KEEPS_BOOKS:
            if calls == at:
                gc.collect()
                gc.freeze()
            calls += 1

    def run(place: int) -> None:
        nonlocal calls, at
        calls = 0
        at = place
        forget_a_stream(model, prompt[:5], taken=2)
        sys.setprofile(collect)
        try:
            answer = ask()
        finally:
            sys.setprofile(None)
        assert answer == expected, place
        model.router.check_integrity()
        gc.collect()
        assert_idle(model)

    run(-1)
    n_calls = calls
    assert n_calls > 500
    for place in range(0, n_calls, 3):
        run(place)
