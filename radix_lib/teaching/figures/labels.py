"""Words for figures: tokens as short text, lists of page ids, counts with a noun."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

#: A tokenizer, or any function from token ids to text.
Decoder = Any
# marks that the engine's fonts have
_SEEN = {
    " ": "·",
    "\n": "¶",
    "\t": "→",
    "\ufffd": "□",
}


def visible(text: str) -> str:
    """Give white space and invisible characters a mark: "a b" becomes "a·b"."""
    return "".join(
        _SEEN.get(c) or (c if c.isprintable() else ascii(c)[1:-1]) for c in text
    )


def columns(text: str) -> int:
    """How many columns of fixed-width type `text` takes."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def shorten(text: str, width: int) -> str:
    """Cut the middle out of `text` so that it takes at most `width` columns.

    >>> shorten("You are a helpful assistant", 13)
    'You are…stant'
    """
    if columns(text) <= width:
        return text
    head = text[:width]
    tail = text[-width // 2 :]
    while columns(head + tail) > width - 1:
        if len(head) > 1.4 * len(tail):
            head = head[:-1]
        else:
            tail = tail[1:]
    return f"{head}…{tail}"


def token_text(tokens: Sequence[int], width: int, decode: Decoder = None) -> str:
    """The tokens of an edge in `width` columns: as text if `decode` is given, or ids.

    >>> token_text([5, 6, 7, 8, 9, 10, 11, 12, 13], 12)
    '5 6 7 8 … 13'
    """
    if decode is not None:
        decode = getattr(decode, "decode", decode)
        ends = [tokens]
        if len(tokens) > 2 * width:  # decoding a long edge whole is slow
            ends = [tokens[:width], tokens[-width:]]
        return shorten("…".join(visible(decode(list(end))) for end in ends), width)
    text = " ".join(map(str, tokens))
    head = [str(token) for token in tokens[:width]]
    while len(text) > width and len(head) > 1:
        head.pop()
        text = " ".join([*head, "…", str(tokens[-1])])
    return shorten(text, width)


def id_ranges(ids: Iterable[int], most: int = 6) -> str:
    """Page ids in order, runs joined: "3–5, 9"."""
    runs: list[list[int]] = []
    for i in ids:
        if runs and i == runs[-1][-1] + 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    parts = [f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    return ", ".join(
        parts if len(parts) <= most else [*parts[: most - 1], "…", parts[-1]]
    )


def pages_named(pages: Iterable[int], most: int = 6) -> str:
    """Pages by their ids.

    >>> pages_named([1]), pages_named([1, 2, 3]), pages_named([])
    ('page 1', 'pages 1–3', 'no page')
    """
    ids = list(pages)
    if not ids:
        return "no page"
    noun = "page" if len(ids) == 1 else "pages"
    return f"{noun} {id_ranges(ids, most)}"


def count(n: int, noun: str) -> str:
    """A number with its noun: "1 page", "1,200 tokens"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def name_of(namespace: object) -> str:
    """A namespace in a few words; the default one has no name."""
    parts = namespace if isinstance(namespace, tuple) else (namespace,)
    return shorten(
        " / ".join(visible(str(p)) for p in parts if p not in (None, "")), 24
    )
