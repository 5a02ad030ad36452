"""Texts as somebody may type them into a widget: drawn or refused, and never raised."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from radix_lib.teaching import RouterWalk, TreeExplorer

TEXTS = {
    "empty": "",
    "a control character": "a\x00\x1b[0m\x7f",
    "right to left": "שלום \u202eback\u202c",
    "joined": "👩‍👩‍👧 ﷽",
    "a lone surrogate": "a\ud800",
    "marks of a template": "<|im_start|>system",
    "code": "'\"\"\" + __import__('os') \\",
    "markup": "</svg><script>alert(1)</script>&amp;]]>",
    "too long": "word " * 20_000,
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_router_walk_takes_or_refuses_any_text(kind: str):
    walk = RouterWalk()
    before = walk.router.usage()
    walk.text.value = TEXTS[kind]
    walk.send.click()
    walk.check()
    drawn = ET.fromstring(walk.draw().svg)
    assert not [part for part in drawn.iter() if part.tag.endswith("script")]
    if kind in ("empty", "too long"):
        assert walk.refused
        assert walk.router.usage() == before


@pytest.mark.parametrize("kind", TEXTS)
def test_a_tree_explorer_takes_or_refuses_any_text(kind: str):
    lab = TreeExplorer()
    lab.text.value = TEXTS[kind]
    for name in ("match", "insert", "lock", "evict", "unlock"):
        lab.buttons[name].click()
        lab.check()
