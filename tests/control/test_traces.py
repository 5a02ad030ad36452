"""Recorded traffic: what is read, what is refused, and what a cache finds of it."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from radix_lib.trace_files import Recorded, TraceError, read_bailian, read_mooncake
from radix_lib.traces import (
    distinct_blocks,
    made_trace,
    recorded,
    replay,
    replay_with_foresight,
)
from radix_lib.workloads import ask

MOONCAKE = {"timestamp": 1500, "input_length": 600, "output_length": 7}
BAILIAN = {
    "chat_id": 12,
    "parent_chat_id": 5,
    "timestamp": 1.5,
    "input_length": 30,
    "output_length": 7,
    "type": "text",
    "turn": 2,
}


def written(folder: Path, *lines: Any, zipped: bool = False) -> Path:
    path = folder / "trace"
    text = "".join(
        (line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines
    )
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    return path


def asked(*prompts: list[int]) -> list[Recorded]:
    return [Recorded(0.0, len(blocks), 0, blocks) for blocks in prompts]


# ── Reading ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("zipped", [False, True])
def test_a_line_of_mooncake_is_read(tmp_path: Path, zipped: bool) -> None:
    line = MOONCAKE | {"hash_ids": [46, 47]}
    (request,) = read_mooncake(written(tmp_path, line, "", zipped=zipped))
    assert request == Recorded(1.5, 600, 7, [0, 1])


def test_a_line_of_bailian_is_read(tmp_path: Path) -> None:
    lines = (
        BAILIAN | {"hash_ids": [9, 8]},
        BAILIAN | {"hash_ids": [9], "parent_chat_id": -1},
    )
    second, first = read_bailian(written(tmp_path, *lines))
    assert second == Recorded(1.5, 30, 7, [0, 1], 12, 5, 2, "text")
    assert first.parent is None
    assert first.blocks == [0], "the same hash has the same number"


@pytest.mark.parametrize("hashes", [[2**63, -1, 2**63], ["a", "b", "a"]])
def test_a_hash_may_be_any_number_or_text(tmp_path: Path, hashes: list[Any]) -> None:
    (request,) = read_mooncake(written(tmp_path, MOONCAKE | {"hash_ids": hashes}))
    assert request.blocks == [0, 1, 0]


@pytest.mark.parametrize(
    ("read", "line", "said"),
    [
        (read_mooncake, "{", "line 2 is not JSON"),
        (read_mooncake, "[1]", "line 2 is no JSON object"),
        (read_mooncake, MOONCAKE, "line 2 has no 'hash_ids'"),
        (read_mooncake, MOONCAKE | {"hash_ids": []}, "line 2: hash_ids is"),
        (read_mooncake, MOONCAKE | {"hash_ids": 7}, "line 2: hash_ids is 7"),
        (read_mooncake, MOONCAKE | {"hash_ids": [[1]]}, "line 2: hash_ids has a list"),
        (read_mooncake, {"hash_ids": [1], "timestamp": "x"}, "timestamp is 'x'"),
        (read_mooncake, MOONCAKE | {"input_length": 1.5}, "input_length is 1.5"),
        (read_mooncake, MOONCAKE | {"output_length": -2}, "output_length is -2"),
        (read_mooncake, MOONCAKE | {"timestamp": True}, "timestamp is True"),
        (read_bailian, MOONCAKE | {"hash_ids": [1]}, "no 'chat_id'.*read_mooncake"),
        (read_bailian, BAILIAN | {"hash_ids": [1], "turn": None}, "turn is None"),
    ],
)
def test_a_bad_line_is_named(
    tmp_path: Path, read: Callable[[Path], Any], line: Any, said: str
) -> None:
    good = (MOONCAKE if read is read_mooncake else BAILIAN) | {"hash_ids": [1]}
    with pytest.raises(TraceError, match=said):
        read(written(tmp_path, good, line))


def test_a_file_that_breaks_off_is_named(tmp_path: Path) -> None:
    lines = [MOONCAKE | {"hash_ids": [n]} for n in range(500)]
    path = written(tmp_path, *lines, zipped=True)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TraceError, match="breaks off after line"):
        read_mooncake(path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    lines = [MOONCAKE | {"hash_ids": [n]} for n in range(500)]
    path = written(tmp_path, *lines, zipped=True)
    whole = path.read_bytes()
    for at in range(20, len(whole), len(whole) // 60):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with pytest.raises(TraceError, match=str(path)):
            read_mooncake(path)


# ── Replay ───────────────────────────────────────────────────────────────────────────


def test_blocks_found_are_counted_before_their_own_request() -> None:
    found = replay(asked([1, 2, 3], [1, 2, 4], [1, 2, 3]), n_pages=10)
    assert found == (3, 2, 9, 5)
    assert found.hit_rate == pytest.approx(5 / 9)


def test_a_request_larger_than_the_pool_is_asked_for_and_not_kept() -> None:
    requests = asked([1, 2], [1, 2, 3, 4], [3], [1, 2])
    assert replay(requests, n_pages=3).hits == 4
    assert replay_with_foresight(requests, n_pages=3).hits == 4


def traffic(seed: int, n: int = 12, most: int = 5) -> list[Recorded]:
    """Prompts that share prefixes: a block's number follows from all before it."""
    rng = random.Random(seed)
    names: dict[tuple[int, ...], int] = {}
    prompts = []
    for _ in range(n):
        path = tuple(rng.randrange(2) for _ in range(rng.randint(1, most)))
        prompts.append(
            [names.setdefault(path[: i + 1], len(names)) for i in range(len(path))]
        )
    return asked(*prompts)


