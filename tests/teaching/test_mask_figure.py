"""Figures that one chapter shows: the mask of attention."""

from __future__ import annotations

import numpy as np

from radix_lib.teaching import draw_mask
from radix_lib.teaching.figures import theme


def test_a_mask_tells_cached_keys_from_new_and_hidden_ones():
    mask = np.arange(4) <= 2 + np.arange(2)[:, None]
    figure = draw_mask(mask, [2, 2], "A mask")
    assert figure.text == "A mask\n   query 2  = = + .\n   query 3  = = + +"
    assert figure.alt == (
        "A mask. query 2 looks at 2 cached and 1 new keys; "
        "query 3 looks at 2 cached and 2 new keys"
    )
    assert figure.svg.lower().count(theme.STATES["hit"].fill.lower()) == 4 + 1  # legend


def test_the_rows_of_a_mask_may_be_several_sequences():
    mask = np.array([[True, True, True], [True, True, False]])
    text = draw_mask(mask, [2, 1], "Two", ["A, at 2", "B, at 1"]).text
    assert text.splitlines()[1:] == ["   A, at 2  = = +", "   B, at 1  = + ."]
