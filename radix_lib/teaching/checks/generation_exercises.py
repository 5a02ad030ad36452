"""Chapter 07: the checks of its longer exercises.

Each takes what the reader wrote and raises AssertionError where it goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.router import Router

if TYPE_CHECKING:
    from radix_lib.radix_model import RadixAttentionModel

N_PAGES = 200


def counts_sample_pages(pages_for_samples: Callable[..., int]) -> None:
    """`pages_for_samples(n_prompt, n_new, n, page_size)` is what `n` forks hold."""
    for n_prompt, n_new, n, page_size in [
        (8, 4, 1, 4),
        (10, 4, 3, 4),
        (8, 4, 3, 4),
        (37, 20, 5, 16),
        (9, 4, 2, 4),
    ]:
        router = Router(RadixCache(PageManager(N_PAGES, page_size)))
        lease = router.admit(list(range(n_prompt)), None, n_new)
        lease.advance(n_prompt)
        for _ in range(n - 1):
            router.fork(lease, n_new)
        used = N_PAGES - router.usage().free
        found = pages_for_samples(n_prompt, n_new, n, page_size)
        given = f"prompt {n_prompt}, {n} × {n_new} new, pages of {page_size}"
        assert found == used, f"{given}: {found} pages, not {used}"


class Stop(NamedTuple):
    """A prompt, the text at which to stop, and what is due."""

    prompt: Any
    text: str
    answer: str | None  # None: all of it, since the text does not occur
    most_decoded: int  # tokens that may be decoded until then


def stops_at_text(
    new_server: Callable[[], RadixAttentionModel], stops: Iterable[Stop]
) -> Callable[[Callable[..., str]], None]:
    """A contract: `until(stream, text)` is the answer cut before `text`, in time.

    The stream is closed, and few more tokens are decoded than the answer has.
    """

    def contract(until: Callable[..., str]) -> None:
        for prompt, text, answer, most_decoded in stops:
            due = answer
            if due is None:
                due = new_server().generate(prompt, 20).text
            server = new_server()
            stream = server.stream(prompt, 20)  # held here: nothing else closes it
            found = until(stream, text)
            doing = f"until {text!r}"
            assert found == due, f"{doing}: {found!r}, not {due!r}"
            assert not server.router.leases, f"{doing}: the stream is still open"
            n = server.stats().decoded_tokens
            told = f"{doing}: {n} tokens were decoded, {most_decoded} are enough"
            assert n <= most_decoded, told

    return contract


def searches_on_forks(
    new_server: Callable[[], RadixAttentionModel],
    prompt: Sequence[int],
    width: int,
    due: Sequence[int],
) -> Callable[[Callable[..., Sequence[int]]], None]:
    """A contract: `beams(server, prompt, width, n_new)` finds `due` with little work.

    The prompt is admitted once, no lease is left, and no more than `width` tokens are
    decoded a step.
    """
    n_new = len(due)

    def contract(beams: Callable[..., Sequence[int]]) -> None:
        server = new_server()
        found = list(beams(server, prompt, width, n_new))
        assert found == list(due), f"tokens {found}, not {list(due)}"
        n_leases = len(server.router.leases)
        assert n_leases == 0, f"{n_leases} leases are left"
        server.router.check_integrity()
        stats = server.stats()
        once = stats.prompt_tokens == len(prompt)
        assert once, "the prompt was admitted more than once"
        n = stats.decoded_tokens
        enough = width * (n_new - 1) <= n <= width * n_new
        assert enough, f"{n} tokens were decoded on forks"

    return contract
