"""The texts that the chapters run on, read from `assets/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parents[2] / "assets"


def few_shot_prompts(n: int = 2) -> list[str]:
    """The first `n` requests of the few-shot set: one long shared prefix, `n` endings.

    Raises ValueError if there are fewer.
    """
    texts = json.loads((ASSETS / "few_shot.json").read_text(encoding="utf-8"))
    if not 1 <= n <= len(texts["requests"]):
        raise ValueError(f"the few-shot set has 1 to {len(texts['requests'])} requests, not {n}")
    return ["\n\n".join([*texts["shared"], request]) for request in texts["requests"][:n]]


def workload(name: str) -> list[str]:
    """The requests of a typical workload, in the order in which they come.

    Of a dialogue, each request holds everything said before it. Raises ValueError for a name that
    is not known.

    >>> [len(workload(name)) for name in ("support_desk", "few_shot", "tutoring", "agent")]
    [12, 4, 8, 8]
    """
    known: dict[str, Any] = json.loads((ASSETS / "workloads.json").read_text(encoding="utf-8"))
    if name == "few_shot":
        return few_shot_prompts(4)
    if name not in known:
        raise ValueError(f"no workload {name!r}; there are {', '.join(['few_shot', *known])}")
    parts, turns = known[name]["parts"], known[name].get("turns", [])
    requests = known[name].get("requests") or [
        ["system", *turns[: i + 1]] for i in range(0, len(turns), 2)
    ]
    return ["\n\n".join(parts.get(part, part) for part in request) for request in requests]
