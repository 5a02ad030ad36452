"""The contracts that chapters run: the library passes, a broken copy does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from radix_lib import PageManager, RadixCache, RadixTree, Router
from radix_lib.radix_cache import CacheNode
from radix_lib.radix_tree import NO_PAGES, Match, TreeNode
from radix_lib.teaching.checks import contracts
from radix_lib.teaching.checks.building import method_of
from radix_lib.teaching.checks.check import cases, check
from radix_lib.teaching.checks.oracle import Memory
from radix_lib.teaching.figures.pool_snapshot import kind_of


class MisfiledNode(TreeNode):
    """A split that files the lower part under the wrong page."""

    def split(self, n_pages, page_bytes):
        first = self.key[:page_bytes]
        upper = super().split(n_pages, page_bytes)
        upper.children = {first: self}
        return upper


class MisfiledTree(RadixTree):
    node_type = MisfiledNode


class NewestWins(RadixTree):
    """`insert` says that the caller's pages are the tree's."""

    def insert_below(self, node, key, pages):
        match = super().insert_below(node, key, pages)
        return Match(pages[: len(match.pages)], match.node)


class OneNamespace(RadixTree):
    """Everybody shares with everybody."""

    def _root(self, namespace):
        return super()._root(None)


class NeverFrees(PageManager):
    """A page whose last holder is gone stays away."""

    def release(self, pages):
        free = self.n_free
        super().release(pages)
        self.n_free = free


class OneHolder(PageManager):
    """A second holder is not counted."""

    def retain(self, pages):
        self.held(pages)


class LendsItsStack(PageManager):
    """A page table is a view of the free list, which changes."""

    def allocate(self, n_pages):
        n_free = self.n_free
        super().allocate(n_pages)
        return self._free[n_free - n_pages : n_free][::-1]


class TrustsItsCaller(PageManager):
    """A page that nobody holds may be retained and released."""

    def held(self, pages):
        return self.ref_counts[pages]


class ForgetsLocks(RadixCache):
    def lock(self, node):
        pass

    def unlock(self, node):
        pass


class SplitUnlocked(CacheNode):
    """The upper part of a locked node is not locked."""

    def split(self, n_pages, page_bytes):
        upper = super().split(n_pages, page_bytes)
        upper.lock_ref = 0
        return upper


class SplitsUnlocked(RadixCache):
    node_type = SplitUnlocked


class EvictsTheNewest(RadixCache):
    def __init__(self, page_manager, policy="lru"):
        super().__init__(page_manager, "mru" if policy == "lru" else policy)


class ComputesNothing(Router):
    """A whole prompt may be found, and nothing is left to compute."""

    def _match(self, key, namespace):
        return self.cache.match(key, namespace)


class LosesPages(Router):
    """The end of a request releases nothing of its page table."""

    def cancel(self, lease):
        lease.page_table = NO_PAGES
        super().cancel(lease)


PASS = [
    (contracts.matches_like_the_oracle, RadixTree),
    (contracts.counts_the_holders, PageManager),
    (contracts.caches_like_the_oracle, RadixCache),
    (contracts.serves_requests, Router),
]
FAIL = [
    (contracts.matches_like_the_oracle, MisfiledTree),
    (contracts.matches_like_the_oracle, NewestWins),
    (contracts.matches_like_the_oracle, OneNamespace),
    (contracts.counts_the_holders, NeverFrees),
    (contracts.counts_the_holders, OneHolder),
    (contracts.counts_the_holders, LendsItsStack),
    (contracts.counts_the_holders, TrustsItsCaller),
    (contracts.caches_like_the_oracle, ForgetsLocks),
    (contracts.caches_like_the_oracle, SplitsUnlocked),
    (contracts.caches_like_the_oracle, EvictsTheNewest),
    (contracts.serves_requests, ComputesNothing),
    (contracts.serves_requests, LosesPages),
]


@pytest.mark.parametrize(("contract", "kind"), PASS)
def test_the_library_keeps_its_contract(contract, kind):
    contract(kind)


@pytest.mark.parametrize(("contract", "kind"), FAIL)
def test_a_broken_copy_does_not(contract, kind):
    with pytest.raises((AssertionError, ValueError, KeyError, IndexError)):
        contract(kind)


def test_what_is_not_attempted_is_neither_right_nor_wrong(capsys):
    def stub(n):
        return ...

    check("a", lambda n: n == 4, ...)
    check("b", cases(((2,), 4)), stub)
    check("c", lambda f: f(2) == 4, lambda n: 1 / 0)
    check("d", lambda f: f(2) == 4, lambda n: n * n)
    assert capsys.readouterr().out.splitlines() == [
        "○ a: not attempted",
        "○ b: not attempted",
        "✗ c: ZeroDivisionError: division by zero",
        "✓ d",
    ]


@pytest.mark.parametrize("wrong", [False, 0, np.bool_(False), torch.tensor(False), []])
def test_whatever_is_false_fails(wrong, capsys):
    check("a", wrong)
    check("b", lambda: wrong)
    assert capsys.readouterr().out == "✗ a: not yet\n✗ b: not yet\n"


def test_an_assertion_without_words_is_not_yet_right(capsys):
    def bare(n):
        raise AssertionError  # what a bare `assert` in a notebook raises

    check("a", bare, 5)
    assert capsys.readouterr().out == "✗ a: not yet\n"


def test_an_interruption_is_no_wrong_answer():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("a", interrupted)


class Base:
    def size(self, n: int = 2) -> int:
        return n


class Grown(Base):
    pass


@method_of(Grown)
def size(self, n: int = 2, *, more: int = 1) -> int:
    return super().size(n) + more


@method_of(Grown)
@property
def twice(self) -> int:
    return 2 * self.size()


@method_of(Grown)
@classmethod
def made(cls) -> Grown:
    return cls()


def test_a_class_grows_method_by_method():
    grown = Grown.made()
    assert (grown.size(), grown.size(5, more=2), grown.twice) == (3, 7, 6)
    assert isinstance(grown, Grown)


def test_a_structure_is_known_by_what_it_has():
    router = Router(RadixCache(PageManager(4)))
    things = [router, router.cache, router.page_manager, RadixTree()]
    assert [kind_of(thing) for thing in things] == [
        "router",
        "cache",
        "manager",
        "tree",
    ]
    with pytest.raises(ValueError, match="neither a tree nor a cache"):
        kind_of(Memory(4))
