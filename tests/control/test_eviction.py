"""Chapter 04: the order of eviction, and a heap whose entries may be out of date."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test as run_machine,
)

from radix_lib.eviction import POLICIES, EvictionHeap
from tests.support.strategies import LONG, QUICK


@dataclass(eq=False)
class Leaf:
    """What the heap looks at, and nothing else."""

    last_access: int = 0
    created: int = 0
    hits: int = 0
    entry: int = 0


# ── By hand ───────────────────────────────────────────────────────────────────────────

#: Three leaves: an old favourite, a newcomer, and one in between that nobody asked for
#: again.
LEAVES = {
    "favourite": Leaf(created=1, last_access=9, hits=5),
    "forgotten": Leaf(created=2, last_access=3, hits=1),
    "newcomer": Leaf(created=8, last_access=8, hits=0),
}


@pytest.mark.parametrize(
    ("policy", "order"),
    [
        ("lru", ["forgotten", "newcomer", "favourite"]),
        ("lfu", ["newcomer", "forgotten", "favourite"]),
        ("fifo", ["favourite", "forgotten", "newcomer"]),
        ("mru", ["favourite", "newcomer", "forgotten"]),
    ],
)
def test_an_example_worked_by_hand(policy, order):
    heap = EvictionHeap(policy)
    names = {}
    for name, leaf in LEAVES.items():
        own = Leaf(leaf.last_access, leaf.created, leaf.hits)
        names[own] = name
        heap.add(own)
    assert [names[heap.pop()] for _ in LEAVES] == order
    assert len(heap) == 0


def test_the_policies_are_the_four_that_are_promised():
    assert list(POLICIES) == ["lru", "lfu", "fifo", "mru"]


def test_lfu_takes_the_least_recent_of_those_used_equally_often():
    heap = EvictionHeap("lfu")
    late = Leaf(last_access=2, hits=3)
    early = Leaf(last_access=1, hits=3)
    heap.add(late)
    heap.add(early)
    assert heap.pop() is early


def test_a_leaf_added_again_stands_at_its_present_priority_and_once():
    heap = EvictionHeap("lru")
    a = Leaf(last_access=1)
    b = Leaf(last_access=2)
    heap.add(a)
    heap.add(b)
    a.last_access = 3
    heap.add(a)
    assert len(heap) == 2
    assert [heap.pop(), heap.pop()] == [b, a]
    with pytest.raises(IndexError):
        heap.pop()


def test_a_leaf_discarded_is_not_popped():
    heap = EvictionHeap("lru")
    a = Leaf(last_access=1)
    b = Leaf(last_access=2)
    heap.add(a)
    heap.add(b)
    heap.discard(a)
    heap.discard(a)  # twice is once
    assert (len(heap), a.entry) == (1, 0)
    assert heap.pop() is b
    assert (len(heap), b.entry) == (0, 0)


def test_discarding_what_was_never_in_does_nothing():
    heap = EvictionHeap("lru")
    heap.add(Leaf())
    heap.discard(Leaf())
    assert len(heap) == 1


def test_an_empty_heap_has_nothing_to_pop():
    with pytest.raises(IndexError):
        EvictionHeap("lru").pop()


def test_leaves_are_never_compared_with_each_other():
    """Equal priorities are settled by age: a `Leaf` has no order, and needs none."""
    heap = EvictionHeap("lru")
    leaves = [Leaf() for _ in range(10)]
    for leaf in leaves:
        heap.add(leaf)
    assert [heap.pop() for _ in leaves] == leaves


def test_entries_out_of_date_never_outnumber_the_live_by_much():
    heap = EvictionHeap("lru")
    leaves = [Leaf() for _ in range(100)]
    for number in range(10_000):
        leaf = leaves[number % 100]
        leaf.last_access = number * 7919 % 10_007  # here and there, each number once
        heap.add(leaf)
        assert len(heap._entries) <= 2 * len(heap) + 64
    order = [heap.pop().last_access for _ in leaves]
    assert order == sorted(number * 7919 % 10_007 for number in range(9_900, 10_000))


def test_entries_out_of_date_stay_until_they_are_as_many_as_the_live_and_64_more():
    """Dropped at each step they would cost O(n) a step."""
    heap = EvictionHeap("lru")
    leaves = [Leaf(), Leaf()]
    n_entries = []
    for number in range(70):
        heap.add(leaves[number % 2])
        n_entries.append(len(heap._entries))
    assert n_entries == [*range(1, 69), 2, 3]


def test_what_was_discarded_is_dropped_and_the_rest_still_comes_in_order():
    heap = EvictionHeap("lru")
    leaves = [Leaf(last_access=number * 37 % 401) for number in range(401)]
    for leaf in leaves:
        heap.add(leaf)
    for leaf in leaves:
        if leaf.last_access % 5:
            heap.discard(leaf)
    heap.add(Leaf(last_access=401))
    assert len(heap._entries) == len(heap) == 82
    assert [heap.pop().last_access for _ in range(82)] == [*range(0, 401, 5), 401]


def test_a_cleared_heap_is_empty():
    heap = EvictionHeap("lru")
    heap.add(Leaf())
    heap.clear()
    assert len(heap) == 0
    with pytest.raises(IndexError):
        heap.pop()


@pytest.mark.parametrize("policy", ["LRU", "random", "", None])
def test_an_unknown_policy_is_named_with_those_there_are(policy):
    with pytest.raises(ValueError, match="choose from lru, lfu, fifo, mru") as caught:
        EvictionHeap(policy)
    assert repr(policy) in str(caught.value)


# ── Against sorting ───────────────────────────────────────────────────────────────────


class HeapMachine(RuleBasedStateMachine):
    """Adds, discards and pops in any order: the heap pops what sorting puts first."""

    policy = "lru"

    def __init__(self):
        super().__init__()
        self.heap = EvictionHeap(self.policy)
        self.leaves = [Leaf() for _ in range(8)]
        self.inside: list[Leaf] = []
        self.clock = 0

    @rule(i=st.integers(0, 7), hits=st.integers(0, 2))
    def use_and_add(self, i, hits):
        self.clock += 1
        leaf = self.leaves[i]
        leaf.last_access = self.clock
        leaf.hits += hits
        leaf.created = leaf.created or self.clock
        self.heap.add(leaf)
        if leaf not in self.inside:
            self.inside.append(leaf)

    @rule(i=st.integers(0, 7))
    def discard(self, i):
        self.heap.discard(self.leaves[i])
        if self.leaves[i] in self.inside:
            self.inside.remove(self.leaves[i])

    @precondition(lambda self: self.inside)
    @rule()
    def pop(self):
        keys = {
            "lru": lambda leaf: leaf.last_access,
            "lfu": lambda leaf: (leaf.hits, leaf.last_access),
            "fifo": lambda leaf: leaf.created,
            "mru": lambda leaf: -leaf.last_access,
        }
        first = min(self.inside, key=keys[self.policy])
        assert self.heap.pop() is first
        self.inside.remove(first)

    @invariant()
    def counts(self):
        assert len(self.heap) == len(self.inside)
        assert all(bool(leaf.entry) == (leaf in self.inside) for leaf in self.leaves)


MACHINES = {
    policy: type(f"HeapMachine_{policy}", (HeapMachine,), {"policy": policy})
    for policy in POLICIES
}


@pytest.mark.parametrize("policy", POLICIES)
def test_the_heap_agrees_with_sorting(policy):
    run_machine(MACHINES[policy], settings=QUICK)


@pytest.mark.long
@pytest.mark.parametrize("policy", POLICIES)
def test_the_heap_agrees_with_sorting_at_length(policy):
    run_machine(MACHINES[policy], settings=LONG)
