"""One visual language: what each colour, mark and border means, in every figure.

A colour means a state, and never alone: each state has a second mark, so that the
pictures can be read in grey, in print and with any colour vision.
`tests/teaching/test_theme.py` computes both.
"""

from __future__ import annotations

from typing import Any, NamedTuple

TEXT = LINE = "#111111"
MUTED = "#555555"  # labels that are not the point
FAINT = "#8A8A8A"  # borders of what is not the point
# painted under every figure, so that a dark page does not shine through
PAPER = "#FFFFFF"
LIT = "#E3E3E3"  # where the reader is, on the maps, with a thick border


class State(NamedTuple):
    """How one state looks."""

    word: str  # as it stands in legends, ASCII drawings and alt texts
    fill: str
    mark: str  # the second mark, beside the letter or the page id
    border: str  # solid, dashed, double or faint
    hatch: str  # the second mark in charts


#: Strongest first: where several hold, the first one gives the colour.
STATES: dict[str, State] = {
    "evicted": State("evicted", "#D55E00", "×", "dashed", "xx"),
    "new": State("new", "#F0E442", "+", "solid", ".."),
    "hit": State("reused", "#99DDFF", "=", "solid", ""),
    "locked": State("locked", "#CC79A7", "", "double", "||"),  # its mark: the count
    "idle": State("in the tree", "#FFFFFF", "", "solid", ""),
    "free": State("free", "#DDDDDD", "", "faint", ""),
}

# the engine knows how wide their letters are
SANS = "Helvetica"
MONO = "Courier"
BROWSER_FONTS = (  # in their place
    "Arimo,Arial,Helvetica,'Liberation Sans',sans-serif",
    "Cousine,'Liberation Mono',Menlo,Consolas,monospace",
)
FONT_SIZE = 11
WIDTH = 700  # px: what a notebook shows at its usual width; wider figures shrink to fit

#: Lines of charts, in order: colour, dashes and marker.
LINES: list[tuple[str, Any, str]] = [
    ("#0072B2", "-", "o"),
    ("#D55E00", "--", "s"),
    ("#117733", "-.", "^"),
    ("#AA4499", ":", "D"),
    ("#555555", (0, (5, 1, 1, 1, 1, 1)), "v"),
]

#: The one style of all charts: `with matplotlib.rc_context(CHART_STYLE): …`
CHART_STYLE: dict[str, Any] = {
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.8,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    # it comes with matplotlib, so it is the same everywhere
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": TEXT,
    "text.parse_math": False,
    "axes.labelcolor": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "lines.linewidth": 2,
    "lines.markersize": 6,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
}
