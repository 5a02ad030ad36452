"""Bad arguments of the calls that compute: refused by name, and nothing has changed.

`tests/control/test_bad_arguments.py` is the table of the calls that need no tensor,
`test_generation_refusals.py` that of prompts and options.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sized
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from radix_lib.executor import Chunk
from radix_lib.page_manager import KVPool
from radix_lib.radix_model import RadixAttentionModel
from radix_lib.sampling import Sampling
from tests.support.answers import Models, some_tokens, state

NAN = float("nan")
NO_NUMBERS = ["a", b"a", None, 1.5, NAN, float("inf"), [1], {}, np.float32(2), 1j]
COUNTS = [-1, 2**80, *NO_NUMBERS]
TOKENS = [97, -1, 2**32, 2**80, *NO_NUMBERS]
PAGES = [64, -1, 2**80, *NO_NUMBERS]


class Place(NamedTuple):
    """A model with a prompt in its cache, and a lease that is computed."""

    model: RadixAttentionModel
    lease: Any
    ended: Any
    foreign: Any

    def chunk(self, **changed: Any) -> Any:
        table = self.lease.page_table
        chunk = Chunk([5], self.lease.n_computed, table)._replace(**changed)
        return self.model.executor.forward([chunk])

    def write(self, slots: Any, k: Any, v: Any) -> None:
        self.model.pool.write(0, slots, k, v)


class Case(NamedTuple):
    """A call with one argument left open, and the bad values for it."""

    name: str
    call: Callable[[Place, Any], Any]
    bad: list[Any]


def sizes(**changed: Any) -> KVPool:
    good = {"n_layers": 2, "kv_heads": 2, "head_dim": 4, "n_pages": 3, "page_size": 4}
    return KVPool(**(good | changed))


CASES = [
    *(
        Case(
            f"KVPool({name})",
            lambda p, x, name=name: sizes(**{name: x}),
            [0, -1, *NO_NUMBERS],
        )
        for name in ("n_layers", "kv_heads", "head_dim", "n_pages", "page_size")
    ),
    Case("KVPool.get_page", lambda p, x: p.model.pool.get_page(0, x), PAGES),
    Case("KVPool.copy_page(source)", lambda p, x: p.model.pool.copy_page(x, 1), PAGES),
    Case("KVPool.copy_page(target)", lambda p, x: p.model.pool.copy_page(1, x), PAGES),
    Case("KVPool.clear_page", lambda p, x: p.model.pool.clear_page(x), PAGES),
    Case("Chunk(tokens)", lambda p, x: p.chunk(tokens=[x]), TOKENS),
    Case("Chunk(all tokens)", lambda p, x: p.chunk(tokens=x), [None, 1, "ab", [[1]]]),
    Case("Chunk(start)", lambda p, x: p.chunk(start=x), [-1, 99, *NO_NUMBERS]),
    Case(
        "Chunk(page_table)",
        lambda p, x: p.chunk(page_table=x),
        [
            None,
            3,
            "ab",
            [0, 1, 2, 3],
            np.array([0.0, 1, 2, 3]),
            np.array([[0, 1, 2, 3]]),
            np.array([0, 1, -2, 3]),
            np.array([0, 1, 64, 3]),
        ],
    ),
    Case(
        "decode_step(token)", lambda p, x: p.model.decode_step([p.lease], [x]), TOKENS
    ),
    Case(
        "decode_step(tensor)",
        lambda p, x: p.model.decode_step([p.lease], x),
        [torch.tensor([1.5]), torch.tensor([NAN]), torch.tensor([[1]])],
    ),
    Case("fork(room)", lambda p, x: p.model.fork(p.lease, x), COUNTS),
    Case(
        "prefill(room)",
        lambda p, x: p.model.prefill([1], max_new_tokens=x),
        COUNTS,
    ),
    Case(
        "generate(max_new_tokens)",
        lambda p, x: p.model.generate([1], x),
        [0, *COUNTS],
    ),
    Case("sample(n)", lambda p, x: p.model.sample([1], x), [0, -1, *NO_NUMBERS]),
    *(
        Case(f"Sampling({name})", lambda p, x, name=name: Sampling(**{name: x}), bad)
        for name, bad in [
            ("temperature", [-1, NAN, float("inf"), "a", None, [1], 1j]),
            ("top_p", [0, -1, 1.5, NAN, "a", None, [1], 1j]),
            ("seed", [-1, 2**63, 2**80, *NO_NUMBERS]),
        ]
    ),
]


def all_calls() -> list[Any]:
    return [
        pytest.param(case, bad, id=f"{case.name} {number} {type(bad).__name__}")
        for case in CASES
        for number, bad in enumerate(case.bad)
    ]


def names_of(bad: Any) -> list[str]:
    """One of these is to be in the message: the value, or one in it."""
    if isinstance(bad, np.ndarray | torch.Tensor):
        return [repr(bad), *map(repr, bad.flatten().tolist()), repr(bad[0].tolist())]
    names = [repr(bad), str(bad)]
    if isinstance(bad, Sized):
        names += map(repr, bad)
    return names


@pytest.fixture
def place(cached: Models) -> Place:
    model = cached(n_pages=64)
    model.generate(some_tokens(9), 2)
    lease = model.prefill(some_tokens(6, seed=1), max_new_tokens=8)[0]
    ended = model.prefill([1])[0]
    model.router.finish(ended)
    foreign = cached(n_pages=64).prefill([1, 2])[0]
    return Place(model, lease, ended, foreign)


@pytest.mark.parametrize(("case", "bad"), all_calls())
def test_a_bad_argument_is_refused_by_name_and_changes_nothing(
    place: Place, case: Case, bad: Any
) -> None:
    before = state(place.model)
    words = "|".join(re.escape(name) for name in names_of(bad))
    with pytest.raises(ValueError, match=words):
        case.call(place, bad)
    assert state(place.model) == before


@pytest.mark.parametrize("which", ["ended", "foreign"])
@pytest.mark.parametrize(
    "call",
    [
        lambda model, lease: model.fork(lease),
        lambda model, lease: model.decode_step([lease], [1]),
        lambda model, lease: model.step([lease], [1]),
    ],
    ids=["fork", "decode_step", "step"],
)
def test_a_lease_that_is_not_live_here_is_refused_and_nothing_changes(
    place: Place, which: str, call: Callable[[RadixAttentionModel, Any], Any]
) -> None:
    before = state(place.model)
    with pytest.raises(ValueError, match="this lease is not live here"):
        call(place.model, getattr(place, which))
    assert state(place.model) == before


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("number", [NAN, float("inf")])
def test_logits_that_are_no_numbers_are_refused(
    temperature: float, number: float
) -> None:
    logits = torch.zeros(9)
    logits[4] = number
    with pytest.raises(ValueError, match=rf"logit of token 4 is {number}"):
        Sampling(temperature).choose(logits, torch.Generator())
    logits[4] = -float("inf")  # banned
    assert Sampling(temperature).choose(logits, torch.Generator()) != 4


def test_numpy_scalars_are_numbers(place: Place) -> None:
    model = place.model
    due = model.generate(some_tokens(7, seed=5), 3).tokens
    prompt = np.array(some_tokens(7, seed=5), np.uint16)
    assert model.generate(prompt, np.int8(3), stop=np.array([], int)).tokens == due
    assert model.sample(prompt, np.int64(2), np.int64(3))[1].tokens == due
    model.decode_step([place.lease], np.array([3]))
    model.step([model.router.admit([4, 5])], [np.int32(2)])


WRITES = {
    "keys of another shape": (4, (2, 1, 8), (2, 1, 9), torch.float64),
    "values of another shape": (4, (2, 1, 8), (2, 2, 8), torch.float64),
    "a slot too many": (4, (2, 0, 8), (2, 0, 8), torch.float64),
    "a slot that is not there": (64 * 4, (2, 1, 8), (2, 1, 8), torch.float64),
    "a negative slot": (-1, (2, 1, 8), (2, 1, 8), torch.float64),
    "another dtype": (4, (2, 1, 8), (2, 1, 8), torch.float32),
}


@pytest.mark.parametrize("kind", WRITES)
def test_a_bad_write_changes_nothing(place: Place, kind: str) -> None:
    slot, k, v, dtype = WRITES[kind]
    before = state(place.model)
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        place.write(
            torch.tensor([slot]), torch.ones(k, dtype=dtype), torch.ones(v, dtype=dtype)
        )
    assert state(place.model) == before
