"""Chapter 09: six logs of which a cache finds nothing, for six reasons.

Each is a bicycle shop's, has been served, and leaves the request that comes next. A
byte is a token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from typing import NamedTuple

from radix_lib.diagnosis import RememberingCache
from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.router import Namespace, Router

RULES = "You are the assistant of a bicycle shop. Be brief, be polite, be right. "
ASKED = [
    "How late is it open?",
    "Is the red one left?",
    "What does a tyre cost?",
    "Who mends my brake?",
]
TOOLS = [
    {"name": name, "description": f"looks for a {name} in the shop"}
    for name in ("bicycle", "tyre", "lamp", "saddle")
]


Cache = type[RadixCache]


class ServedLog(NamedTuple):
    """A log that was served, and the request that comes now."""

    router: Router
    prompts: list[str]  # those served, and the next one at the end
    namespaces: list[Hashable]
    n_cached: list[int]  # what was found of each, but for the last

    @property
    def next_request(self) -> tuple[list[int], Hashable]:
        """Its tokens and its namespace."""
        return list(self.prompts[-1].encode()), self.namespaces[-1]


def _served(
    cache_type: Cache,
    prompts: list[str],
    *,
    n_pages: int = 64,
    page_size: int = 16,
    namespaces: list[Hashable] | None = None,
    at_once: bool = False,
) -> ServedLog:
    router = Router(cache_type(PageManager(n_pages, page_size)))
    namespaces = namespaces or [None] * len(prompts)
    n_cached = []
    for prompt, namespace in zip(prompts[:-1], namespaces, strict=False):
        lease = router.admit(list(prompt.encode()), namespace)
        n_cached.append(lease.n_cached)
        if not at_once:
            lease.advance(len(lease.pending))
            router.finish(lease)
    return ServedLog(router, prompts, namespaces, n_cached)


def _clock_first(cache_type: Cache) -> ServedLog:
    return _served(
        cache_type, [f"[{9 + i}:14] {RULES}{ask}" for i, ask in enumerate(ASKED)]
    )


def _a_tenant_each(cache_type: Cache) -> ServedLog:
    salts: list[Hashable] = [Namespace(salt) for salt in ("u-1", "u-2", "u-3", "u-4")]
    return _served(cache_type, [RULES + ask for ask in ASKED], namespaces=salts)


def _too_little_memory(cache_type: Cache) -> ServedLog:
    guides = [f"{place} guide. {RULES}" for place in ("Oslo", "Rome", "Bern")]
    prompts = [guide + ASKED[0] for guide in guides]
    return _served(cache_type, [*prompts, guides[0] + ASKED[1]], n_pages=12)


def _large_pages(cache_type: Cache) -> ServedLog:
    return _served(cache_type, [RULES + ask for ask in ASKED], page_size=80)


def _at_one_moment(cache_type: Cache) -> ServedLog:
    return _served(cache_type, [RULES + ask for ask in ASKED], at_once=True)


def _tools_by_chance(cache_type: Cache) -> ServedLog:
    turned = [TOOLS[i:] + TOOLS[:i] for i in range(len(ASKED))]
    return _served(
        cache_type,
        [
            f"{json.dumps(tools)} {RULES}{ask}"
            for tools, ask in zip(turned, ASKED, strict=True)
        ],
    )


_MAKERS: dict[str, tuple[str, Callable[[Cache], ServedLog]]] = {
    "A": ("large pages", _large_pages),
    "B": ("evicted", _too_little_memory),
    "C": ("a time in front", _clock_first),
    "D": ("a namespace each", _a_tenant_each),
    "E": ("tools in another order", _tools_by_chance),
    "F": ("all at once", _at_one_moment),
}

REASONS = sorted(reason for reason, _ in _MAKERS.values())


def served_log(letter: str, cache_type: Cache = RememberingCache) -> ServedLog:
    """One of the logs A to F, served from such a cache.

    Raises ValueError for another letter.
    """
    if letter not in _MAKERS:
        raise ValueError(f"there is no log {letter!r}, only {', '.join(_MAKERS)}")
    return _MAKERS[letter][1](cache_type)


def names_the_reasons(answers: dict[str, object]) -> None:
    """Each log has been given its reason."""
    for letter, (reason, _) in _MAKERS.items():
        said = answers.get(letter)
        assert said in REASONS, f"{letter}: {said!r} is none of {', '.join(REASONS)}"
        assert said == reason, f"{letter}: it is not that"
