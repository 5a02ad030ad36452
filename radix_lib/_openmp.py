"""Chapter 00: how the threads of torch wait for each other on a busy machine.

A product of matrices is split between threads, and each waits for the slowest. GNU's
OpenMP, with which torch comes on Linux, spins 300,000 rounds (some 6 ms) before a
waiting thread sleeps. Where other programs run, it so holds the very core that the
slowest thread needs, in each of the hundreds of products of a step. With fewer rounds
it bridges the gap between two products and no more. Intel's and LLVM's OpenMP (Windows,
macOS) give the core away while they spin, and need nothing.

OpenMP reads the setting once, when torch is imported. So whoever starts Python sets it,
and importing the library does not: it would be too late in most notebooks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

ROUNDS = "20000"  # some 0.4 ms


def waiting_briefly(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to `environment`: nothing if it says already how threads wait.

    >>> waiting_briefly({"OMP_NUM_THREADS": "2"})
    {'GOMP_SPINCOUNT': '20000'}
    >>> waiting_briefly({"OMP_WAIT_POLICY": "active"})
    {}
    """
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & environment.keys():
        return {}
    return {"GOMP_SPINCOUNT": ROUNDS}


if __name__ == "__main__":
    settings = waiting_briefly(os.environ)
    print(*(f"{name}={value}" for name, value in settings.items()))
