"""`make bench`: every speed that the course tells of, as ratios measured side by side.

    make bench ARGS='[--only PART] [--runs N] [--threads N] [--store]'

All rows go to `build/bench.json`, each as soon as it is measured, so that a run may be
interrupted. With --store a whole run goes to `assets/bench.json`, too: the README and
the chapters quote that file, and `make refresh` brings them up to it.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime

import torch
import transformers
from tqdm.auto import tqdm

from tests.tools.benchmarks import control_plane, forward, serving
from tests.tools.benchmarks.rows import ROOT, STORED, Found, Machine, Row, cells, write

BUILD = ROOT / "build" / "bench.json"

MEASUREMENTS = [
    *control_plane.MEASUREMENTS,
    *forward.MEASUREMENTS,
    *serving.MEASUREMENTS,
]
PARTS = list(dict.fromkeys(part for each in MEASUREMENTS for part in each.parts))


def this_machine() -> Machine:
    """The machine that this runs on, and today."""
    return Machine(
        processor=f"{platform.machine()} ({torch.backends.cpu.get_cpu_capability()})",
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
    )


def line(row: Row) -> str:
    """A row as a line of a terminal."""
    peer, ours, theirs, ratio, *_, due = cells(row)
    times = f"{row.what:40}{peer:24}{ours:>9}{theirs:>9}"
    return f"{times}  {ratio:26}  {due}".rstrip()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status is 1 for a run that was interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument(
        "--runs", type=int, help="of every row; each has its own number"
    )
    parser.add_argument("--threads", type=int, help="of torch; else as they come")
    parser.add_argument(
        "--store", action="store_true", help="write assets/bench.json, too"
    )
    options = parser.parse_args(arguments)
    if options.store and options.only:
        parser.error("--store keeps a whole run: leave --only out")
    if options.runs is not None and options.runs < 1:
        parser.error(f"--runs {options.runs}: a row needs at least one")
    if options.threads:
        torch.set_num_threads(options.threads)
    wanted = {options.only} if options.only else set(PARTS)
    due = [each for each in MEASUREMENTS if wanted & set(each.parts)]
    n_rows = sum(part in wanted for each in due for part in each.parts)
    rows: list[Row] = []
    found = Found(this_machine(), rows)
    try:
        with tqdm(total=n_rows, unit="row") as bar:
            for measurement in due:
                bar.set_description(measurement.what)
                for row in measurement.rows(options.runs or measurement.runs):
                    if row.part not in wanted:
                        continue
                    rows.append(row)
                    write(found, BUILD)
                    tqdm.write(line(row))
                    bar.update()
    except KeyboardInterrupt:
        print(f"\nInterrupted: {len(rows)} rows are in {BUILD.relative_to(ROOT)}.")
        return 1
    if options.store:
        write(found, STORED)
    print(
        f"{found.machine}\n{BUILD.relative_to(ROOT)} has the same. Times are medians."
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
