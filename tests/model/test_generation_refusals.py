"""What generation refuses, by name and before anything has changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from radix_lib.page_manager import OutOfPages
from radix_lib.radix_model import RadixAttentionModel
from tests.support.answers import Models, some_tokens, state

BAD: list[tuple[Callable[[RadixAttentionModel], Any], str]] = [
    (lambda model: model.generate([]), "at least one token"),
    (lambda model: model.generate(""), "at least one token"),
    (lambda model: model.generate([1, 97]), "97"),
    (lambda model: model.generate([1, -1]), "-1"),
    (lambda model: model.generate([1, 2.5]), "2.5"),
    (lambda model: model.generate([1] * 257, 1), "256"),
    (lambda model: model.generate([1] * 250, 7), "256"),
    (lambda model: model.generate(b"abcd"), "b'abcd' is not a list of token ids"),
    (lambda model: model.generate(None), "not None"),
    (lambda model: model.generate(["a"]), "not 'a'"),
    (lambda model: model.generate({"role": "user"}), "{'role': 'user'} is not a list"),
    (lambda model: model.generate("a\ud800"), "'.ud800' at place 1 of the prompt"),
    (lambda model: model.generate([1], 0), "max_new_tokens is a whole number from 1"),
    (lambda model: model.generate([1], 2.5), "max_new_tokens .* not 2.5"),
    (lambda model: model.generate([1], np.float32(3)), r"not np.float32\(3.0\)"),
    (lambda model: model.generate([1], "3"), "not '3'"),
    (lambda model: model.generate([1], None), "not None"),
    (lambda model: model.generate([1], temperature=-1), "temperature=-1"),
    (lambda model: model.generate([1], temperature=float("nan")), "temperature=nan"),
    (lambda model: model.generate([1], temperature=float("inf")), "temperature=inf"),
    (lambda model: model.generate([1], temperature=None), "temperature=None"),
    (lambda model: model.generate([1], temperature="hot"), "temperature='hot'"),
    (lambda model: model.generate([1], top_p=0), "top_p=0"),
    (lambda model: model.generate([1], top_p=None), "top_p=None"),
    (lambda model: model.generate([1], top_p=1.5), "top_p=1.5"),
    (lambda model: model.generate([1], top_p=float("nan")), "top_p=nan"),
    (lambda model: model.generate([1], seed=None), "seed .* not None"),
    (lambda model: model.generate([1], seed=1.5), "seed .* not 1.5"),
    (lambda model: model.generate([1], seed=-1), "seed .* not -1"),
    (lambda model: model.generate([1], seed=2**63), "seed=9223372036854775808"),
    (lambda model: model.sample([1], 0), "n is a whole number from 1, not 0"),
    (lambda model: model.sample([1], 2.5), "n is .* not 2.5"),
    (lambda model: model.sample([1], None), "n is .* not None"),
    (lambda model: model.prefill([1], chunk_tokens=0), "chunk_tokens .* not 0"),
    (lambda model: model.prefill([1], chunk_tokens="2"), "chunk_tokens .* not '2'"),
    (lambda model: model.prefill([1], chunk_tokens=float("nan")), "not nan"),
    (lambda model: model.prefill([1] * 9, chunk_tokens=2.5), "not 2.5"),
    (lambda model: model.generate([1], stop=[5, 97]), "token id 97"),
    (lambda model: model.generate([1], stop=97), "token id 97"),
    (lambda model: model.generate([1], stop=-1), "not -1"),
    (lambda model: model.generate([1], stop=[2.5]), "not 2.5"),
    (lambda model: model.generate([1], stop=torch.tensor([2.5])), "not 2.5"),
    (lambda model: model.generate([1], stop=torch.tensor([[5]])), r"not \[5\]"),
    (lambda model: model.generate([1], stop="ab"), "'ab' is not a list of token ids"),
    (lambda model: model.generate([1], stop=b"abcd"), "b'abcd' is not a list"),
    (lambda model: model.generate([1], stop=["a"]), "not 'a'"),
    (lambda model: model.generate([1], stop=None), "not None"),
    (lambda model: model.prefill([1], max_new_tokens=-1), "-1"),
    (lambda model: model.prefill([1], max_new_tokens=2**80), str(2**80)),
    (lambda model: model.prefill([1], namespace=[1]), r"not \[1\]"),
    (lambda model: model.generate([1], namespace=True), "not True"),
    (lambda model: model.generate([1], namespace=float("nan")), "not nan"),
    (lambda model: model.sample([1], 2, namespace={}), "not {}"),
    (lambda model: model.generate(torch.tensor([[1]])), r"not \[1\]"),
    (lambda model: model.generate(torch.tensor([1.5])), "not 1.5"),
    (lambda model: model.generate(np.array([np.nan])), "not nan"),
    (lambda model: model.generate([2**80]), str(2**80)),
    (lambda model: model.fork(None), "not None"),
    (lambda model: model.fork([]), r"not \[\]"),
    (lambda model: model.decode_step([None], [1]), "not None"),
    (lambda model: model.decode_step([1], [1]), "not 1"),
    (lambda model: model.decode_step([[]], [1]), r"not \[\]"),
    (lambda model: model.step([None], [1]), "not None"),
    (lambda model: model.step([[]], [1]), r"not \[\]"),
    (lambda model: model.step([], []), "at least one"),
]


@pytest.mark.parametrize(("call", "said"), BAD, ids=[said for _, said in BAD])
def test_bad_input_is_refused_and_nothing_changes(
    cached: Models, call: Callable[[RadixAttentionModel], Any], said: str
) -> None:
    model = cached(n_pages=80)
    model.generate(some_tokens(9), 2)
    before = state(model)
    with pytest.raises(ValueError, match=said):
        call(model)
    assert state(model) == before


def test_a_request_longer_than_the_pool_is_refused(cached: Models) -> None:
    model = cached(n_pages=4)
    with pytest.raises(ValueError, match="16"):
        model.generate([1] * 12, 5)
    assert model.generate([1] * 12, 4).prompt_tokens == 12


def test_a_request_that_has_to_wait_is_told_so(cached: Models) -> None:
    model = cached(n_pages=6)
    lease = model.prefill(some_tokens(9))[0]
    before = state(model)
    with pytest.raises(OutOfPages, match="pages needed: 4, free: 3"):
        model.generate(some_tokens(13, seed=1), 3)
    with pytest.raises(OutOfPages):  # the prompt fits, the third sample does not
        model.sample(some_tokens(2, seed=2), 4, 2)
    assert state(model)[1:4] == before[1:4]
    model.router.finish(lease)
    assert len(model.generate(some_tokens(13, seed=1), 3).tokens) == 3


@pytest.mark.parametrize("n", [0, -1, 4, 2**80, 1.5, float("nan"), "a", None, [1]])
def test_a_bad_number_of_tokens_for_a_step_is_refused_and_nothing_changes(
    cached: Models, n: Any
) -> None:
    model = cached()
    leases = [model.router.admit(some_tokens(3, seed)) for seed in range(2)]
    before = state(model)
    with pytest.raises(ValueError, match=re.escape(repr(n))):
        model.step(leases, [1, n])
    assert state(model) == before


@pytest.mark.parametrize(
    ("leases", "tokens", "said"),
    [
        ("a", [97], "97"),
        ("a", [-1], "-1"),
        ("a", [2.5], "2.5"),
        ("ab", [1], "longer|shorter"),
        ("", [], "at least one"),
        ("f", [1], "must fit in 2 pages"),  # full
        ("p", [1], "still to prefill"),
        ("ap", [1, 1], "still to prefill"),
        ("af", [1, 1], "must fit in 2 pages"),
        ("e", [1], "not live"),  # ended: its pages may be another's by now
        ("ae", [1, 1], "not live"),
        ("aa", [1, 2], "slot"),  # both would write to the same slot
    ],
)
def test_a_bad_decode_step_is_refused_and_nothing_changes(
    cached: Models, leases: str, tokens: list[int], said: str
) -> None:
    model = cached()
    known = {
        name: model.prefill(some_tokens(6, seed), max_new_tokens=4)[0]
        for seed, name in enumerate("abe")
    }
    known["f"] = model.prefill(some_tokens(8, seed=7))[0]
    known["p"] = model.router.admit(some_tokens(6, seed=8), None, 4)
    model.router.finish(known["e"])
    before = state(model)
    with pytest.raises(ValueError, match=said):
        model.decode_step([known[name] for name in leases], tokens)
    assert state(model) == before
