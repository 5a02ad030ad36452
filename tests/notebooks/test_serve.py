"""Chapter 04's `serve`, which the library lacks: a request's way through the cache.

It is in the chapter and in its solutions; both are tried as they stand there.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

from radix_lib.page_manager import OutOfPages, PageManager
from radix_lib.radix_cache import RadixCache

ROOT = Path(__file__).resolve().parents[2] / "notebooks"


@pytest.fixture(params=["04_radix_cache", "solutions/04_radix_cache"])
def serve(request: pytest.FixtureRequest) -> Callable[..., int]:
    notebook = nbformat.read(ROOT / f"{request.param}.ipynb", as_version=4)
    scope: dict[str, Any] = {"np": np}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for statement in ast.parse(cell.source).body:
                if isinstance(statement, ast.FunctionDef) and statement.name == "serve":
                    exec(ast.unparse(statement), scope)
    return scope["serve"]


def test_a_refused_request_keeps_no_lock(serve):
    cache = RadixCache(PageManager(4, page_size=2))
    serve(cache, [1, 2, 3, 4])
    with pytest.raises(OutOfPages):
        serve(cache, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    cache.check_integrity([])
    assert cache.n_locked == 0
    assert serve(cache, [7, 8, 9, 10, 11, 12, 13, 14]) == 0  # all of it may be evicted


def test_one_token_is_left_to_compute(serve):
    cache = RadixCache(PageManager(8, page_size=2))
    found = [serve(cache, [1, 2, 3, 4, 5, 6]) for _ in range(2)]
    assert found == [0, 4]
    assert serve(cache, [1, 2, 3, 4, 5, 6, 7]) == 6
    cache.check_integrity([])
    assert cache.page_manager.n_free == 5
