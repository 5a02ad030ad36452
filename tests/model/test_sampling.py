"""How tokens are chosen, and several answers to one prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from radix_lib.sampling import Sampling
from tests.support.answers import Models, assert_idle, some_tokens

# ── Choosing ──────────────────────────────────────────────────────────────────────────


def drawn(logits: Tensor, temperature: float, top_p: float, n: int = 4_000) -> Tensor:
    """How often each token comes, as shares."""
    random = torch.Generator().manual_seed(0)
    sampling = Sampling(temperature, top_p)
    tokens = [sampling.choose(logits, random) for _ in range(n)]
    return torch.bincount(torch.tensor(tokens), minlength=len(logits)) / n


# Tokens 2, 0, 3, 1 in the order of their probabilities, .5 .3 .15 .05
BY_HAND = torch.tensor([0.3, 0.05, 0.5, 0.15]).log()


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (1e-9, [2]),
        (0.49, [2]),
        (0.51, [2, 0]),
        (0.79, [2, 0]),
        (0.81, [2, 0, 3]),
        (0.94, [2, 0, 3]),
        (0.96, [2, 0, 3, 1]),
        (1.0, [2, 0, 3, 1]),
    ],
)
def test_top_p_keeps_the_smallest_set(top_p: float, kept: list[int]) -> None:
    shares = drawn(BY_HAND, 1.0, top_p)
    assert sorted(kept) == shares.nonzero().flatten().tolist()
    expected = torch.zeros(4)
    expected[kept] = BY_HAND.exp()[kept]
    torch.testing.assert_close(shares, expected / expected.sum(), rtol=0, atol=0.03)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_divides_the_logits(temperature: float) -> None:
    expected = (BY_HAND / temperature).softmax(-1)
    torch.testing.assert_close(
        drawn(BY_HAND, temperature, 1.0), expected, rtol=0, atol=0.03
    )


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-30])
def test_the_smallest_temperatures_choose_what_0_chooses(temperature: float) -> None:
    shares = drawn(BY_HAND, temperature, 1.0, 10)
    assert shares.argmax() == 2 and shares.max() == 1


def test_temperature_zero_takes_the_largest_and_draws_nothing() -> None:
    random = torch.Generator().manual_seed(0)
    before = random.get_state()
    assert Sampling().choose(BY_HAND, random) == 2
    assert torch.equal(random.get_state(), before)
    assert Sampling(temperature=1e-6).choose(BY_HAND.bfloat16(), random) == 2


# ── Several answers ───────────────────────────────────────────────────────────────────


def test_samples_are_those_that_come_alone(cached: Models) -> None:
    """Sample i is drawn with seed + i, the others there or not, cold or on a hit."""
    model = cached()
    prompt = some_tokens(10)
    sampling = {"temperature": 1.0, "top_p": 0.9}
    samples = model.sample(prompt, 4, 16, seed=7, **sampling)
    assert_idle(model)
    assert len({tuple(sample.tokens) for sample in samples}) == 4
    for i, sample in enumerate(samples):
        for other in (model, cached()):
            assert (
                other.generate(prompt, 16, seed=7 + i, **sampling).tokens
                == sample.tokens
            )
    third = model.generate(prompt, np.int64(16), seed=np.int64(9), **sampling)
    assert third.tokens == samples[2].tokens
    again = cached().sample(prompt, 4, 16, seed=7, **sampling)
    assert [sample.tokens for sample in again] == [sample.tokens for sample in samples]


def test_greedy_samples_are_the_greedy_answer(cached: Models, kind: str) -> None:
    model = cached(kind)
    prompt = some_tokens(10)
    alone = cached(kind).generate(prompt, 12).tokens
    assert [sample.tokens for sample in model.sample(prompt, 3, 12)] == [alone] * 3


def test_samples_end_each_at_its_own_stop(cached: Models) -> None:
    model = cached()
    prompt = some_tokens(10)
    sampling = {"temperature": 1.5, "seed": 3, "stop": list(range(3, 20))}
    samples = model.sample(prompt, 6, 16, **sampling)
    assert len({len(sample.tokens) for sample in samples}) > 2
    for i, sample in enumerate(samples):
        sampling["seed"] = 3 + i
        assert model.generate(prompt, 16, **sampling).tokens == sample.tokens
    assert_idle(model)


def test_a_sample_that_ended_gives_its_pages_back_at_once(cached: Models) -> None:
    model = cached()
    prompt = some_tokens(10)
    sampling = {"temperature": 1.5, "seed": 3, "stop": list(range(3, 20))}
    lengths = [len(sample.tokens) for sample in model.sample(prompt, 6, 16, **sampling)]
    model.flush()
    first = min(lengths)
    assert first < max(lengths)
    answers = model._answers(prompt, 6, 16, **sampling)
    running = [(next(answers), len(model.router.leases))[1] for _ in range(first + 1)]
    assert running[:first] == [6] * first and running[first] == 6 - lengths.count(first)
    answers.close()  # type: ignore[attr-defined]
    assert_idle(model)


def test_a_prompt_is_computed_once_for_all_its_samples(cached: Models) -> None:
    model = cached()
    seen: list[int] = []
    handle = model.model.model.layers[0].self_attn.q_proj.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape[1])
    )
    model.sample(some_tokens(10), 3, 5)
    handle.remove()
    assert seen == [10, 3, 3, 3, 3]
