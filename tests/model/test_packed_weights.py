"""`radix_lib.packed_weights`: torch's private names, and copies that are not stale."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from radix_lib import invariant_rows, packed_weights
from radix_lib.__main__ import is_exact
from radix_lib.batch_invariance import batch_invariant, linear
from radix_lib.packed_weights import can_pack, linear_packed, onednn
from radix_lib.teaching.checks.cache_states import (
    FAMILIES,
    compare_states,
    tiny_model,
)

HAS_ONEDNN = torch.backends.mkldnn.is_available()

pytestmark = pytest.mark.usefixtures("one_thread")
needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="a torch without oneDNN")


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> dict[int, packed_weights.Packed]:
    """Nothing is packed at first."""
    fresh: dict[int, packed_weights.Packed] = {}
    monkeypatch.setattr(packed_weights, "_packed", fresh)
    return fresh


@pytest.fixture
def no_names() -> Iterator[None]:
    """Run the test as if torch had no operation of these names."""
    onednn.cache_clear()
    before = torch.ops.mkldnn
    torch.ops.mkldnn = object()
    yield
    torch.ops.mkldnn = before
    onednn.cache_clear()


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def is_up_to_date(weight: Tensor) -> bool:
    rows = numbers(5, weight.shape[1], seed=9).to(weight.dtype)
    output = linear_packed(rows, weight)
    return torch.allclose(output, F.linear(rows, weight), rtol=0.02, atol=0.1)


# ── The names ─────────────────────────────────────────────────────────────────────────


@needs_onednn
def test_torch_still_has_the_names() -> None:
    assert onednn(torch.float32) is not None, (
        f"torch {torch.__version__} has oneDNN, but not under the names that "
        "`packed_weights.onednn` tries: all still holds, slower; find the new ones"
    )


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_weight_multiplies_as_the_weight_does(dtype: torch.dtype) -> None:
    if onednn(dtype) is None:
        pytest.skip(f"this processor packs no {dtype}")
    for n_out, n_in in ((7, 13), (64, 32), (1, 1), (576, 192)):
        assert is_up_to_date(numbers(n_out, n_in).to(dtype))
        assert is_up_to_date(numbers(n_in, n_out).to(dtype).t())


def test_without_the_names_nothing_can_be_packed(no_names: None) -> None:
    assert onednn(torch.float32) is None
    assert not can_pack(numbers(4, 4))


def test_float64_and_other_devices_are_not_packed() -> None:
    assert not can_pack(numbers(4, 4).double())
    assert not can_pack(torch.empty(4, 4, device="meta"))


def test_onednn_may_be_switched_off() -> None:
    with torch.backends.mkldnn.flags(enabled=False):
        assert not can_pack(numbers(4, 4))


STATES = ["odd chunks", "ragged batch", "weights changed, flushed"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_the_names_not_a_bit_differs_either(
    no_names: None, dtype: torch.dtype, store: dict[int, packed_weights.Packed]
) -> None:
    model = tiny_model(dtype=dtype)
    with batch_invariant():
        found = dict(compare_states(model, range(1, 22), page_size=4, states=STATES))
    assert not store
    assert all(total.numbers and total.differing == 0 for total in found.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_switched_off_all_verdicts_of_make_verify_are_the_same(
    family: str, dtype: torch.dtype, store: dict[int, packed_weights.Packed]
) -> None:
    model = tiny_model(FAMILIES[family], dtype)
    tokens = [(7 * i * i + i) % 64 for i in range(37)]
    with torch.backends.mkldnn.flags(enabled=False):
        assert is_exact(f"a tiny {family}", model, tokens, (4,))
    assert not store


# ── Wrong for one number of rows ──────────────────────────────────────────────────────


@pytest.fixture
def wrong_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`wrong_for(n)`: from here on, products of n rows have other last bits."""

    def begin(n_rows: int) -> None:
        right = onednn(torch.float32)
        assert right is not None

        def multiply(rows: Tensor, packed: Tensor) -> Tensor:
            output = right.multiply(rows, packed)
            return output * (1 + 2**-23) if rows.shape[-2] == n_rows else output

        wrong = right._replace(multiply=multiply)
        monkeypatch.setattr(packed_weights, "onednn", lambda dtype: wrong)
        monkeypatch.setattr(invariant_rows, "_ways", {})
        monkeypatch.setattr(invariant_rows, "_careful_ways", {})

    return begin


