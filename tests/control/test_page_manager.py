"""Chapter 03: pages, their holders, and the pool of K/V."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test as run_machine,
)

from radix_lib.page_manager import KVPool, OutOfPages, PageManager
from tests.support.inspection import snapshot
from tests.support.small_routers import refused
from tests.support.strategies import LONG, QUICK

NO_PAGES = np.empty(0, np.int64)


def ids(*pages: int) -> np.ndarray:
    return np.array(pages, np.int64)


# ── By hand ───────────────────────────────────────────────────────────────────────────


def test_an_example_worked_by_hand():
    """Four pages. Two requests share one of them, and end one after the other."""
    manager = PageManager(n_pages=4, page_size=16)
    assert manager.n_free == 4

    first = manager.allocate(3)
    assert first.tolist() == [0, 1, 2]
    assert manager.ref_counts.tolist() == [1, 1, 1, 0]

    manager.retain(first[:1])  # a second request reads page 0
    second = manager.allocate(1)
    assert second.tolist() == [3]
    assert (manager.n_free, manager.ref_counts.tolist()) == (0, [2, 1, 1, 1])

    manager.release(first)  # the first request ends: page 0 is still read
    assert (manager.n_free, manager.ref_counts.tolist()) == (2, [1, 0, 0, 1])

    manager.release(ids(0, 3))  # so does the second
    assert (manager.n_free, manager.ref_counts.tolist()) == (4, [0, 0, 0, 0])
    assert sorted(manager.allocate(4).tolist()) == [0, 1, 2, 3]
    manager.check_integrity()


@pytest.mark.parametrize(
    ("n_tokens", "page_size", "n_pages"),
    [
        (0, 16, 0),
        (1, 16, 1),
        (15, 16, 1),
        (16, 16, 1),
        (17, 16, 2),
        (5, 1, 5),
        (2**40, 1, 2**40),
    ],
)
def test_tokens_take_whole_pages(n_tokens, page_size, n_pages):
    assert PageManager(1, page_size).pages_for(n_tokens) == n_pages


def test_pages_come_back_in_the_order_in_which_they_were_given():
    """What was freed last goes out next: the processor's cache still has it."""
    manager = PageManager(n_pages=6, page_size=1)
    held = manager.allocate(6)
    manager.release(held[2:5])
    assert manager.allocate(3).tolist() == held[2:5].tolist()


def test_nothing_may_be_allocated_retained_and_released():
    manager = PageManager(n_pages=2, page_size=1)
    before = snapshot(manager)
    assert manager.allocate(0).tolist() == []
    manager.retain(NO_PAGES)
    manager.release(NO_PAGES)
    assert snapshot(manager) == before


def test_a_page_is_free_when_its_last_holder_lets_go_and_not_before():
    manager = PageManager(n_pages=2, page_size=1)
    pages = manager.allocate(1)
    for _ in range(3):
        manager.retain(pages)
    for n_free in [1, 1, 1, 2]:
        manager.release(pages)
        assert manager.n_free == n_free
    manager.check_integrity()


def test_a_mask_is_no_list_of_pages():
    manager = PageManager(2, 1)
    manager.allocate(2)
    with pytest.raises(ValueError, match="one-dimensional array of integers"):
        manager.release(np.array([True, True]))
    assert manager.n_free == 0


def test_the_ids_handed_out_are_the_callers_own():
    manager = PageManager(n_pages=4, page_size=1)
    pages = manager.allocate(2)
    before = snapshot(manager)
    pages[:] = 99
    assert snapshot(manager) == before


def test_a_rebuild_frees_what_nobody_holds():
    manager = PageManager(n_pages=5, page_size=1)
    manager.allocate(4)
    manager.rebuild(np.array([0, 2, 0, 1, 0], np.int32))
    manager.check_integrity()
    assert manager.n_free == 3
    assert sorted(manager.allocate(3).tolist()) == [0, 2, 4]


