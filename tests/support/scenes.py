"""Fixed states of tree and pool, for the tests of figures."""

from __future__ import annotations

from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.router import Lease, Router

SYSTEM = "You are a helpful assistant.\n"


def encode(text: str) -> list[int]:
    """A byte a token: texts can be read in the figures."""
    return list(text.encode())


def decode(tokens: list[int]) -> str:
    return bytes(tokens).decode("utf8", "replace")


def new_router(n_pages: int = 40, page_size: int = 4) -> Router:
    return Router(RadixCache(PageManager(n_pages, page_size)))


def admit(router: Router, text: str, namespace: object = None, room: int = 0) -> Lease:
    """A request whose prompt has been computed."""
    lease = router.admit(encode(text), namespace, room)
    lease.advance(len(lease.pending))
    return lease


def run(router: Router, text: str, namespace: object = None) -> None:
    router.finish(admit(router, text, namespace))


def two_requests() -> tuple[Router, Lease]:
    """One request in the tree, on 10 pages, and another that reuses 9 of them."""
    router = new_router()
    run(router, SYSTEM + "What is 2+2?")
    return router, admit(router, SYSTEM + "What is Paris?", room=8)
