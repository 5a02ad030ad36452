"""A workload's tree from afar: as wide as its requests, as deep as its tokens."""

from __future__ import annotations

from radix_lib.teaching.figures.workload_figure import (
    draw_cached_tree,
    draw_workload_trees,
    parts_of,
)

PROMPTS = [[1, 2, 3], [1, 2, 4, 5], [1, 2, 4, 6], [9]]


def test_a_part_is_as_wide_as_the_requests_that_begin_with_it() -> None:
    parts = {part.last: part for part in parts_of(PROMPTS)}
    assert parts[2][:4] == (0, 3, 0, 2)  # left, requests, depth, tokens
    assert parts[4][:4] == (0, 2, 2, 1)
    assert parts[3][:4] == (2, 1, 2, 1)
    assert parts[9][:4] == (3, 1, 0, 1)


def test_no_two_parts_overlap() -> None:
    places = set()
    for part in parts_of(PROMPTS):
        for x in range(part.n_requests):
            for y in range(part.n_tokens):
                place = (part.left + x, part.depth + y)
                assert place not in places
                places.add(place)
    # A prompt that begins like others is drawn once for each of them.
    assert len(places) == sum(map(len, PROMPTS))


def test_the_table_says_how_many_tokens_are_a_repetition() -> None:
    chart = draw_workload_trees({"four": PROMPTS, "alone": [[1], [2]]})
    four, alone = chart.text.splitlines()[-2:]
    assert four.split() == ["four", "4", "12", "4", "42%"]  # 7 of 12 are distinct
    assert alone.split() == ["alone", "2", "2", "1", "0%"]


def test_what_is_cached_of_a_part_is_told_from_what_is_gone() -> None:
    chart = draw_cached_tree([[1, 2, 3, 4], [1, 2, 5]], {1, 2, 3}, "a tree")
    assert [line.split()[-1] for line in chart.text.splitlines()[-2:]] == ["3", "2"]
