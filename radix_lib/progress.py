"""Chapter 00: bars that tell a waiting reader how far a download or a save has come."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm


@contextmanager
def growth_bar(label: str, folder: Path, total: int) -> Iterator[None]:
    """Show a bar that follows the largest file under `folder`, up to `total` bytes."""
    finished = threading.Event()

    def follow() -> None:
        while not finished.wait(0.2):
            with suppress(OSError):  # a file may go between its listing and its size
                sizes = [entry.stat().st_size for entry in folder.rglob("*")]
                bar.update(min(max(sizes, default=0), total) - bar.n)

    with tqdm(total=total, desc=label, unit="B", unit_scale=True) as bar:
        follower = threading.Thread(target=follow)
        follower.start()
        try:
            yield
        finally:
            finished.set()
            follower.join()
        bar.update(total - bar.n)


@contextmanager
def no_transformers_bars() -> Iterator[None]:
    """Silence transformers' own bars inside the block; the session's setting stays."""
    from transformers.utils import logging

    previous = logging.set_tqdm_hook(
        lambda factory, args, kwargs: tqdm(*args, **{**kwargs, "disable": True})
    )
    try:
        yield
    finally:
        logging.set_tqdm_hook(previous)
