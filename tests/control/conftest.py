"""What several files of the control plane's tests need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.streams import no_automatic_collection


@pytest.fixture(scope="module")
def no_collector() -> Iterator[None]:
    """What a test forgot does not end in a call whose steps are counted."""
    with no_automatic_collection():
        yield
