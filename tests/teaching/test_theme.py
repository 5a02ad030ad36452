"""The palette: text can be read on it, and no state is told by colour alone."""

from __future__ import annotations

from itertools import combinations

import matplotlib
import numpy as np
import pytest

from radix_lib.teaching.figures import theme

# Machado, Oliveira and Fernandes 2009, severity 1.0, for linear RGB.
VISION = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def linear(color: str) -> np.ndarray:
    srgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    one, other = sorted(float(TO_XYZ[1] @ linear(color)) for color in (a, b))
    return (other + 0.05) / (one + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / (TO_XYZ @ np.ones(3))
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(a: str, b: str, vision: str) -> float:
    """How far apart two colours are seen (CIE 1976); about 2 can just be told apart."""
    see = VISION[vision]
    return float(np.linalg.norm(lab(see @ linear(a)) - lab(see @ linear(b))))


def test_the_measures_themselves():
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert distance("#000000", "#FFFFFF", "usual") == pytest.approx(100, abs=0.1)
    # Red and green: far apart, but not for who lacks the cones for red or for green.
    pair = ("#C00000", "#4C7000")
    assert distance(*pair, "usual") > 3 * distance(*pair, "deuteranopia")


@pytest.mark.parametrize("name", theme.STATES)
def test_text_can_be_read_on_every_state(name: str):
    assert contrast(theme.TEXT, theme.STATES[name].fill) >= 4.5


def test_text_can_be_read_on_paper_and_where_the_reader_is():
    for color in (theme.TEXT, theme.MUTED):
        assert contrast(color, theme.PAPER) >= 4.5
    assert contrast(theme.TEXT, theme.LIT) >= 4.5


def test_the_palette_is_the_agreed_one():
    fills = {
        name: theme.STATES[name].fill
        for name in ("idle", "hit", "new", "locked", "evicted")
    }
    assert fills == {
        "idle": "#FFFFFF",
        "hit": "#99DDFF",
        "new": "#F0E442",
        "locked": "#CC79A7",
        "evicted": "#D55E00",
    }
    assert theme.STATES["new"].mark == "+"
    assert theme.STATES["locked"].border == "double"
    assert theme.STATES["evicted"].border == "dashed"


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("pair", [*combinations(theme.STATES, 2)], ids=" and ".join)
def test_states_differ_by_a_second_mark_and_most_by_colour(
    pair: tuple[str, str], vision: str
):
    one, other = (theme.STATES[name] for name in pair)
    assert (one.mark, one.border) != (other.mark, other.border)
    assert distance(one.fill, other.fill, vision) >= 10


def test_lines_of_charts_differ_by_dashes_and_marker():
    colors, dashes, markers = zip(*theme.LINES, strict=True)
    assert (
        len(set(map(str, dashes)))
        == len(set(markers))
        == len(set(colors))
        == len(theme.LINES)
    )
    assert all(contrast(color, theme.PAPER) >= 3 for color in colors)


def test_the_style_of_charts_is_one_that_matplotlib_knows():
    # it refuses a name that it does not know
    with matplotlib.rc_context(theme.CHART_STYLE):
        assert matplotlib.rcParams["savefig.facecolor"] == theme.PAPER
