"""Chapter 00: the texts that the chapters run on, read from `assets/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_IN_THE_PACKAGE = Path(__file__).with_name("assets")  # where a wheel carries them
_IN_THE_REPOSITORY = Path(__file__).parents[1] / "assets"


def read_asset(name: str) -> Any:
    """What a JSON file of `assets/` holds, whichever way the library is installed."""
    folder = _IN_THE_PACKAGE if _IN_THE_PACKAGE.is_dir() else _IN_THE_REPOSITORY
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def few_shot_prompts(n: int = 2) -> list[str]:
    """The first `n` requests of the few-shot set: one long shared prefix, `n` endings.

    Raises ValueError if there are fewer.
    """
    texts = read_asset("few_shot")
    if not 1 <= n <= len(texts["requests"]):
        raise ValueError(
            f"the few-shot set has 1 to {len(texts['requests'])} requests, not {n}"
        )
    return [
        "\n\n".join([*texts["shared"], request]) for request in texts["requests"][:n]
    ]


def workload(name: str) -> list[str]:
    """A small workload as texts: its requests, in the order in which they come.

    `radix_lib.workloads` makes large ones, as tokens, with times and answers. Of a
    dialogue, each request holds everything said before it. Raises ValueError for a
    name that is not known.

    >>> names = "support_desk", "few_shot", "tutoring", "agent"
    >>> [len(workload(name)) for name in names]
    [12, 4, 8, 8]
    """
    known: dict[str, Any] = read_asset("workloads")
    if name == "few_shot":
        return few_shot_prompts(4)
    if name not in known:
        raise ValueError(
            f"no workload {name!r}; there are {', '.join(['few_shot', *known])}"
        )
    parts = known[name]["parts"]
    turns = known[name].get("turns", [])
    requests = known[name].get("requests") or [
        ["system", *turns[: i + 1]] for i in range(0, len(turns), 2)
    ]
    return [
        "\n\n".join(parts.get(part, part) for part in request) for request in requests
    ]
