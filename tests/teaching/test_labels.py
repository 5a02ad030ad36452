"""Token text, page ids and names as they stand in figures."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from radix_lib.teaching.figures.labels import (
    columns,
    count,
    id_ranges,
    name_of,
    shorten,
    token_text,
    visible,
)


@given(st.text(max_size=60), st.integers(3, 40))
def test_shortened_text_fits_and_keeps_both_ends(text: str, width: int):
    short = shorten(visible(text), width)
    assert columns(short) <= width
    if columns(visible(text)) <= width:
        assert short == visible(text)
    else:
        assert "…" in short


@given(st.text(max_size=40))
def test_visible_text_has_no_white_space_and_nothing_invisible(text: str):
    assert all(c.isprintable() and not c.isspace() for c in visible(text))


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (" a  b", "·a··b"),
        ("a\nb", "a¶b"),
        ("\t", "→"),
        ("\u200b", r"\u200b"),
        ("\x00", r"\x00"),
        ("é中😀", "é中😀"),
        ("\ufffd", "□"),
        ("\u202e", r"\u202e"),
    ],
)
def test_what_cannot_be_seen_gets_a_mark(raw: str, shown: str):
    assert visible(raw) == shown


def test_wide_letters_take_two_columns_and_accents_none():
    assert columns("中😀") == 4
    assert columns("e\u0301") == 1


@given(st.lists(st.integers(0, 50_000), min_size=1, max_size=80), st.integers(8, 60))
def test_ids_fit_and_begin_with_the_first(tokens: list[int], width: int):
    text = token_text(tokens, width)
    assert len(text) <= width
    assert text.startswith(str(tokens[0])[:2])


def test_a_tokenizer_and_a_function_both_decode():
    class Tokenizer:
        def decode(self, tokens: list[int]) -> str:
            return "".join(chr(96 + t) for t in tokens)

    assert token_text([1, 2, 3], 10, Tokenizer()) == "abc"
    assert token_text([1, 2, 3], 10, Tokenizer().decode) == "abc"


def test_a_long_edge_is_decoded_only_at_its_ends():
    seen = 0

    def decode(tokens: list[int]) -> str:
        nonlocal seen
        seen += len(tokens)
        return "x" * len(tokens)

    assert token_text(range(100_000), 10, decode) == "xxxxx…xxxx"
    assert seen == 20


def test_ranges_counts_and_names():
    assert id_ranges([]) == ""
    assert id_ranges([7]) == "7"
    assert id_ranges([5, 4, 3]) == "5, 4, 3"
    assert id_ranges(range(0, 40, 2), most=3) == "0, 2, …, 38"
    assert (count(0, "page"), count(1, "page")) == ("0 pages", "1 page")
    assert name_of(None) == name_of(("", "")) == ""
    assert name_of(("alice", "chat")) == "alice / chat"
    assert name_of(("", "a\nb")) == "a¶b"
