"""A film of what a tree, a cache or a router does: every operation becomes a frame.

The operations are the real ones, on the real object, wherever they are called from. A
frame keeps the state after its operation; film strips and steppers show it later.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from radix_lib.radix_tree import RadixTree
from radix_lib.router import Router
from radix_lib.teaching.figures.labels import Decoder
from radix_lib.teaching.figures.pool_snapshot import (
    PoolSnapshot,
    kind_of,
    names_of,
    pool_snapshot,
)
from radix_lib.teaching.figures.tree_snapshot import Marks, TreeSnapshot, letters_of
from radix_lib.teaching.films.film import Frame
from radix_lib.teaching.films.narration import Narrator

if TYPE_CHECKING:
    from radix_lib.radix_cache import RadixCache

OPERATIONS = {
    "router": ("admit", "commit", "fork", "grow", "finish", "cancel"),
    "cache": ("match", "insert", "insert_below", "lock", "unlock", "evict"),
    "tree": ("match", "insert"),
    "manager": ("allocate",),
}


class Recorder:
    """Makes a frame in `frames` of every operation on `target` from now on.

    With `steps`, a router's frames also show what its cache and its page manager do
    inside each operation. What an operation raises passes through, and leaves no frame.

    >>> from radix_lib import PageManager, RadixCache
    >>> cache = RadixCache(PageManager(n_pages=4, page_size=2))
    >>> film = Recorder(cache)
    >>> pages = cache.page_manager.allocate(2)
    >>> _ = cache.insert([1, 2, 3, 4], pages), cache.match([1, 2, 5, 6])
    >>> film.frames[-1].words
    'match: 1 of 2 pages found; node A is split, B is its upper part'
    """

    def __init__(
        self, target: RadixTree | Router, *, decode: Decoder = None, steps: bool = False
    ):
        self.target = target
        self.decode = decode
        self.kind = kind_of(target)
        whole = cast("Any", target)
        self.tree: RadixTree = whole.cache if self.kind == "router" else whole
        self.frames: list[Frame] = []
        self._open: list[object] = []  # whose operation is under way
        inside = [whole]
        if steps and self.kind == "router":
            inside += [whole.cache, whole.page_manager]
        for part in inside:
            for name in (n for n in OPERATIONS[kind_of(part)] if hasattr(part, n)):
                setattr(part, name, self._recorded(part, name, steps))
        self._look()  # now each node has a letter, and each live request a name
        self._requests()

    def _recorded(self, part: object, name: str, steps: bool) -> Any:
        operation = getattr(part, name)
        parameters = inspect.signature(operation)

        @functools.wraps(operation)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            if part in self._open:  # the operation of the same object is one step
                return operation(*args, **kwargs)
            n_frames = len(self.frames)
            before = self._look()
            requests = self._requests()
            self._open.append(part)
            try:
                result = operation(*args, **kwargs)
            except BaseException:
                del self.frames[n_frames:]
                raise
            finally:
                self._open.remove(part)
            given = parameters.bind(*args, **kwargs).arguments
            after = self._look()
            told = Narrator(
                given,
                result,
                (before[0], after[0]),
                (before[1], after[1]),
                requests | self._requests(),
            )
            # With steps, what was split and evicted on the way has been told.
            alone = not steps or part is not self.target
            hit = result.pages if name.startswith(("match", "insert")) else ()
            new = result if name == "allocate" else told.came
            self.note(
                told.tell(name, alone),
                hit=hit,
                new=new,
                evicted=told.gone if alone else (),
            )
            return result

        return recorded

    def note(
        self,
        words: str,
        *,
        hit: Iterable[object] = (),
        new: Iterable[object] = (),
        evicted: Iterable[object] = (),
    ) -> None:
        """Make a frame of the state as it is, for what happens outside the router."""
        given = Marks.of(hit, new, evicted)
        tree, pool = self._look(given)
        marks = pool.marks if pool else given
        ghosts = tuple(letters_of(self.tree).ghosts(marks.evicted, tree))
        self.frames.append(Frame(words, tree, pool, marks, ghosts, self.decode))

    def merge(self, n_frames: int, words: str = "") -> None:
        """Make one frame of all but the first `n_frames`, with the state as it is."""
        last = self.frames[n_frames:]
        del self.frames[n_frames:]
        marked = {
            state: [page for frame in last for page in getattr(frame.marks, state)]
            for state in ("hit", "new", "evicted")
        }
        self.note(words or "; ".join(frame.words for frame in last), **marked)

    def _look(
        self, given: Marks | None = None
    ) -> tuple[TreeSnapshot, PoolSnapshot | None]:
        if self.kind != "tree":
            pool = pool_snapshot(cast("RadixCache | Router", self.target), given=given)
            assert pool.tree is not None
            return pool.tree, pool
        return letters_of(self.tree).view(self.tree), None

    def _requests(self) -> dict[Any, str]:
        leases = names_of(cast("Router", self.target)) if self.kind == "router" else {}
        return {lease: name for name, lease in leases.items()}
