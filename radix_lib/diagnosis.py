"""Chapter 09: diagnosis. Why was so little of a prompt found in the cache?

`explain` looks at one prompt and a router, and changes nothing. What it can blame:

    another namespace    the same tokens are cached, for somebody else
    evicted              they were cached, and had to go
    not committed        a request that runs has them, and has not shared them yet
    one token left       all is cached, and the last token is computed for its logits
    another token        the nearest cached prompt goes on with another token
    page floor           the next tokens agree, and do not fill a page

For a whole log there is `prompt_log`, and the command

    python -m radix_lib.diagnosis prompts.jsonl

Left out here: requests that overlap in a scheduler.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from radix_lib.prompt_log import main
from radix_lib.radix_cache import CacheNode, RadixCache
from radix_lib.radix_tree import TOKEN_BYTES, RadixTree, unpack_tokens
from radix_lib.router import Router

Decode = Callable[[list[int]], str]


class RememberingCache(RadixCache):
    """A `RadixCache` that remembers what it evicted, and when, by its own clock.

    `evicted` is a tree of all that ever left this one, which grows without limit: it is
    made for looking, not for serving. In place of a page id it holds the tick at which
    the page was last evicted, or 0.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.evicted = RadixTree(self.page_size)

    @property
    def now(self) -> int:
        """The tick now: one for each match and each insertion."""
        return self._clock

    def _shorten(self, leaf: CacheNode, keep: int) -> None:
        key = path_key(leaf)
        n_pages = len(key) // self.page_bytes
        start = n_pages - len(leaf.pages) + keep
        self.evicted.insert(key, np.zeros(n_pages, np.int64), leaf.namespace)
        depth = 0
        for node, n_common in self.evicted.walk(key, leaf.namespace):
            node.pages[max(0, start - depth) :] = self.now
            depth += n_common
        super()._shorten(leaf, keep)


def path_key(node: CacheNode) -> bytes:
    """All tokens from the root down to the end of `node`, packed."""
    edges = []
    at: CacheNode | None = node
    while at is not None:
        edges.append(at.key)
        at = at.parent
    return b"".join(reversed(edges))


class Neighbour(NamedTuple):
    """The cached tokens that a prompt agrees with for longest."""

    n_common: int  # tokens that agree, those inside an incomplete page too
    rest: list[int]  # how it goes on from there; empty where it ends


class Reason(NamedTuple):
    """Why no more was found, and how many more tokens there would have been."""

    kind: str
    n_more: int  # at most, where other tokens stand
    words: str


@dataclass(frozen=True)
class Explanation:
    """What was found of a prompt, and why it stops there. Print it to read it."""

    tokens: list[int]
    n_found: int  # tokens that need not be computed
    neighbour: Neighbour
    reasons: list[Reason]  # the one to blame first
    decode: Decode | None = None

    @property
    def kind(self) -> str:
        """What is to blame."""
        return self.reasons[0].kind

    def __str__(self) -> str:
        n_tokens = len(self.tokens)
        lines = [f"{self.n_found} of {n_tokens} tokens found"]
        lines += [f"  {reason.kind}: {reason.words}" for reason in self.reasons]
        if any(reason.kind == "another token" for reason in self.reasons):
            lines += self._side_by_side()
        return "\n".join(lines)

    def _side_by_side(self, n_around: int = 12) -> list[str]:
        """Prompt and neighbour below each other, with a mark where they part."""
        at = self.neighbour.n_common
        start = max(0, at - n_around)
        dots = "… " if start else ""
        common = dots + self._shown(self.tokens[start:at])
        ours = self._shown(self.tokens[at : at + n_around])
        theirs = self._shown(self.neighbour.rest[:n_around])
        return [
            f"    prompt | {common}{ours}".rstrip(),
            f"    cached | {common}{theirs}".rstrip(),
            f"           | {' ' * len(common)}^",
        ]

    def _shown(self, tokens: list[int]) -> str:
        """Tokens as text on one line, or as numbers where nobody said how."""
        if self.decode is None:
            return "".join(f"{token} " for token in tokens)
        return repr(self.decode(tokens))[1:-1]


def explain(
    router: Router,
    tokens: Sequence[int],
    namespace: Hashable = None,
    decode: Decode | None = None,
) -> Explanation:
    """Say what the cache would find of a prompt now, where it stops, and why.

    `decode` turns token ids into text, as a tokenizer's does. Only a router over a
    `RememberingCache` knows what was evicted. Raises ValueError for tokens that could
    not be asked for.

    >>> from radix_lib.page_manager import PageManager
    >>> router = Router(RadixCache(PageManager(n_pages=8, page_size=2)))
    >>> with router.admit([1, 2, 3, 4]) as lease:
    ...     lease.advance(4)
    >>> print(explain(router, [1, 2, 3, 5, 6]))
    2 of 5 tokens found
      another token: at token 3 the nearest cached prompt goes on differently
      page floor: 1 more agree and do not fill a page of 2
        prompt | 1 2 3 5 6
        cached | 1 2 3 4
               |       ^
    """
    key = router.checked_key(tokens)
    if not key:
        raise ValueError("a prompt has at least one token")
    usable = key[:-TOKEN_BYTES]
    n_pages = _n_pages(router.cache, usable, namespace)
    neighbour = _neighbour(router.cache, key, namespace)
    reasons = [
        reason
        for blame in (_elsewhere, _evicted, _not_committed)
        for reason in blame(router, usable, namespace, n_pages)
    ]
    # What would have been found is a stronger cause than what is there in its place.
    if not reasons:
        reasons = _at_the_end(router, key, namespace, n_pages, neighbour)
    reasons.sort(key=lambda reason: -reason.n_more)
    n_found = n_pages * router.page_size
    return Explanation(unpack_tokens(key), n_found, neighbour, reasons, decode)


