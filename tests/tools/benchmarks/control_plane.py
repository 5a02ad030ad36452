"""The control plane beside SGLang's own radix caches: whole lives of requests.

`RADIX_LIB_PEERS` names a folder that drives several caches through the same traces; the
environment that it made, with SGLang in it, lies in `PEERS_ROOT`. Neither is part of
the course.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.tools.benchmarks.rows import (
    CONTROL_PLANE,
    Measurement,
    Row,
    Times,
    in_turn,
    row,
)

OURS = f"{Path(__file__).with_name('peers_adapter.py')}:Ours"
PEERS = {"SglClassic": "SGLang 0.5.9", "SglUnifiedRust": "SGLang 0.5.23"}
TRACES = {"few_shot": "few-shot", "chat": "chat", "tot": "tree of thought"}


def missing() -> str:
    """Why SGLang's caches cannot be measured; nothing if they can."""
    folder = os.environ.get("RADIX_LIB_PEERS")
    if not folder:
        return "RADIX_LIB_PEERS names no folder with SGLang's caches"
    if not _python().exists():
        return "their environment is missing: run setup.sh of RADIX_LIB_PEERS"
    return ""


def _python() -> Path:
    peers = os.environ.get("PEERS_ROOT", Path.home() / ".cache" / "radix-peers")
    return Path(peers) / "venv" / "bin" / "python"


# Run among the peers: `one` is a trace through an adapter, and its pool is always full.
PLAYED = """
import json, sys
from bench import one
adapter, *traces = sys.argv[1:]
found = {trace: one(adapter, trace, 16, "small") for trace in traces}
print(json.dumps({trace: 1 / of_trace["req_s"] for trace, of_trace in found.items()}))
"""


def seconds_a_request(adapter: str) -> dict[str, float]:
    """CPU seconds of a request's life in each trace, pages of 16 tokens.

    A process of its own, since two versions of SGLang do not fit into one.
    """
    done = subprocess.run(
        [_python(), "-c", PLAYED, adapter, *TRACES],
        cwd=os.environ["RADIX_LIB_PEERS"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or "no message").splitlines()[-1])
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def lives(runs: int) -> Iterator[Row]:
    """Each trace beside each of SGLang's caches."""
    why = missing()
    names = {trace: f"a request of {name}" for trace, name in TRACES.items()}
    if why:
        for what in names.values():
            for peer in PEERS.values():
                yield Row(CONTROL_PLANE, what, peer, left_out=why)
        return
    found = in_turn(
        {"ours": partial(seconds_a_request, OURS)},
        {adapter: partial(seconds_a_request, adapter) for adapter in PEERS},
        runs,
    )
    for trace, what in names.items():
        for adapter, peer in PEERS.items():
            ours = times_in(trace, found["ours"])
            theirs = times_in(trace, found[adapter])
            yield row(CONTROL_PLANE, what, peer, ours, theirs)


def times_in(trace: str, found: list[dict[str, float]] | str) -> Times:
    """What a side took for a trace, in each run."""
    if isinstance(found, str):
        return found
    return [of_run[trace] for of_run in found]


MEASUREMENTS = [Measurement("control plane", (CONTROL_PLANE,) * 6, 3, lives)]
