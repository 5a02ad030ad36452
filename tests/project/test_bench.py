"""`make bench`: rows measured in turn, kept when interrupted, and quoted as stored."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from tests.support.course import BY_NUMBER, ROOT
from tests.tools import generated, refresh
from tests.tools.benchmarks import bench, control_plane, rows

STORED = rows.read(rows.STORED)
README = (ROOT / "README.md").read_text(encoding="utf-8")


# ── Rows ──────────────────────────────────────────────────────────────────────────────


def test_sides_run_in_turn_and_a_ratio_is_that_of_neighbours() -> None:
    order = []
    clock = iter([1.0, 4.0, 2.0, 6.0, 2.0, 10.0])

    def side(name: str) -> rows.Side:
        def run() -> float:
            order.append(name)
            return next(clock)

        return run

    times = rows.in_turn({"ours": side("a")}, {"theirs": side("b")}, 3)
    assert order == ["a", "b"] * 3
    found = rows.row("part", "what", "peer", times["ours"], times["theirs"])
    assert (found.ours, found.theirs, found.runs) == (2.0, 6.0, 3)
    assert (found.ratio, found.lowest, found.highest) == (4.0, 3.0, 5.0)


def test_a_peer_that_fails_is_left_out_with_the_reason_and_the_others_go_on() -> None:
    def fails() -> float:
        raise ImportError("no such thing\nand more")

    times = rows.in_turn({"ours": lambda: 1.0}, {"a": fails, "b": lambda: 2.0}, 2)
    assert times["b"] == [2.0, 2.0]
    found = rows.row("part", "what", "a", times["ours"], times["a"], target=3)
    assert found.left_out == "ImportError: no such thing"
    assert (found.ours, found.theirs, found.ratio, found.target) == (1.0, None, None, 3)
    assert "left out: ImportError: no such thing" in rows.table([found])


def test_when_ours_fails_the_bench_fails() -> None:
    def fails() -> float:
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        rows.in_turn({"ours": fails}, {}, 1)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "build" / "bench.json"
    rows.write(STORED, path)
    assert rows.read(path) == STORED
    assert path.read_bytes() == rows.STORED.read_bytes(), "not as --store writes it"


def test_without_sglangs_caches_the_rows_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RADIX_LIB_PEERS", raising=False)
    found = list(control_plane.lives(1))
    assert {row.peer for row in found} == set(control_plane.PEERS.values())
    assert all("RADIX_LIB_PEERS" in row.left_out for row in found)


# ── The command ───────────────────────────────────────────────────────────────────────


def one_then_interrupted(runs: int) -> Iterator[rows.Row]:
    yield rows.row("a part", "what", "peer", [1.0] * runs, [2.0] * runs)
    raise KeyboardInterrupt


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bench, "BUILD", tmp_path / "build" / "bench.json")
    monkeypatch.setattr(bench, "STORED", tmp_path / "assets.json")
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    return tmp_path


def test_a_run_that_is_interrupted_keeps_its_rows_and_stores_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken_off = rows.Measurement("what", ("a part",) * 2, 3, one_then_interrupted)
    monkeypatch.setattr(bench, "MEASUREMENTS", [broken_off])
    monkeypatch.setattr(bench, "PARTS", ["a part"])
    assert bench.main(["--store"]) == 1
    kept = rows.read(folder / "build" / "bench.json")
    assert [(row.ratio, row.runs) for row in kept.rows] == [(2.0, 3)]
    assert not (folder / "assets.json").exists()
    assert "Interrupted: 1 row" in capsys.readouterr().out


def test_a_whole_run_is_stored_and_a_part_of_one_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_parts(runs: int) -> Iterator[rows.Row]:
        for part in ("one", "other"):
            yield rows.row(part, "what", "peer", [1.0] * runs, [2.0] * runs)

    both = rows.Measurement("what", ("one", "other"), 3, two_parts)
    monkeypatch.setattr(bench, "MEASUREMENTS", [both])
    monkeypatch.setattr(bench, "PARTS", ["one", "other"])
    with pytest.raises(SystemExit):
        bench.main(["--store", "--only", "one"])
    with pytest.raises(SystemExit):
        bench.main(["--runs", "0"])
    assert bench.main(["--only", "other", "--runs", "1"]) == 0
    (row,) = rows.read(folder / "build" / "bench.json").rows
    assert (row.part, row.runs) == ("other", 1)
    assert not (folder / "assets.json").exists()
    assert bench.main(["--store"]) == 0
    stored = rows.read(folder / "assets.json")
    assert [row.part for row in stored.rows] == ["one", "other"]


# ── What is stored, and who quotes it ─────────────────────────────────────────────────


def test_the_stored_run_is_whole() -> None:
    due = Counter(part for each in bench.MEASUREMENTS for part in each.parts)
    assert Counter(row.part for row in STORED.rows) == due
    names = [(row.part, row.what, row.peer) for row in STORED.rows]
    assert len(set(names)) == len(names)


def test_a_stored_row_has_all_that_is_due_or_a_reason() -> None:
    plain = json.loads(rows.STORED.read_text(encoding="utf-8"))
    for each in plain["rows"]:
        assert list(each) == [field.name for field in fields(rows.Row)]
    for row in STORED.rows:
        times = (row.ours, row.theirs, row.lowest, row.ratio, row.highest)
        if row.left_out:
            assert times[1:] == (None,) * 4, row
            assert row.runs == 0, row
            continue
        assert all(number is not None and number > 0 for number in times), row
        assert row.lowest <= row.ratio <= row.highest, row
        assert row.runs >= 1, row


def test_the_stored_machine_is_named_in_words() -> None:
    machine = STORED.machine
    assert re.fullmatch(r"\w+ \(\w+\)", machine.processor)
    assert 1 <= machine.threads <= machine.cores
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", machine.date)
    for version in (machine.python, machine.torch, machine.transformers):
        assert re.match(r"\d+\.\d+", version)


def test_the_readme_quotes_the_stored_run_and_no_other_speed() -> None:
    assert generated.with_tables(README) == README, "out of date, run make refresh"
    assert str(STORED.machine) in README
    start = README.index(generated.BENCH_BEGINS)
    end = README.index(generated.BENCH_ENDS)
    speed = re.compile(r"\d ?(?:ms|µs|milliseconds|tokens/s)\b|\d times (?:as|faster)")
    assert len(speed.findall(README[start:end])) > len(STORED.rows)
    assert not speed.findall(README[:start] + README[end:])


@pytest.mark.parametrize(("number", "kind"), [("09", "bench-workloads")])
def test_a_chapter_quotes_the_stored_run(number: str, kind: str) -> None:
    path = BY_NUMBER[number].path
    book = refresh.parse(path.read_text(encoding="utf-8"))
    (cell,) = (
        cell for cell in book.cells if f"generated:{kind}" in generated.tags(cell)
    )
    assert cell.source == generated.GENERATED[kind](cell, path)
    assert str(STORED.machine) in cell.source


def test_what_exactness_costs_is_told_by_the_rows() -> None:
    def exact(what: str, ratio: float, peer: str = rows.HUGGING_FACE) -> rows.Row:
        return rows.row(rows.EXACT, what, peer, [1.0], [ratio])

    found = rows.Found(
        STORED.machine,
        [
            exact("cold prefill of 1,024", 0.8),
            exact("decode step, 1 × 300", 0.5),
            exact("decode step, 8 × 300", 4.0),
            exact("decode step, 8 × 300, bfloat16", 100.0, "ours, float32"),
        ],
    )
    told = generated.cost_of_exactness(found)
    assert re.findall(r"\d+\.\d+", told) == ["1.25", "0.25", "2.00"]
