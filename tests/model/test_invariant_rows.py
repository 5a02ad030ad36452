"""`radix_lib.invariant_rows`: whatever a kernel does, a row has the bits of its tile.

The kernels here are wrong on purpose, most of them for one shape only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from radix_lib import invariant_rows
from radix_lib.invariant_rows import (
    ROWS,
    Function,
    NotInvariant,
    in_any_batch,
    telling_numbers,
    tile_by_tile,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def ways(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any]:
    """No test knows what another has found out."""
    fresh: dict[Any, Any] = {}
    monkeypatch.setattr(invariant_rows, "_ways", fresh)
    monkeypatch.setattr(invariant_rows, "_careful_ways", {})
    return fresh


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def product(left: Tensor, right: Tensor) -> Tensor:
    """A row and a column at a time: as invariant as can be."""
    by_column = right.mT[:, None] if right.ndim == 3 else right[None, None]
    wide = torch.promote_types(left.dtype, torch.float32)
    return (left[:, :, None].to(wide) * by_column.to(wide)).sum(-1).to(left.dtype)


def backwards(left: Tensor, right: Tensor) -> Tensor:
    """The same sums in another order."""
    return product(left.flip(-1), right.flip(-2 if right.ndim == 3 else -1))


# ── Kernels that are wrong ────────────────────────────────────────────────────────────


def by_neighbours(left: Tensor, right: Tensor) -> Tensor:
    """A row depends on those beside it."""
    return product(left, right) + left.sum() * 1e-3


def by_padding(left: Tensor, right: Tensor) -> Tensor:
    """A row depends on whether there are zeros beside it."""
    return product(left, right) + (left == 0).all(-1).any() * 1e-3


def by_place(left: Tensor, right: Tensor) -> Tensor:
    """The last rows of a tile, which fill no register, are summed in another order."""
    n_last = left.shape[1] % 6
    first, last = left[:, : left.shape[1] - n_last], left[:, left.shape[1] - n_last :]
    return torch.cat([product(first, right), backwards(last, right)], 1)


@pytest.mark.parametrize("wrong", [by_neighbours, by_padding, by_place])
def test_a_kernel_that_is_wrong_in_tiles_is_not_used(wrong: Function) -> None:
    left, right = numbers(1, 40, 24), numbers(10, 24, seed=1)
    output = in_any_batch((wrong, product), left, right)
    assert torch.equal(output, product(left, right))


@pytest.mark.parametrize("wrong", [by_neighbours, by_padding, by_place])
def test_where_there_is_no_other_it_is_given_one_row_at_a_time(wrong: Function) -> None:
    left, right = numbers(1, 40, 24), numbers(10, 24, seed=1)
    output = in_any_batch((wrong,), left, right)
    assert torch.equal(output, tile_by_tile(wrong, 1, left, right))
    assert torch.equal(in_any_batch((wrong,), left[:, 7:9], right), output[:, 7:9])


def test_where_no_row_has_the_same_bits_twice_it_is_refused() -> None:
    calls = iter(range(10_000))

    def drifting(left: Tensor, right: Tensor) -> Tensor:
        return product(left, right) + next(calls)

    with pytest.raises(NotInvariant, match="float32 on cpu with 1 threads"):
        in_any_batch((drifting,), numbers(1, 3, 24), numbers(10, 24))


class WrongFor:
    """A kernel that sums in another order for just so many rows or items."""

    def __init__(self, n_rows: int = 0, n_items: int = 0):
        self.n_rows = n_rows
        self.n_items = n_items

    def __call__(self, left: Tensor, right: Tensor) -> Tensor:
        n_items, n_rows, _ = left.shape
        wrong = n_rows == self.n_rows or n_items == self.n_items
        return (backwards if wrong else product)(left, right)


@pytest.mark.parametrize("n_rows", [1, 2, 3, 5, 8, 15, 17, 33, 64, 100])
@pytest.mark.parametrize("each", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_kernel_may_be_wrong_for_one_number_of_rows(
    n_rows: int, each: bool, dtype: torch.dtype
) -> None:
    wrong = WrongFor(n_rows)
    left = numbers(1, 100, 24).to(dtype)
    right = (numbers(1, 24, 10, seed=1) if each else numbers(10, 24, seed=1)).to(dtype)
    expected = product(left, right)
    for count in (1, 2, 3, 4, 5, 8, 15, 16, 17, 33, 64, 100):
        output = in_any_batch((wrong,), left[:, :count], right)
        assert torch.equal(output, expected[:, :count])


def test_a_kernel_that_is_wrong_for_a_whole_tile_is_used_for_tiles_only() -> None:
    wrong = WrongFor(ROWS)
    left, right = numbers(1, 100, 24), numbers(10, 24, seed=1)
    expected = backwards(left, right)
    for count in (1, 2, 15, 16, 17, 100):
        assert torch.equal(
            in_any_batch((wrong,), left[:, :count], right), expected[:, :count]
        )


@pytest.mark.parametrize("n_items", [1, 2, 3, 7, 12])
def test_a_kernel_may_be_wrong_for_one_number_of_items(n_items: int) -> None:
    wrong = WrongFor(n_items=n_items)
    left, right = numbers(12, 3, 24), numbers(12, 24, 10, seed=1)
    expected = in_any_batch((wrong,), left, right)
    for count in (1, 2, 3, 7, 12):
        assert torch.equal(
            in_any_batch((wrong,), left[:count], right[:count]), expected[:count]
        )


@pytest.mark.parametrize("n_rows", [1, 2, 5, 16, 23, 64, 100])
@pytest.mark.parametrize("n_out", [1, 24], ids=["a sum", "each number"])
def test_so_may_one_that_has_nothing_on_its_right(n_rows: int, n_out: int) -> None:
    def wrong(left: Tensor, right: Any) -> Tensor:
        if n_out == 1:
            return WrongFor(n_rows)(left, torch.ones(1, 24))
        return left / 3 if left.shape[1] != n_rows else left * (1 / 3)

    left = numbers(1, 100, 24)
    expected = in_any_batch((wrong,), left.clone())
    for count in (1, 2, 3, 5, 16, 17, 23, 64, 100):
        output = in_any_batch((wrong,), left[:, :count].clone())
        assert torch.equal(output, expected[:, :count])


@pytest.mark.parametrize("row", [0, 22, -1])
def test_a_kernel_may_be_wrong_in_one_row_of_one_number_of_rows(row: int) -> None:
    def wrong(left: Tensor, right: Tensor) -> Tensor:
        output = product(left, right)
        if left.shape[1] in (23, 87):
            output[:, row] = backwards(left, right)[:, row]
        return output

    left, right = numbers(1, 100, 24), numbers(10, 24, seed=1)
    for count in (23, 87):
        output = in_any_batch((wrong,), left[:, :count], right)
        assert torch.equal(output, product(left[:, :count], right))


def test_a_kernel_may_mix_up_its_items() -> None:
    def mixed(left: Tensor, right: Tensor) -> Tensor:
        output = product(left, right)
        return output.roll(1, 0) if len(left) == 6 else output

    left, right = numbers(6, 3, 24), numbers(6, 24, 10, seed=1)
    assert torch.equal(in_any_batch((mixed,), left, right), product(left, right))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_no_rounding_hides_another_order(ways: dict[Any, Any], dtype: Any) -> None:
    """Of ten numbers in bfloat16 none might differ; of their rounding errors all do."""
    left, right = numbers(1, 1, 24), numbers(10, 24, seed=1)
    in_any_batch((WrongFor(1),), left.to(dtype), right.to(dtype))
    assert [way.width for way in ways.values()] == [2]


def test_a_first_weight_of_zeros_proves_nothing(ways: dict[Any, Any]) -> None:
    """The test is made of numbers of its own, whatever the input."""
    wrong = WrongFor(5)
    in_any_batch((wrong,), torch.zeros(1, 5, 24), torch.zeros(10, 24))
    assert [way.width for way in ways.values()] == [6]


# ── What is asked, and how often ──────────────────────────────────────────────────────


def test_what_agrees_is_computed_in_one_call() -> None:
    calls: list[tuple[int, ...]] = []

    def counted(left: Tensor, right: Tensor) -> Tensor:
        calls.append(tuple(left.shape))
        return product(left, right)

    left, right = numbers(3, 37, 24), numbers(3, 24, 10, seed=1)
    in_any_batch((counted,), left, right)
    calls.clear()
    in_any_batch((counted,), left, right)
    assert calls == [(3, 37, 24)]


def test_one_row_is_computed_as_two_where_it_alone_has_another_kernel() -> None:
    wrong = WrongFor(1)
    calls: list[int] = []

    def counted(left: Tensor, right: Tensor) -> Tensor:
        calls.append(left.shape[1])
        return wrong(left, right)

    left, right = numbers(1, 1, 24), numbers(10, 24, seed=1)
    in_any_batch((counted,), left, right)
    calls.clear()
    assert torch.equal(in_any_batch((counted,), left, right), product(left, right))
    assert calls == [2]


def test_every_setting_is_asked_by_itself(ways: dict[Any, Any]) -> None:
    left, right = numbers(2, 3, 24), numbers(2, 24, 10, seed=1)
    for case in (
        (left, right),
        (left[:1], right[:1]),
        (left[:, :2], right),
        (left, right.mT.contiguous().mT),
        (left.double(), right.double()),
        (left, right[..., :9]),
    ):
        before = len(ways)
        in_any_batch((product,), *case)
        in_any_batch((product,), *case)
        assert len(ways) == before + 1
    torch.set_num_threads(2)
    in_any_batch((product,), left, right)
    assert len(ways) == 7
    with torch.backends.mkldnn.flags(enabled=False):
        in_any_batch((product,), left, right)
    assert len(ways) == 8


@pytest.fixture
def any_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("any_precision")
def test_a_kernel_that_gets_less_precise_is_asked_anew() -> None:
    def kernel(left: Tensor, right: Tensor) -> Tensor:
        coarse = torch.get_float32_matmul_precision() == "medium"
        return by_place(left, right) if coarse else product(left, right)

    left, right = numbers(1, 40, 24), numbers(10, 24, seed=1)
    for precision in ("highest", "medium"):
        torch.set_float32_matmul_precision(precision)
        whole = in_any_batch((kernel,), left, right)
        alone = in_any_batch((kernel,), left[:, 10:11], right)
        assert torch.equal(whole[:, 10:11], alone), precision


def test_a_view_that_begins_anywhere_is_read_as_new_memory() -> None:
    starts = []

    def kernel(left: Tensor, right: Tensor) -> Tensor:
        starts.append(left.data_ptr() % 64)
        return product(left, right)

    whole, right = numbers(1, 50, 9), numbers(10, 9, seed=1)
    for first in range(5):
        in_any_batch((kernel,), whole[:, first:], right)
        in_any_batch((kernel,), whole.mT.contiguous().mT[:, first:], right)
    assert set(starts) == {0}


def test_no_row_gives_no_row() -> None:
    assert in_any_batch((product,), numbers(1, 0, 24), numbers(10, 24)).shape == (
        1,
        0,
        10,
    )


def test_a_short_row_may_be_taken_otherwise() -> None:
    def by_length(left: Tensor, right: Any) -> Tensor:
        return left * (1.0 if left.numel() % 8 == 0 else 1 + 2**-23)

    def plain(left: Tensor, right: Any) -> Tensor:
        return left * 2

    cpu = torch.device("cpu")
    numbers, telling = telling_numbers(by_length, torch.float32, cpu)
    assert telling.sum() > len(numbers) / 2
    assert not telling_numbers(plain, torch.float32, cpu)[1].any()
