"""Many clients at once at a server of chats, and what came of each request."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import openai


async def crowd(
    address: str,
    n: int,
    *,
    max_tokens: int = 16,
    max_retries: int = 0,
    seconds: float = 60,
    after_each: Callable[[Counter[str]], None] = lambda outcomes: None,
) -> Counter[str]:
    """How `n` requests at once ended, half of them streams.

    "answered": whole; "refused by name": with a status; "broken off": in the middle.
    """
    outcomes: Counter[str] = Counter()
    async with openai.AsyncOpenAI(
        base_url=f"{address}/v1",
        api_key="none",
        timeout=seconds,
        max_retries=max_retries,
    ) as client:

        async def ask(number: int) -> None:
            outcomes[await outcome_of(client, number, max_tokens)] += 1
            after_each(outcomes)

        await asyncio.gather(*(ask(number) for number in range(n)))
    return outcomes


async def outcome_of(client: openai.AsyncOpenAI, number: int, max_tokens: int) -> str:
    """How a request ended: a stream, if its number is even."""
    messages: Any = [{"role": "user", "content": f"{number % 20} green bottles"}]
    is_stream = number % 2 == 0
    try:
        answer: Any = await client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=max_tokens, stream=is_stream
        )
        last = answer
        if is_stream:
            pieces = [piece async for piece in answer]
            last = pieces[-1] if pieces else None
    except openai.APIStatusError:
        return "refused by name"
    except (openai.APIError, httpx.HTTPError):
        return "broken off"
    is_whole = last is not None and last.choices[0].finish_reason
    return "answered" if is_whole else "broken off"
