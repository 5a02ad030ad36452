"""A tiny model behind a cache, for the tests of generation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from radix_lib.radix_model import RadixAttentionModel
from tests.support.answers import Characters, Models


@pytest.fixture
def cached(tiny_model: Models) -> Callable[..., RadixAttentionModel]:
    """`cached(kind, dtype, n_pages=…)`: by default 64 pages of 4 tokens."""

    def build(
        kind: str = "llama", dtype: torch.dtype = torch.float64, **more: Any
    ) -> RadixAttentionModel:
        options = {"page_size": 4, "n_pages": 64, **more}
        return RadixAttentionModel(tiny_model(kind, dtype), Characters(), **options)

    return build