# ── What can be blamed ───────────────────────────────────────────────────────────────


def _elsewhere(
    router: Router, usable: bytes, namespace: Hashable, n_pages: int
) -> list[Reason]:
    """The namespace that has most of the prompt, if that is more than our own has."""
    others = [name for name in router.cache.roots if name != namespace]
    if not others:
        return []
    there = {name: _n_pages(router.cache, usable, name) for name in others}
    best = max(there, key=lambda name: there[name])
    n_more = (there[best] - n_pages) * router.page_size
    if n_more <= 0:
        return []
    words = f"{n_more} more are cached for {best!r}, and this prompt is {namespace!r}'s"
    return [Reason("another namespace", n_more, words)]


def _evicted(
    router: Router, usable: bytes, namespace: Hashable, n_pages: int
) -> list[Reason]:
    """The pages that follow what was found, if they were in the tree once."""
    if not isinstance(router.cache, RememberingCache):
        return []
    ticks = [
        int(tick)
        for node, n_common in router.cache.evicted.walk(usable, namespace)
        for tick in node.pages[:n_common]
    ][n_pages:]
    if not ticks:
        return []
    n_more = len(ticks) * router.page_size
    words = f"{n_more} more went at tick {ticks[0]}; it is {router.cache.now} now"
    return [Reason("evicted", n_more, words)]


def _not_committed(
    router: Router, usable: bytes, namespace: Hashable, n_pages: int
) -> list[Reason]:
    """The live lease that has most of the prompt, if the tree has not got it yet."""
    page_bytes = router.cache.page_bytes
    ahead = {
        lease: _n_common(lease.key, usable) * TOKEN_BYTES // page_bytes
        for lease in router.leases
        if lease.namespace == namespace
    }
    best = max(ahead, key=lambda lease: ahead[lease], default=None)
    if best is None or ahead[best] <= n_pages:
        return []
    n_more = (ahead[best] - n_pages) * router.page_size
    words = (
        f"{n_more} more are those of a request that runs: "
        f"{best.n_computed} of its tokens are computed, "
        f"{best.n_shared * router.page_size} shared"
    )
    return [Reason("not committed", n_more, words)]


def _at_the_end(
    router: Router,
    key: bytes,
    namespace: Hashable,
    n_pages: int,
    neighbour: Neighbour,
) -> list[Reason]:
    """What the tree itself shows of the place at which the match ended."""
    n_tokens = len(key) // TOKEN_BYTES
    n_found = n_pages * router.page_size
    if namespace not in router.cache.roots:
        return [Reason("nothing cached", 0, "the cache is empty in this namespace")]
    if _n_pages(router.cache, key, namespace) > n_pages:
        words = "all is cached; the last token is computed, and its whole page with it"
        return [Reason("one token left", n_tokens - n_found - 1, words)]
    reasons = []
    if neighbour.rest and neighbour.n_common < n_tokens:
        place = neighbour.n_common
        words = f"at token {place} the nearest cached prompt goes on differently"
        reasons.append(Reason("another token", n_tokens - 1 - place, words))
    n_more = min(neighbour.n_common, n_tokens - 1) - n_found
    if n_more > 0:
        words = f"{n_more} more agree and do not fill a page of {router.page_size}"
        reasons.append(Reason("page floor", n_more, words))
    if not reasons:
        words = "what was cached is found; the rest is new"
        if n_found >= n_tokens - router.page_size:
            words = "all whole pages are found"
        reasons.append(Reason("new", 0, words))
    return reasons


def _n_pages(tree: RadixTree, key: bytes, namespace: Hashable) -> int:
    """How many pages of `key` a tree has; unlike `match`, this leaves no trace."""
    return sum(n_common for _, n_common in tree.walk(key, namespace))


def _neighbour(tree: RadixTree, key: bytes, namespace: Hashable) -> Neighbour:
    """Look past the last whole page that agrees, one token at a time."""
    node = tree.roots.get(namespace)
    depth = 0
    edges = [] if node is None else [child.key for child in node.children.values()]
    for node, n_common in tree.walk(key, namespace):
        agreed = n_common * tree.page_bytes
        depth += agreed
        edges = [child.key for child in node.children.values()]
        if agreed < len(node.key):
            edges = [node.key[agreed:]]
    rest = key[depth:]
    nearest = max(edges, key=lambda edge: _n_common(edge, rest), default=b"")
    n_common = _n_common(nearest, rest)
    goes_on = unpack_tokens(nearest[n_common * TOKEN_BYTES :])
    return Neighbour(depth // TOKEN_BYTES + n_common, goes_on)


def _n_common(one: bytes, two: bytes) -> int:
    """How many tokens two keys have in common at their beginning."""
    n = min(len(one), len(two)) // TOKEN_BYTES
    differ = np.frombuffer(one, np.uint32, n) != np.frombuffer(two, np.uint32, n)
    return int(differ.argmax()) if differ.any() else n


if __name__ == "__main__":
    sys.exit(main())
