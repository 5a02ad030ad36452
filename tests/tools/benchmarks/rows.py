"""A row of the benchmark, the machine that it was measured on, and tables of rows.

A row compares two sides that did the same work in turn. Its ratio is theirs ÷ ours,
the median over neighbouring runs: above 1, ours was faster.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar

ROOT = Path(__file__).resolve().parents[3]
STORED = ROOT / "assets" / "bench.json"  # which README and chapters quote

# The parts of the benchmark.
CONTROL_PLANE = "control plane"
OVERHEAD = "overhead"
EXECUTOR = "executor"
EXACT = "exact arithmetic"
WORKLOADS = "workloads"
SCHEDULER = "scheduler"

HUGGING_FACE = "Hugging Face"  # its ordinary forward

T = TypeVar("T")

Side = Callable[[], float]  # does its work, and returns the seconds that count
Times = list[float] | str  # of all runs, or why there are none


@dataclass(frozen=True)
class Row:
    """A comparison. Times are seconds, each the median of all runs."""

    part: str
    what: str
    peer: str
    ours: float | None = None
    theirs: float | None = None
    ratio: float | None = None  # theirs ÷ ours, the median over neighbouring runs
    lowest: float | None = None
    highest: float | None = None
    runs: int = 0
    target: float | None = None  # the ratio that is due, at least
    left_out: str = ""  # why there is no peer


def row(
    part: str,
    what: str,
    peer: str,
    ours: Times,
    theirs: Times,
    target: float | None = None,
) -> Row:
    """A row from two sides that ran in turn, or from the reason why theirs did not.

    >>> found = row("a part", "a walk", "a snail", [1.0, 2.0, 2.0], [4.0, 6.0, 10.0])
    >>> found.ours, found.theirs, found.ratio, found.lowest, found.highest
    (2.0, 6.0, 4.0, 3.0, 5.0)
    """
    assert not isinstance(ours, str), "only a peer is left out"
    if isinstance(theirs, str):
        return Row(part, what, peer, median(ours), target=target, left_out=theirs)
    ratios = [of_them / of_us for of_us, of_them in zip(ours, theirs, strict=True)]
    return Row(
        part,
        what,
        peer,
        median(ours),
        median(theirs),
        median(ratios),
        min(ratios),
        max(ratios),
        len(ratios),
        target,
    )


def in_turn(
    ours: Mapping[str, Callable[[], T]], peers: Mapping[str, Callable[[], T]], runs: int
) -> dict[str, list[T] | str]:
    """Run all sides one after the other, `runs` times: what each returned, by name.

    A peer that raises is no reason to stop: it is left out, and the reason stands in
    place of its times.
    """
    times: dict[str, list[T]] = {name: [] for name in (*ours, *peers)}
    failed: dict[str, str] = {}
    for _ in range(runs):
        for name, side in ours.items():
            times[name].append(side())
        for name, side in peers.items():
            if name in failed:
                continue
            try:
                times[name].append(side())
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}".splitlines()[0][:100]
    return {**times, **failed}


class Measurement(NamedTuple):
    """Rows that are measured together, `runs` times if nothing else is asked for."""

    what: str
    parts: tuple[str, ...]  # the part of each of its rows
    runs: int
    rows: Callable[[int], Iterable[Row]]


# ── What is written down ─────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Machine:
    """Where and when it was measured."""

    processor: str  # architecture and instruction set
    cores: int
    threads: int  # of torch
    python: str
    torch: str
    transformers: str
    date: str

    def __str__(self) -> str:
        return (
            f"{self.processor}, cores: {self.cores}, threads: {self.threads}, Python "
            f"{self.python}, torch {self.torch}, transformers {self.transformers}, "
            f"on {self.date}"
        )


class Found(NamedTuple):
    """What a run of the benchmark found."""

    machine: Machine
    rows: Sequence[Row]


def write(found: Found, path: Path) -> None:
    """All of it as JSON, at once or not at all."""
    path.parent.mkdir(exist_ok=True)
    plain = {
        "machine": asdict(found.machine),
        "rows": [asdict(each) for each in found.rows],
    }
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", "utf-8")
    draft.replace(path)


def read(path: Path) -> Found:
    """What `write` has written."""
    plain = json.loads(path.read_text("utf-8"))
    return Found(Machine(**plain["machine"]), [Row(**each) for each in plain["rows"]])


# ── What is shown ────────────────────────────────────────────────────────────────────


def time_of(seconds: float | None) -> str:
    """A time with its unit, in three digits.

    >>> [time_of(seconds) for seconds in (12.34, 0.0456, 2.9e-5, None)]
    ['12.3 s', '45.6 ms', '29.0 µs', '–']
    """
    if seconds is None:
        return "–"
    if seconds >= 1:
        return f"{digits(seconds)} s"
    if seconds >= 1e-3:
        return f"{digits(1e3 * seconds)} ms"
    return f"{digits(1e6 * seconds)} µs"


def digits(number: float) -> str:
    """Three digits of a number, or all those before its point.

    >>> digits(0.98765), digits(12), digits(1.5), digits(123.4), digits(12345.6)
    ('0.988', '12.0', '1.50', '123', '12,346')
    """
    return f"{number:#.3g}".rstrip(".") if number < 1000 else f"{number:,.0f}"


def cells(each: Row) -> list[str]:
    """What a table says of a row, from its second column on."""
    times = [time_of(each.ours), time_of(each.theirs)]
    due = "" if each.target is None else f"≥ {each.target:.3g}"
    if each.ratio is None or each.lowest is None or each.highest is None:
        return [each.peer, *times, f"left out: {each.left_out}", "", due]
    spread = f"{digits(each.lowest)} to {digits(each.highest)}"
    ratio = f"{digits(each.ratio)} ({spread})"
    return [each.peer, *times, ratio, str(each.runs), due]


HEAD = ("what", "beside", "ours", "theirs", "theirs ÷ ours", "runs", "due")


def table(rows: Iterable[Row]) -> str:
    """Rows as a Markdown table, one part after the other, under its name."""
    lines = [_line(HEAD), _line(["---"] * len(HEAD))]
    parts: dict[str, list[Row]] = {}
    for each in rows:
        parts.setdefault(each.part, []).append(each)
    for part, members in parts.items():
        if len(parts) > 1:
            lines.append(_line([f"**{part}**", *[""] * (len(HEAD) - 1)]))
        lines += [_line([each.what, *cells(each)]) for each in members]
    return "\n".join(lines)


def _line(texts: Iterable[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
