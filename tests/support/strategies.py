"""Traces that collide, and how many of them hypothesis draws."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import settings, strategies as st


def spell(words: Sequence[int], tail: int, page_size: int) -> list[int]:
    """Token ids from a few page-long words, 0 to 2, and a tail shorter than a page.

    Words 0 and 1 differ in their last token alone, so keys often part inside a page,
    and where they part a page has a first token in common with its sibling.

    >>> spell([0, 1, 2], 1, page_size=2)
    [0, 0, 0, 1, 2, 0, 0]
    """
    alphabet = [
        [0] * page_size,
        [0] * (page_size - 1) + [1],
        [2] + [0] * (page_size - 1),
    ]
    return [token for word in words for token in alphabet[word]] + [0] * (
        tail % page_size
    )


#: Arguments for `spell`, before the page size is known.
WORDS = st.lists(st.sampled_from([0, 0, 0, 1, 2]), max_size=7)
TAILS = st.integers(0, 15)
NAMESPACES = st.sampled_from([None, ("salt", "adapter")])
PAGE_SIZES = st.sampled_from([1, 2, 16])

#: The same examples on every run, so that a red build says the same everywhere.
QUICK = settings(
    max_examples=60,
    stateful_step_count=50,
    derandomize=True,
    deadline=None,
    database=None,
)
LONG = settings(QUICK, max_examples=500, stateful_step_count=80)

#: What no token id may be; each is to be named in the error.
BAD_TOKENS = [-1, 2**32, 1.5, "a", None]
