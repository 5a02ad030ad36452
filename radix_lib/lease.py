"""Chapter 05: a lease, what a request holds while it runs.

Left out here: who gives a lease and takes it back (`router`).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Self

from radix_lib.radix_tree import (
    NO_PAGES,
    TOKEN_BYTES,
    Pages,
    unpack_tokens,
    whole_number,
)


class Lease:
    """What one request holds: its tokens, a page table with room for them, a lock.

    `n_cached` tokens were found in the tree; K/V exist for the first `n_computed`; the
    first `n_shared` pages of `page_table` are the tree's. A `with` finishes it, an
    exception cancels it. It belongs to one thread at a time. The router remembers it
    until it is ended: one that is forgotten without a `with` keeps its pages.
    """

    node: Any = None  # where the shared part of its path ends
    page_table: Pages = NO_PAGES
    n_shared = 0
    n_cached = 0
    n_computed = 0
    entered = False  # in a `with` or a stream: its end may come from there

    def __init__(self, router: Any, key: bytes, namespace: Hashable):
        self.router = router  # the `Router` that gave it
        self.key = key
        self.namespace = namespace

    @property
    def n_tokens(self) -> int:
        """How many tokens the request has: the prompt and what was appended."""
        return len(self.key) // TOKEN_BYTES

    @property
    def tokens(self) -> list[int]:
        """The token ids."""
        return unpack_tokens(self.key)

    @property
    def pending(self) -> list[int]:
        """The token ids whose K/V are not computed yet."""
        return unpack_tokens(self.key[self.n_computed * TOKEN_BYTES :])

    def append(self, *tokens: int) -> None:
        """Add generated tokens. Raises ValueError where its pages are full."""
        key = self.key + self.router.checked_key(tokens)
        room = len(self.page_table) * self.router.page_size
        if len(key) > room * TOKEN_BYTES:
            raise ValueError(
                f"room for {room} tokens was admitted: ask for more max_new_tokens"
            )
        self.key = key

    def advance(self, n_tokens: int) -> None:
        """Say that K/V of the next `n_tokens` exist. Raises ValueError past the end."""
        n_tokens = whole_number(n_tokens, "n_tokens")
        left = self.n_tokens - self.n_computed
        if n_tokens > left:
            raise ValueError(
                f"{n_tokens} tokens cannot have been computed: {left} were missing"
            )
        self.n_computed += n_tokens

    def __enter__(self) -> Self:
        self.entered = True
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if self not in self.router.leases:
                return  # it was finished or cancelled inside
            if error:
                self.router.cancel(self)
            else:
                self.router.finish(self)
        except BaseException:
            self.router.drop(self)  # interrupted before its end began, it is live
            raise
