"""Chapter 07: an answer in the making, its tokens and what is shown of its text.

Left out here: where the tokens come from (`sampling`, `radix_model`).
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from typing import Any

import torch

from radix_lib.router import Lease


class Draft:
    """An answer in the making: the lease it runs on, and what was chosen so far."""

    def __init__(self, lease: Lease, seed: int):
        self.lease = lease
        self.random = torch.Generator().manual_seed(seed)
        self.tokens: list[int] = []
        self.ended = False
        self.shown = ""

    def add(self, token: int, ends: Container[int], max_new_tokens: int) -> None:
        """Take a token. One of `ends` ends the answer, as does the last that may be."""
        self.tokens.append(token)
        self.ended = token in ends or len(self.tokens) == max_new_tokens

    def show(self, tokenizer: Any) -> str:
        """The text so far: it begins with what was shown before."""
        self.shown = next_text(self.shown, self.tokens, tokenizer, is_whole=self.ended)
        return self.shown


def next_text(
    shown: str, tokens: Sequence[int], tokenizer: Any, *, is_whole: bool
) -> str:
    """What to show of an answer: a text that begins with what was `shown` before.

    Of an answer that is not whole, what later tokens may change is held back.
    """
    text: str = tokenizer.decode(tokens, skip_special_tokens=True)
    if not is_whole:
        text = settled(text, tokenizer)
    # Llama's tokenizer falls back to bytes, and a character that lacks some spoils
    # those before it, for good if the answer ends there: nothing is taken back.
    return text if text.startswith(shown) else shown


def settled(text: str, tokenizer: Any) -> str:
    """As much of the text of an unfinished answer as later tokens leave alone.

    A character of which bytes are missing decodes to U+FFFD. A tokenizer that cleans up
    spaces makes "n't" of " n" and "'t", and "." of " .".
    """
    text = text.rstrip("\N{REPLACEMENT CHARACTER}")
    if getattr(tokenizer, "clean_up_tokenization_spaces", False):
        text = re.sub(r"[ '][ 'nvr]*$", "", text)
    return text