@needs_onednn
@pytest.mark.parametrize("n_rows", [1, 2, 3, 16, 17, 23, 32, 40])
def test_a_packed_product_may_be_wrong_for_one_number_of_rows(
    n_rows: int, wrong_for: Callable[[int], None]
) -> None:
    wrong_for(n_rows)
    rows, weight = numbers(40, 24), numbers(10, 24, seed=1)
    whole = linear(rows, weight)
    for count in range(1, 41):
        assert torch.equal(linear(rows[:count], weight), whole[:count])


@needs_onednn
@pytest.mark.parametrize("n_rows", [1, 2, 5, 16, 21])
def test_a_model_on_such_a_product_still_differs_in_no_bit(
    n_rows: int, wrong_for: Callable[[int], None]
) -> None:
    wrong_for(n_rows)
    model = tiny_model()
    with batch_invariant():
        found = dict(compare_states(model, range(1, 22), page_size=4, states=STATES))
    assert all(total.numbers and total.differing == 0 for total in found.values())


# ── Never stale ───────────────────────────────────────────────────────────────────────


def in_place(weight: Tensor) -> None:
    weight *= 1.5


def in_inference_mode(weight: Tensor) -> None:
    with torch.inference_mode():
        weight *= 1.5


def one_number(weight: Tensor) -> None:
    weight[3, 2] = 9.0


def a_view(weight: Tensor) -> None:
    weight[1:3].zero_()


def behind_torchs_back(weight: Tensor) -> None:
    weight.data *= 1.5


def merged(weight: Tensor) -> None:
    """As adapters are."""
    weight.data += numbers(*weight.shape, seed=5)


def a_part_behind_torchs_back(weight: Tensor) -> None:
    weight.data[1, 1] = 9.0  # none of the numbers that are compared
    torch.autograd.graph.increment_version(weight)


def another_storage(weight: Tensor) -> None:
    weight.data = numbers(*weight.shape, seed=5)


def another_shape(weight: Tensor) -> None:
    weight.data = weight.data[:-1]


@needs_onednn
@pytest.mark.parametrize(
    "change",
    [
        in_place,
        in_inference_mode,
        one_number,
        a_view,
        behind_torchs_back,
        merged,
        a_part_behind_torchs_back,
        another_storage,
        another_shape,
    ],
)
def test_a_weight_that_changes_is_packed_anew(
    change: Callable[[Tensor], None], store: dict[int, packed_weights.Packed]
) -> None:
    weight = torch.nn.Parameter(numbers(8, 6), requires_grad=False)
    assert is_up_to_date(weight)
    change(weight)
    assert is_up_to_date(weight)
    assert len(store) == 1


@needs_onednn
def test_a_weight_is_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[Tensor] = []
    pack = packed_weights.pack

    def counted(weight: Tensor, version: int) -> packed_weights.Packed:
        packed.append(weight)
        return pack(weight, version)

    monkeypatch.setattr(packed_weights, "pack", counted)
    weight = torch.nn.Parameter(numbers(8, 6))
    for _ in range(3):
        with torch.inference_mode():
            linear_packed(numbers(2, 6), weight)
        linear_packed(numbers(3, 6), weight)
    assert len(packed) == 1


@needs_onednn
def test_a_tensor_of_inference_mode_is_packed_at_each_call(
    store: dict[int, packed_weights.Packed],
) -> None:
    """Torch does not count its changes."""
    with torch.inference_mode():
        weight = numbers(8, 6)
        for change in (in_place, one_number, a_view, behind_torchs_back):
            assert is_up_to_date(weight)
            change(weight)
        assert is_up_to_date(weight)
    assert not store


@needs_onednn
def test_what_is_packed_goes_with_its_weight(
    store: dict[int, packed_weights.Packed],
) -> None:
    layer = torch.nn.Linear(6, 8)
    linear_packed(numbers(2, 6), layer.weight)
    assert len(store) == 1
    del layer
    gc.collect()
    assert not store


@needs_onednn
def test_a_weight_at_the_place_of_one_that_went_is_another() -> None:
    for seed in range(20):
        assert is_up_to_date(numbers(8, 6, seed=seed))


@needs_onednn
def test_a_change_of_weights_changes_the_models_logits() -> None:
    """Both sides of a comparison could be stale; the untouched arithmetic is not."""
    model = tiny_model()
    tokens = torch.arange(1, 20)[None]
    with batch_invariant():
        before = model(tokens).logits
        for layer in model.model.layers:
            layer.mlp.up_proj.weight *= 1.5
        after = model(tokens).logits
    assert (before - after).abs().max() > 0.1
    torch.testing.assert_close(after, model(tokens).logits, atol=1e-3, rtol=1e-3)
