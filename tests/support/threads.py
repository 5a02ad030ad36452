"""Calls on threads of their own, as entangled as Python can make them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable


def together(*calls: Callable[[], object]) -> None:
    """Make all calls at once, each on its thread; raise what the first to fail raised.

    Python is made to switch threads after about every instruction.
    """
    errors: list[BaseException] = []
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> None:
        start.wait()
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=[call]) for call in calls]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    if errors:
        raise errors[0]