# ── Bad input ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("n_pages", "page_size"), [(0, 16), (-1, 16), (4, 0), (4, -2)])
def test_a_pool_has_pages_and_a_page_has_tokens(n_pages, page_size):
    name, value = ("n_pages", n_pages) if n_pages < 1 else ("page_size", page_size)
    words = f"{name} is a whole number from 1, not {value}"
    with pytest.raises(ValueError, match=words):
        PageManager(n_pages, page_size)


@pytest.mark.parametrize("size", [2.0, 1.5, "4", None])
def test_the_sizes_of_a_pool_are_whole_numbers(size):
    for sizes in [(size, 1), (1, size)]:
        with pytest.raises(ValueError, match=f"a whole number from 1, not {size!r}"):
            PageManager(*sizes)


def test_more_than_is_free_takes_none_and_says_how_many_are():
    manager = PageManager(n_pages=4, page_size=1)
    manager.allocate(3)
    before = snapshot(manager)
    with pytest.raises(OutOfPages) as caught:
        manager.allocate(2)
    assert (caught.value.needed, caught.value.free, caught.value.evictable) == (2, 1, 0)
    assert str(caught.value) == (
        "pages needed: 2, free: 1, evictable: 0. Wait for a request to finish, or make "
        "the pool larger"
    )
    assert snapshot(manager) == before


@pytest.mark.parametrize("n_pages", [-1, 1.5, "1", None])
def test_only_a_whole_number_of_pages_is_allocated(n_pages):
    manager = PageManager(n_pages=4, page_size=1)
    manager.allocate(3)
    words = f"n_pages is a whole number from 0, not {n_pages!r}"
    refused(manager, ValueError, words, lambda: manager.allocate(n_pages))
    manager.check_integrity()


@pytest.mark.parametrize("call", ["retain", "release"])
@pytest.mark.parametrize("pages", [[2], [0, 2], [2, 0]], ids=str)
def test_a_free_page_is_named_and_nothing_changes(call, pages):
    manager = PageManager(n_pages=4, page_size=1)
    manager.allocate(2)
    before = snapshot(manager)
    with pytest.raises(ValueError, match="page 2 is free: nobody holds it"):
        getattr(manager, call)(ids(*pages))
    assert snapshot(manager) == before


def test_releasing_twice_is_refused():
    manager = PageManager(n_pages=4, page_size=1)
    pages = manager.allocate(2)
    manager.release(pages)
    before = snapshot(manager)
    with pytest.raises(ValueError, match="page 0 is free"):
        manager.release(pages)
    assert snapshot(manager) == before


@pytest.mark.parametrize("call", ["retain", "release", "held"])
@pytest.mark.parametrize("page", [-1, -4, -5, -100, 4, 7, 8, 10**12])
def test_a_page_that_does_not_exist_is_refused(call, page):
    manager = PageManager(n_pages=4, page_size=1)
    held = manager.allocate(4)
    words = f"^page {page} does not exist: there are 0 to 3"
    for pages in [ids(page), ids(*held, page)]:
        refused(manager, ValueError, words, partial(getattr(manager, call), pages))


NO_ARRAYS = [
    [0, 1],
    (0,),
    0,
    None,
    "0",
    np.array([0.0, 1.0]),
    np.array([True, True, False, False]),
    np.array([[0], [1]]),
    np.array(0),
]


@pytest.mark.parametrize("call", ["retain", "release", "held"])
@pytest.mark.parametrize("pages", NO_ARRAYS, ids=repr)
def test_what_is_no_array_of_page_ids_is_refused(call, pages):
    """A slip that a reader makes: it must not leave half of a release done."""
    manager = PageManager(n_pages=4, page_size=1)
    manager.allocate(2)
    words = "(?s)page ids are a one-dimensional array of integers, not .*np.array"
    refused(manager, ValueError, words, lambda: getattr(manager, call)(pages))


