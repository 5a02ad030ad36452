"""`torch.inference_mode` around a model, its making, or nothing: all the same."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch

from radix_lib.equality import baseline_generate, baseline_logits
from radix_lib.radix_model import RadixAttentionModel
from tests.support.answers import Characters, Models, assert_idle, some_tokens

#: Where a model is made, and where it is called.
WHERE = [(nullcontext, nullcontext), (torch.inference_mode, nullcontext)]
WHERE += [(nullcontext, torch.inference_mode), (torch.inference_mode,) * 2]


def model_made(
    where: type[AbstractContextManager[None]], tiny_model: Models
) -> RadixAttentionModel:
    with where():
        return RadixAttentionModel(tiny_model(), Characters(), page_size=4, n_pages=32)


@pytest.mark.parametrize(("made", "called"), WHERE)
def test_a_model_answers_and_forks_wherever_it_was_made(
    tiny_model: Models,
    made: type[AbstractContextManager[None]],
    called: type[AbstractContextManager[None]],
) -> None:
    model = model_made(made, tiny_model)
    expected = model_made(nullcontext, tiny_model).generate(some_tokens(9), 5).tokens
    with called():
        samples = model.sample(some_tokens(9), 2, 5)  # 9 tokens: a tail is copied
        model.flush()
    assert [sample.tokens for sample in samples] == [expected] * 2
    assert_idle(model)


@pytest.mark.parametrize(("made", "called"), WHERE)
def test_logits_can_be_written_to(
    tiny_model: Models,
    made: type[AbstractContextManager[None]],
    called: type[AbstractContextManager[None]],
) -> None:
    model = model_made(made, tiny_model)
    with called():
        lease, first = model.prefill(some_tokens(9), max_new_tokens=3)
        later = model.decode_step([lease], [5])
        theirs = baseline_logits(model.model, some_tokens(9))
        _, rows = baseline_generate(model.model, some_tokens(9), 2)
    for logits in (first, *later, theirs, *rows):
        best = int(logits.argmax())
        logits[best] = -torch.inf  # bans a token
        assert int(logits.argmax()) != best
    # what is written to is the caller's own
    again, unchanged = model.prefill(some_tokens(9), max_new_tokens=3)
    assert unchanged.isfinite().all()
    model.router.finish(lease)
    model.router.finish(again)
