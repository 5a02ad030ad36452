"""Chapter 00: how the threads of torch wait for each other on a busy machine.

A product of matrices is split between threads, and each waits for the slowest. By
default it spins for a while before it sleeps: 300,000 rounds in GNU's OpenMP (torch on
Linux), 200 ms in LLVM's and Intel's (macOS, Windows). Where other programs run, the
spinning thread holds the very core that the slowest one needs, and a step takes ten
times as long. With the settings here it spins long enough to bridge the gap between two
products, and no longer.

OpenMP reads them once, when torch is imported. So whoever starts Python sets them, and
importing the library does not: it would be too late in most notebooks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

BRIEFLY = {
    "GOMP_SPINCOUNT": "5000",  # rounds, some 0.1 ms
    "KMP_BLOCKTIME": "1",  # ms, the least that is not zero
}


def waiting_briefly(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to `environment`: nothing if it says already how threads wait.

    >>> waiting_briefly({"OMP_WAIT_POLICY": "active"})
    {}
    """
    chosen = {"OMP_WAIT_POLICY", *BRIEFLY} & environment.keys()
    return {} if chosen else dict(BRIEFLY)


if __name__ == "__main__":
    settings = waiting_briefly(os.environ)
    print(*(f"{name}={value}" for name, value in settings.items()))
