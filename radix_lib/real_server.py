"""Chapter 10: out of the laptop. The same prompts at any OpenAI-compatible server.

A server that reports its cache says for each request how many tokens of the prompt it
found (`usage.prompt_tokens_details.cached_tokens`). Beside that stands what our own
cache would have found.

Left out here: concurrency. Requests go one after another, so that both sides have seen
the same before each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import openai

from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.router import Router


class Beside(NamedTuple):
    """One request: what the server said, and what our cache predicts."""

    prompt_tokens: int  # as the server counts them
    cached_tokens: int | None  # None: it does not say
    predicted_tokens: int


def ask_server(
    address: str,
    chats: Sequence[list[dict[str, str]]],
    encode: Callable[[list[dict[str, str]]], Sequence[int]],
    *,
    page_size: int = 16,
    model: str = "",
    api_key: str = "none",
) -> Iterator[Beside]:
    """Ask a server chat after chat, each for one token of answer.

    `address` ends in `/v1`; `encode` gives the token ids of a chat, as the server's
    own template would. Without a `model` it is the first that the server lists. Raises
    openai.APIError where the server refuses or does not answer.
    """
    client = openai.OpenAI(base_url=address, api_key=api_key)
    name = model or client.models.list().data[0].id
    router = Router(RadixCache(PageManager(100_000, page_size)))
    for chat in chats:
        messages: Any = chat
        answer = client.chat.completions.create(
            model=name, messages=messages, max_tokens=1
        )
        with router.admit(encode(chat)) as lease:
            lease.advance(lease.n_tokens - lease.n_computed)
        usage = answer.usage
        details = usage.prompt_tokens_details if usage else None
        yield Beside(
            prompt_tokens=usage.prompt_tokens if usage else 0,
            cached_tokens=details.cached_tokens if details else None,
            predicted_tokens=lease.n_cached,
        )
