"""Prompts, chunks and decodes in one packed forward, and who chooses what follows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from radix_lib.batch_invariance import batch_invariant
from radix_lib.equality import baseline_logits
from radix_lib.executor import AttentionExecutor
from radix_lib.page_manager import KVPool
from radix_lib.radix_cache import RadixCache
from radix_lib.radix_model import RadixAttentionModel
from radix_lib.router import Router
from radix_lib.teaching.checks.cache_states import FAMILIES, tiny_model
from tests.support.answers import Characters, Models, assert_idle, some_tokens
from tests.support.inspection import snapshot


@pytest.mark.parametrize("family", FAMILIES)
def test_all_kinds_of_work_stand_side_by_side_and_no_bit_differs(
    one_thread: None, family: str
) -> None:
    hf = tiny_model(FAMILIES[family], vocab_size=97)
    model = RadixAttentionModel(hf, Characters(), page_size=4, n_pages=64)
    with batch_invariant():
        cold = model.router.admit(some_tokens(9))
        begun = model.router.admit(some_tokens(14, seed=1))
        model.step([begun], [6])
        decoding = model.prefill(some_tokens(7, seed=2), max_new_tokens=4)[0]
        decoding.append(5)
        other = model.prefill(some_tokens(11, seed=3), max_new_tokens=4)[0]
        other.append(6)
        leases = [decoding, cold, other, begun]
        counts = [1, 9, 1, 5]
        first = [lease.n_computed for lease in leases]
        logits = model.step(leases, counts, all_logits=True)
        assert len(logits) == sum(counts)
        for lease, n, start in zip(leases, counts, first, strict=True):
            assert lease.n_computed == start + n
            tokens = lease.tokens[: lease.n_computed]
            theirs = baseline_logits(hf, tokens, all_logits=True)[start:]
            mine, logits = logits[:n], logits[n:]
            assert torch.equal(mine, theirs)
        rest = model.step([begun], [3])
        assert torch.equal(rest[0], baseline_logits(hf, begun.tokens))
    for lease in leases:
        model.router.finish(lease)
    assert_idle(model)


def test_without_all_logits_the_last_of_each_come(cached: Models) -> None:
    model = cached()
    leases = [model.router.admit(some_tokens(n, seed=n)) for n in (5, 8)]
    assert model.step(leases, [5, 3]).shape == (2, model.model.config.vocab_size)


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ([5, 0], "n_tokens is a whole number from 1, not 0"),
        ([5, 9], "9 tokens cannot be computed: 8 are missing"),
        ([-1, 8], "n_tokens is a whole number from 1, not -1"),
        ([5], "shorter"),
        ([5, 8, 1], "longer"),
    ],
)
def test_a_bad_number_of_tokens_is_refused(
    cached: Models, counts: list[int], says: str
) -> None:
    model = cached()
    leases = [model.router.admit(some_tokens(n, seed=n)) for n in (5, 8)]
    before = snapshot(model.router)
    with pytest.raises(ValueError, match=says):
        model.step(leases, counts)
    assert snapshot(model.router) == before


def test_a_lease_that_has_ended_and_a_step_of_none_are_refused(cached: Models) -> None:
    model = cached()
    lease = model.router.admit(some_tokens(5))
    model.router.cancel(lease)
    with pytest.raises(ValueError, match="not live"):
        model.step([lease], [5])
    with pytest.raises(ValueError, match="at least one chunk"):
        model.step([], [])


def test_the_same_lease_twice_in_a_step_is_refused(cached: Models) -> None:
    model = cached()
    lease = model.router.admit(some_tokens(5))
    before = snapshot(model.router)
    with pytest.raises(ValueError, match="same slot"):
        model.step([lease, lease], [2, 2])
    assert snapshot(model.router) == before


def test_a_step_that_fails_in_the_model_has_computed_nothing(
    cached: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = cached()
    lease = model.router.admit(some_tokens(5))
    before = snapshot(model.router)

    def fail(*_: object, **__: object) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(model.executor, "forward", fail)
    with pytest.raises(MemoryError):
        model.step([lease], [5])
    assert snapshot(model.router) == before


def test_a_sampler_chooses_what_a_stream_chooses(cached: Models) -> None:
    model = cached()
    options = {"temperature": 1.0, "top_p": 0.9, "seed": 7}
    alone = model.generate(some_tokens(10), 12, **options).tokens
    sampler = model.sampler(**options)
    lease, row = model.prefill(some_tokens(10), max_new_tokens=12)
    tokens: list[int] = []
    for place in range(12):
        token = sampler.choose(row, place)
        assert sampler.choose(row, place) == token, "asked again, it says the same"
        tokens.append(token)
        row = model.decode_step([lease], [token])[0]
    assert tokens == alone


def test_a_sampler_knows_what_ends_an_answer(cached: Models) -> None:
    model = cached()
    assert model.sampler(stop=[3, 4]).ends == {3, 4}
    with pytest.raises(ValueError, match="temperature=-1"):
        model.sampler(temperature=-1)
    with pytest.raises(ValueError, match="token id 97"):
        model.sampler(stop=[97])


def test_a_model_is_made_of_the_types_that_it_names() -> None:
    class OwnRouter(Router):
        pass

    class OwnCache(RadixCache):
        pass

    class OwnPool(KVPool):
        pass

    class OwnExecutor(AttentionExecutor):
        pass

    class OwnModel(RadixAttentionModel):
        router_type = OwnRouter
        cache_type = OwnCache
        pool_type = OwnPool
        executor_type = OwnExecutor

    model = OwnModel(tiny_model(), None, n_pages=4)
    assert type(model.router) is OwnRouter
    assert type(model.cache) is OwnCache
    assert model.router.cache is model.cache
    assert type(model.pool) is OwnPool
    assert type(model.executor) is OwnExecutor
    assert model.executor.pool is model.pool
