"""What an operation did, in words: tree and pages before it and after are compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from radix_lib.radix_tree import TOKEN_BYTES, pack_tokens
from radix_lib.teaching.figures.labels import count, name_of, pages_named
from radix_lib.teaching.figures.pool_snapshot import PoolSnapshot
from radix_lib.teaching.figures.tree_snapshot import TreeSnapshot


def pages_of(tree: TreeSnapshot) -> set[int]:
    """The pages that a tree lists."""
    return {page for node in tree.nodes for page in node.pages}


class Narrator:
    """Tells one operation by what it was given, its result, and what is different.

    `requests` maps the leases of before and after to their names.
    """

    def __init__(
        self,
        given: Mapping[str, Any],
        result: Any,
        trees: tuple[TreeSnapshot, TreeSnapshot],
        pools: tuple[PoolSnapshot | None, PoolSnapshot | None],
        requests: Mapping[Any, str],
    ):
        self.given = given
        self.result = result
        self.requests = requests
        before, after = trees
        self.page_size = after.page_size
        self.came = pages_of(after) - pages_of(before)
        self.gone = pages_of(before) - pages_of(after)
        self.old, self.new = (
            {node.letter: node for node in tree.nodes} for tree in trees
        )
        self.splits = {  # upper part: lower part, which is the old node
            node.parent: letter
            for letter, node in self.new.items()
            if letter in self.old and len(node.path) > len(self.old[letter].path)
        }
        self.leaves = [
            a for a in self.new if a not in self.old and a not in self.splits
        ]
        self.letters = {(node.namespace, node.end): node.letter for node in after.nodes}
        self.locked = [
            {page for node in tree.nodes if node.lock_ref for page in node.pages}
            for tree in trees
        ]
        self.freed: list[int] = []
        self.tables: list[dict[str, tuple[int, ...]]] = []
        if pools[0] and pools[1]:
            counts = enumerate(zip(pools[0].counts, pools[1].counts, strict=True))
            self.freed = [page for page, (held, now) in counts if held and not now]
            self.tables = [
                {r.name: r.pages for r in pool.requests} for pool in pools if pool
            ]

    def tell(self, operation: str, alone: bool) -> str:
        """The operation and what it did; told `alone`, also what it did on the way."""
        words = [getattr(self, f"_{operation}")()]
        if alone:
            for upper, lower in self.splits.items():
                words.append(f"node {lower} is split, {upper} is its upper part")
        if alone and self.gone and operation != "evict":
            words.append(f"{_pages(self.gone)} evicted to make room")
        return f"{operation.partition('_')[0]}: {'; '.join(words)}"

    def _asked(self) -> tuple[int, str]:
        tokens = self.given["key" if "key" in self.given else "tokens"]
        n_tokens = len(pack_tokens(tokens)) // TOKEN_BYTES
        name = name_of(self.given.get("namespace"))
        return n_tokens // self.page_size, f" in namespace {name}" if name else ""

    def _match(self) -> str:
        asked, where = self._asked()
        if not asked:
            page = f"a page of {count(self.page_size, 'token')}"
            return f"less than {page}, nothing to look for"
        return f"{len(self.result.pages)} of {count(asked, 'page')} found{where}"

    def _insert(self) -> str:
        asked, where = self._asked()
        if not asked:
            page = f"a page of {count(self.page_size, 'token')}"
            return f"less than {page}, nothing to keep"
        known = self.result.pages.tolist()
        own = [int(page) for page in self.given["pages"][: len(known)]]
        words = [f"{len(known)} of {count(asked, 'page')} known{where}"]
        words += [f"{_pages(self.came)} new, as node {leaf}" for leaf in self.leaves]
        pairs = zip(own, known, strict=True)
        duplicates = [page for page, kept in pairs if page != kept]
        if duplicates:
            words.append(_duplicates(duplicates, "not needed"))
        return ", ".join(words)

    def _insert_below(self) -> str:
        return f"below {self._node()}, {self._insert()}"

    def _lock(self) -> str:
        before, after = self.locked
        return f"the path to {self._node()}, {_pages(after - before)} protected by it"

    def _unlock(self) -> str:
        before, after = self.locked
        return (
            f"the path to {self._node()}, {_pages(before - after)} may be evicted again"
        )

    def _node(self) -> str:
        node = self.given["node"]
        namespace = node.namespace
        path = b""
        while node is not None:
            path = node.key + path
            node = node.parent
        return f"node {self.letters[namespace, path]}" if path else "the root"

    def _evict(self) -> str:
        return f"{_pages(self.gone)} thrown out, {self._left()}"

    def _left(self) -> str:
        gone = [letter for letter in self.old if letter not in self.new]
        cut = [
            letter
            for letter, node in self.new.items()
            if letter in self.old and len(node.end) < len(self.old[letter].end)
        ]
        words = [f"node {letter} is gone" for letter in gone]
        words += [f"node {letter} is shorter" for letter in cut]
        return ", ".join(words) or "no node"

    def _allocate(self) -> str:
        return f"{_pages(self.result.tolist())} taken from the free ones"

    def _admit(self) -> str:
        lease = self.result
        own = _pages(lease.page_table[lease.n_shared :].tolist())
        n_cached = f"{lease.n_cached} of {count(lease.n_tokens, 'token')}"
        return f"{self.requests[lease]} reuses {n_cached} and gets {own}"

    def _fork(self) -> str:
        fork = self.requests[self.result]
        lease = self.requests[self.given["lease"]]
        own = self.result.page_table[self.result.n_shared :].tolist()
        more = f" and gets {_pages(own)}" if own else ""
        return f"{fork} shares {count(self.result.n_shared, 'page')} with {lease}{more}"

    def _grow(self) -> str:
        name = self.requests[self.given["lease"]]
        before, after = (tables[name] for tables in self.tables)
        own = after[len(before) :]
        return f"{name} gets {_pages(own)}" if own else f"{name} has room already"

    def _commit(self) -> str:
        name = self.requests[self.given["lease"]]
        before, after = (tables[name] for tables in self.tables)
        words = [
            f"the tree has {_pages(self.came)} of {name} now"
            if self.came
            else f"nothing of {name} is new to the tree"
        ]
        own = [page for page, kept in zip(before, after, strict=True) if page != kept]
        if own:
            words.append(_duplicates(own, "freed"))
        return ", ".join(words)

    def _finish(self) -> str:
        name = self.requests[self.given["lease"]]
        words = [f"{name} ends"]
        if self.came:
            words.append(f"the tree keeps {_pages(self.came)}")
        return ", ".join([*words, f"{_pages(self.freed)} free again"])

    _cancel = _finish


def _duplicates(pages: list[int], done: str) -> str:
    noun = "duplicates" if len(pages) > 1 else "a duplicate"
    return f"{_pages(pages)} {done}: {noun}"


def _pages(pages: Iterable[int]) -> str:
    return pages_named(sorted(pages))
