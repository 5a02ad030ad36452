"""Faults in the middle of generation: nothing leaks, and the next answer is right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tests.support.answers import (
    CLOSE,
    Models,
    assert_idle,
    hf_answer,
    hf_logits,
    some_tokens,
    state,
)


class Fault(Exception):
    """Thrown where a program goes wrong; KeyboardInterrupt is what a reader throws."""


@contextmanager
def failing(
    module: torch.nn.Module, call: int, error: type[BaseException]
) -> Iterator[None]:
    """Make `module` raise at its `call`-th call."""
    calls = iter(range(call))

    def hook(*_: Any) -> None:
        if next(calls, None) is None:
            raise error

    handle = module.register_forward_pre_hook(hook)
    try:
        with pytest.raises(error):
            yield
    finally:
        handle.remove()


@pytest.mark.parametrize("error", [Fault, KeyboardInterrupt])
@pytest.mark.parametrize("call", [0, 1, 3], ids=["prefill", "step 1", "step 3"])
@pytest.mark.parametrize(
    "ask",
    [
        lambda model, prompt: model.generate(prompt, 8),
        lambda model, prompt: list(model.stream(prompt, 8)),
        lambda model, prompt: model.sample(prompt, 3, 8, temperature=1.0),
    ],
    ids=["generate", "stream", "sample"],
)
def test_a_fault_in_the_model_leaks_nothing(
    tiny_model: Models, cached: Models, ask: Any, call: int, error: type[BaseException]
) -> None:
    model = cached(n_pages=24)
    prompt = some_tokens(19)
    model.generate(prompt[:9], 4)
    before = model.stats()
    # Half of the layers have written their K/V by then.
    with failing(model.model.model.layers[1].mlp, call, error):
        ask(model, prompt)
    assert_idle(model)
    assert model.stats().requests == before.requests + (call > 0)
    answer = model.generate(prompt, 8)
    assert answer.tokens == hf_answer(tiny_model(dtype=torch.float64), prompt, 8)
    assert answer.cached_tokens == (16 if call else 8)
    assert_idle(model)


@pytest.mark.parametrize("error", [Fault, KeyboardInterrupt])
def test_a_fault_between_two_chunks_of_a_prefill(
    tiny_model: Models, cached: Models, error: type[BaseException]
) -> None:
    model = cached()
    prompt = some_tokens(30)
    with failing(model.model.model.layers[1].mlp, 2, error):
        model.prefill(prompt, chunk_tokens=9)
    assert_idle(model)
    lease, logits = model.prefill(prompt)
    assert lease.n_cached == 16, "what two chunks computed was shared and stays right"
    torch.testing.assert_close(
        logits, hf_logits(tiny_model(dtype=torch.float64), prompt), **CLOSE
    )


@pytest.mark.parametrize("error", [Fault, KeyboardInterrupt])
def test_after_a_fault_in_a_decode_step_it_can_be_tried_again(
    tiny_model: Models, cached: Models, error: type[BaseException]
) -> None:
    model = cached()
    hf = tiny_model(dtype=torch.float64)
    prompts = [some_tokens(n, seed=n) for n in (7, 12)]
    leases = [model.prefill(prompt, max_new_tokens=3)[0] for prompt in prompts]
    before = state(model)[1:]
    with failing(model.model.model.layers[1].mlp, 0, error):
        model.decode_step(leases, [5, 6])
    assert state(model)[1:] == before
    logits = model.decode_step(leases, [8, 9])
    expected = torch.stack(
        [hf_logits(hf, [*prompts[0], 8]), hf_logits(hf, [*prompts[1], 9])]
    )
    torch.testing.assert_close(logits, expected, **CLOSE)


@pytest.mark.parametrize("error", [Fault, KeyboardInterrupt])
def test_a_fault_while_a_tail_is_copied_leaks_no_fork(
    cached: Models, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = cached()

    def copy_page(source: int, target: int) -> None:
        raise error

    lease = model.prefill(some_tokens(10), max_new_tokens=3)[0]
    with monkeypatch.context() as patch:
        patch.setattr(model.pool, "copy_page", copy_page)
        with pytest.raises(error):
            model.fork(lease, 3)
        assert list(model.router.leases) == [lease]
        with pytest.raises(error):
            model.sample(some_tokens(10, seed=1), 2, 3)
    assert list(model.router.leases) == [lease]
    model.router.finish(lease)
    assert_idle(model)


@pytest.mark.parametrize("error", [Fault, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["commit", "finish", "fork"])
def test_a_fault_in_the_router_leaks_nothing(
    cached: Models,
    name: str,
    error: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = cached()
    prompt = some_tokens(10)
    for when in ("before", "after"):
        call = getattr(model.router, name)

        def fail(*args: Any, when: str = when, call: Any = call) -> None:
            if when == "after":
                call(*args)
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(model.router, name, fail)
            with pytest.raises(error):
                model.sample(prompt, 2, 3)
        if (name, when) == ("fork", "after"):  # the fork never reached the model
            [lost] = model.router.leases
            model.router.cancel(lost)
        assert_idle(model)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_fault_while_flushing_leaves_books_that_add_up(
    cached: Models, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = cached()
    model.generate(some_tokens(10), 3)
    shorten = model.cache._shorten

    def fail(leaf: Any, keep: int) -> None:
        if when == "after":  # the leaf is gone, its pages are not free yet
            shorten(leaf, keep)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model.cache, "_shorten", fail)
        with pytest.raises(KeyboardInterrupt):
            model.flush()
    assert_idle(model)
    model.flush()
    assert model.stats().pages.free == 64