@pytest.mark.parametrize("kind", [np.int32, np.uint8, np.uint64])
def test_an_array_of_any_integers_will_do(kind):
    manager = PageManager(n_pages=4, page_size=1)
    pages = manager.allocate(2).astype(kind)
    manager.retain(pages)
    manager.release(pages)
    assert manager.ref_counts.tolist() == [1, 1, 0, 0]
    manager.release(pages)
    manager.check_integrity()


def test_a_free_list_that_would_overflow_is_refused_before_a_count_changes():
    """Page 0 twice, all others free. Nowhere else does anybody look for a repeat."""
    manager = PageManager(n_pages=4, page_size=1)
    manager.allocate(1)
    words = "one is listed twice"
    refused(manager, ValueError, words, lambda: manager.release(ids(0, 0)))
    manager.check_integrity()


def break_count(manager):
    manager.ref_counts[0] = -1


def break_free_list(manager):
    manager._free[0] = manager._free[1]


def break_holder(manager):
    manager.ref_counts[manager._free[0]] = 1


def break_number(manager):
    manager.n_free -= 1


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        (break_count, "a count is negative"),
        (break_free_list, "a page is on the free list twice"),
        (break_holder, "a page on the free list has a holder"),
        (break_number, "a page without holder is lost"),
    ],
)
def test_the_integrity_check_names_what_is_broken(broken, what):
    manager = PageManager(n_pages=4, page_size=1)
    manager.allocate(2)
    manager.check_integrity()
    broken(manager)
    with pytest.raises(AssertionError) as caught:
        manager.check_integrity()
    assert str(caught.value) == what


# ── Against plain counting ────────────────────────────────────────────────────────────


class PageMachine(RuleBasedStateMachine):
    """Allocations, retains and releases in any order, against a dict of counts."""

    @initialize(n_pages=st.integers(1, 12))
    def start(self, n_pages):
        self.manager = PageManager(n_pages, page_size=4)
        self.counts = dict.fromkeys(range(n_pages), 0)

    @rule(n_pages=st.integers(0, 13))
    def allocate(self, n_pages):
        free = {page for page, count in self.counts.items() if count == 0}
        before = snapshot(self.manager)
        if n_pages > len(free):
            with pytest.raises(OutOfPages, match=f"pages needed: {n_pages},"):
                self.manager.allocate(n_pages)
            assert snapshot(self.manager) == before
            return
        pages = self.manager.allocate(n_pages).tolist()
        assert len(set(pages)) == n_pages
        assert set(pages) <= free
        self.counts.update(dict.fromkeys(pages, 1))

    @rule(choice=st.sets(st.integers(0, 11)), retain=st.booleans())
    def change(self, choice, retain):
        pages = [page for page in choice if page < self.manager.n_pages]
        call = self.manager.retain if retain else self.manager.release
        if all(self.counts[page] for page in pages):
            call(ids(*pages))
            for page in pages:
                self.counts[page] += 1 if retain else -1
        else:
            before = snapshot(self.manager)
            with pytest.raises(ValueError, match="nobody holds it"):
                call(ids(*pages))
            assert snapshot(self.manager) == before

    @invariant()
    def agrees(self):
        self.manager.check_integrity()
        assert self.manager.ref_counts.tolist() == list(self.counts.values())
        assert self.manager.n_free == list(self.counts.values()).count(0)


def test_the_manager_agrees_with_plain_counting():
    run_machine(PageMachine, settings=QUICK)


@pytest.mark.long
def test_the_manager_agrees_with_plain_counting_at_length():
    run_machine(PageMachine, settings=LONG)


# ── The pool of tensors ───────────────────────────────────────────────────────────────

LAYERS = 2
HEADS = 3
DIM = 4
PAGES = 5
SIZE = 2


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def pool(torch):
    return KVPool(LAYERS, HEADS, DIM, PAGES, SIZE, dtype=torch.float64)


def kv_of(torch, *tokens: int):
    """K and V that say which token they are of: [heads, tokens, dim] each."""
    k = torch.stack(
        [torch.full((HEADS, DIM), float(t), dtype=torch.float64) for t in tokens], 1
    )
    return k, -k


