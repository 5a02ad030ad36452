"""Chapter 07: what a prompt may be, and what no tokenizer takes.

Left out here: the model's tokenizer and chat template (`radix_model`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from radix_lib.radix_tree import pack_tokens, unpack_tokens

#: Text, a chat as transformers writes it ([{"role": …, "content": …}, …]), or token ids
Prompt = str | Sequence[Mapping[str, str]] | Sequence[int]


def as_token_ids(tokens: Any) -> list[int]:
    """Token ids as a list: of one, or of a list, a tensor or a generator of them.

    Raises ValueError, naming it, for anything else, text above all.

    >>> as_token_ids(7), as_token_ids(range(7, 9))
    ([7], [7, 8])
    """
    if isinstance(tokens, str | bytes | Mapping):
        raise ValueError(f"{tokens!r} is not a list of token ids: encode text first")
    if hasattr(tokens, "tolist"):  # numpy and torch
        tokens = tokens.tolist()
    ids = list(tokens) if isinstance(tokens, Iterable) else [tokens]
    return unpack_tokens(pack_tokens(ids))


def refuse_half_characters(text: str, name: str = "the prompt") -> None:
    """Raise ValueError, naming it, for a surrogate without its other half."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{text[error.start]!r} at place {error.start} of {name} is half a "
            "character, which no tokenizer knows: leave it out"
        ) from error
