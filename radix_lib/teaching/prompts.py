"""The texts that the chapters run on, read from `assets/`."""

from __future__ import annotations

import json
from pathlib import Path

ASSETS = Path(__file__).parents[2] / "assets"


def few_shot_prompts(n: int = 2) -> list[str]:
    """The first `n` requests of the few-shot set: one long shared prefix, `n` endings.

    Raises ValueError if there are fewer.
    """
    texts = json.loads((ASSETS / "few_shot.json").read_text(encoding="utf-8"))
    if not 1 <= n <= len(texts["requests"]):
        raise ValueError(f"the few-shot set has 1 to {len(texts['requests'])} requests, not {n}")
    return ["\n\n".join([*texts["shared"], request]) for request in texts["requests"][:n]]
