"""The figures look as they did when somebody last looked at them."""

from __future__ import annotations

import pytest

from radix_lib.teaching.figures.figure import Figure
from tests.tools import gallery

NAMES = sorted(path.stem for path in gallery.COMMITTED.glob("*.svg"))
AGAIN = "it looks different now. Look at build/gallery after python tests/tools/gallery.py --renew"


@pytest.fixture(scope="module")
def figures() -> dict[str, Figure]:
    return {
        name: made
        for name, made in gallery.pictures().items()
        if isinstance(made, Figure)
    }


def test_every_figure_has_its_committed_svg(figures: dict[str, Figure]):
    assert sorted(figures) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_the_committed_one(figures: dict[str, Figure], name: str):
    assert (
        figures[name].svg.encode() == (gallery.COMMITTED / f"{name}.svg").read_bytes()
    ), AGAIN