def most_hits(requests: list[Recorded], n_pages: int) -> int:
    """What the best of all choices finds, by trying all of them."""

    @cache
    def best(number: int, cached: frozenset[int]) -> int:
        if number == len(requests):
            return 0
        blocks = requests[number].blocks
        found = sum(block in cached for block in blocks)
        if len(blocks) > n_pages:
            return found + best(number + 1, cached)
        kept = {cached - set(blocks)}
        while all(len(each) > n_pages - len(blocks) for each in kept):
            kept = {each - {block} for each in kept for block in each}
        return found + max(best(number + 1, each | set(blocks)) for each in kept)

    return best(0, frozenset())


@pytest.mark.parametrize("seed", range(20))
def test_nobody_finds_more_than_foresight(seed: int) -> None:
    requests = traffic(seed, n=9, most=4)
    for n_pages in (4, 6, 8):
        foresight = replay_with_foresight(requests, n_pages).hits
        assert foresight == most_hits(requests, n_pages)
        assert replay(requests, n_pages).hits <= foresight


@pytest.mark.parametrize("seed", range(5))
def test_with_room_for_all_every_order_finds_the_same(seed: int) -> None:
    requests = traffic(seed, n=60)
    n_pages = distinct_blocks(requests)
    assert replay(requests, n_pages) == replay_with_foresight(requests, n_pages)


# ── Mooncake's own traces, where there are any ───────────────────────────────────────

TRACES = os.environ.get("RADIX_LIB_TRACES")

KNOWN = {
    "conversation": {
        1_000: 12_847,
        3_000: 18_850,
        5_859: 39_258,
        10_000: 61_046,
        30_000: 93_978,
        182_790: 105_710,
    },
    "synthetic": {
        1_000: 10_252,
        3_000: 23_226,
        5_859: 37_703,
        10_000: 51_669,
        30_000: 76_077,
        43_924: 77_953,
    },
}


@pytest.mark.skipif(not TRACES, reason="RADIX_LIB_TRACES names no folder of traces")
@pytest.mark.parametrize("name", KNOWN)
def test_mooncakes_traces_give_the_known_hits(name: str) -> None:
    requests = read_mooncake(Path(str(TRACES)) / f"{name}_trace.jsonl.gz")
    found = {n_pages: replay(requests, n_pages).hits for n_pages in KNOWN[name]}
    assert found == KNOWN[name]


# ── Made traffic as a trace ──────────────────────────────────────────────────────────


def test_a_workload_is_recorded_in_whole_pages() -> None:
    prompts = [[1, 2, 3, 4, 5], [1, 2, 3, 9], [7, 2, 3, 4], [7]]
    trace = recorded([ask(prompt, [0]) for prompt in prompts], page_size=2)
    assert [request.blocks for request in trace] == [[0, 1], [0, 2], [3, 4]]
    assert [request.n_prompt for request in trace] == [5, 4, 4]


def test_a_recorded_workload_finds_what_the_workload_shares() -> None:
    workload = [ask([*range(40), number, 1], [0]) for number in range(5)]
    trace = recorded(workload, page_size=4)
    found = replay(trace, distinct_blocks(trace))
    assert (found.hits, found.blocks) == (4 * 10, 5 * 10)


def test_a_made_trace_has_the_shape_of_the_real_one() -> None:
    trace = made_trace(12_000)
    assert made_trace(1_000) == made_trace(1_000)
    ceiling = replay(trace, distinct_blocks(trace))
    assert ceiling.blocks / ceiling.requests == pytest.approx(24, rel=0.15)
    assert ceiling.hit_rate == pytest.approx(0.366, abs=0.03)
    assert replay(trace, 1000).hit_rate == pytest.approx(0.045, abs=0.02)
    assert replay(trace, 10_000).hit_rate == pytest.approx(0.212, abs=0.07)
    assert all(request.blocks[0] == 0 for request in trace)