def test_a_pool_is_one_tensor_and_starts_as_zeros(torch, pool):
    assert pool.data.numel() == LAYERS * 2 * HEADS * PAGES * SIZE * DIM
    assert pool.data.dtype == torch.float64
    assert not pool.data.any(), (
        "a padded row may read any page, and 0 × NaN would be NaN"
    )


def test_what_is_written_is_read_back_in_the_order_of_the_page_table(torch, pool):
    """Three tokens, on pages 3 and 1: slots 6, 7 and 2."""
    pool.write(1, torch.tensor([6, 7, 2]), *kv_of(torch, 10, 11, 12))
    read = pool.gather(1, torch.tensor([3, 1]))
    assert read.shape == (2 * SIZE, 2, HEADS, DIM)
    assert read[:, 0, :, 0].tolist() == [
        [10] * HEADS,
        [11] * HEADS,
        [12] * HEADS,
        [0] * HEADS,
    ]
    assert torch.equal(read[:, 1], -read[:, 0])
    assert not pool.gather(0, torch.arange(PAGES)).any(), "another layer was written"
    written = pool.gather(1, torch.arange(PAGES)).count_nonzero()
    assert written == 3 * 2 * HEADS * DIM, "another slot was written"


def test_a_page_is_a_view_of_the_pool(torch, pool):
    page = pool.get_page(0, 2)
    assert page.shape == (2, HEADS, SIZE, DIM)
    pool.write(0, torch.tensor([4]), *kv_of(torch, 7))
    assert page[0, :, 0].eq(7).all()
    assert page[1, :, 0].eq(-7).all()
    assert not page[:, :, 1].any()


def test_heads_and_tokens_are_not_mixed_up(torch, pool):
    k = torch.arange(HEADS * 4 * DIM, dtype=torch.float64).view(HEADS, 4, DIM)
    pool.write(0, torch.tensor([0, 1, 8, 9]), k, -k)
    read = pool.gather(0, torch.tensor([0, 4]))
    assert torch.equal(read[:, 0].transpose(0, 1), k)
    assert torch.equal(pool.get_page(0, 4)[1], -k[:, 2:])


def test_a_page_is_copied_in_all_layers_and_is_then_its_own(torch, pool):
    for layer in range(LAYERS):
        pool.write(layer, torch.tensor([2, 3]), *kv_of(torch, 5, 6))
    pool.copy_page(1, 4)
    for layer in range(LAYERS):
        assert torch.equal(pool.get_page(layer, 4), pool.get_page(layer, 1))
    before = pool.get_page(0, 1).clone()
    pool.write(0, torch.tensor([9]), *kv_of(torch, 99))
    assert torch.equal(pool.get_page(0, 1), before)
    assert pool.get_page(0, 4)[0, 0, :, 0].tolist() == [5, 99]


def test_a_page_id_is_the_same_page_for_the_manager_and_the_pool(torch, pool):
    """They share nothing else: a page released and taken again is overwritten."""
    manager = PageManager(PAGES, SIZE)
    for token in [3, 4]:
        pages = manager.allocate(1)
        slots = torch.from_numpy(pages) * SIZE
        pool.write(0, slots, *kv_of(torch, token))
        manager.release(pages)
    assert pool.get_page(0, int(pages[0]))[0, 0, :, 0].tolist() == [4, 0]


def test_a_page_that_is_cleared_is_zero_in_all_layers_and_the_others_are_not(
    torch, pool
):
    for layer in range(LAYERS):
        pool.write(
            layer,
            torch.arange(PAGES * SIZE),
            *kv_of(torch, *range(1, PAGES * SIZE + 1)),
        )
    pool.clear_page(3)
    for layer in range(LAYERS):
        assert [bool(pool.get_page(layer, p).any()) for p in range(PAGES)] == [
            1,
            1,
            1,
            0,
            1,
        ]
