"""Forks of a lease: whole pages are shared, the partial tail is copied."""

from __future__ import annotations

import pytest
import torch

from tests.support.answers import CLOSE, Models, assert_idle, hf_logits, some_tokens


@pytest.mark.parametrize("length", range(5, 10))
def test_forks_go_their_own_ways(
    tiny_model: Models, cached: Models, length: int
) -> None:
    """Wherever the prompt ends in its page, neither side sees what the other wrote."""
    model = cached()
    hf = tiny_model(dtype=torch.float64)
    trunk = some_tokens(length)
    lease = model.prefill(trunk, max_new_tokens=9)[0]
    leases = [lease, model.fork(lease, 9)]
    leases.append(model.fork(leases[1], 9))
    model.router.check_integrity()
    n_whole = length // 4
    for fork in leases[1:]:  # whole pages are the same ones, the rest is its own
        assert (fork.page_table[:n_whole] == lease.page_table[:n_whole]).all()
        assert not set(fork.page_table[n_whole:]) & set(lease.page_table[n_whole:])
    texts = [list(trunk) for _ in leases]
    for step in range(9):
        for i in (2, 0, 1):  # each by itself, in turn: no batch hides who wrote where
            token = 10 + 9 * i + step
            texts[i].append(token)
            logits = model.decode_step([leases[i]], [token])[0]
            torch.testing.assert_close(logits, hf_logits(hf, texts[i]), **CLOSE)
    for fork in leases:
        model.router.finish(fork)
    assert_idle(model)
    for text in texts:
        assert model.generate([*text, 3], 1).cached_tokens == len(text) // 4 * 4


def test_a_fork_at_the_end_of_a_page_copies_none(
    cached: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = cached()
    copied = []
    monkeypatch.setattr(model.pool, "copy_page", lambda *pages: copied.append(pages))
    for length, n_copies in ((8, 0), (9, 1)):
        model.fork(
            model.prefill(some_tokens(length, seed=length), max_new_tokens=3)[0], 3
        )
        assert len(copied) == n_copies


def test_a_fork_outlives_its_origin(tiny_model: Models, cached: Models) -> None:
    model = cached(n_pages=8)
    hf = tiny_model(dtype=torch.float64)
    text = some_tokens(10)
    lease = model.prefill(text, max_new_tokens=2)[0]
    fork = model.fork(lease, 6)
    model.router.cancel(lease)
    # Somebody else takes whatever is free now, and fills it.
    other = model.prefill(some_tokens(15, seed=9))[0]
    for token in range(20, 26):
        text.append(token)
        logits = model.decode_step([fork], [token])[0]
        torch.testing.assert_close(logits, hf_logits(hf, text), **CLOSE)
    model.router.finish(fork)
    model.router.finish(other)
    assert_idle(model)


def test_a_fork_in_the_middle_of_an_answer(tiny_model: Models, cached: Models) -> None:
    model = cached()
    hf = tiny_model(dtype=torch.float64)
    text = some_tokens(6)
    lease = model.prefill(text, max_new_tokens=8)[0]
    for token in range(50, 55):
        model.decode_step([lease], [token])
        text.append(token)
    fork = model.fork(lease, 4)
    logits = model.decode_step([lease, fork], [1, 2])
    expected = torch.stack([hf_logits(hf, [*text, token]) for token in (1, 2)])
    torch.testing.assert_close(logits, expected, **CLOSE)
