"""`make bench`: every speed that the course tells of, as ratios measured side by side.

    python tests/tools/benchmarks/bench.py [--runs 3] [--threads 1] [--only WORD]

    control plane    whole lives of requests, beside SGLang's own radix caches
    workloads        three of them end to end, beside transformers' ways to answer
    overhead         the control plane's share of a run in which nothing is shared
    executor, scheduler    the benches of these names, in processes of their own

The sides of a row take turns; a ratio is the median over neighbouring runs, with the
lowest and the highest. A peer that is not there is left out, and the table says why.
The same numbers go to `build/bench.json`.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from tqdm.auto import tqdm
from transformers import DynamicCache, GenerationConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from radix_lib import RadixAttentionModel, Scheduler, TokenTime, load_model
from radix_lib.cost_model import measure
from radix_lib.workloads import (
    Words,
    Workload,
    chat_with_short_answers,
    few_shot,
    nothing_shared,
    self_consistency,
)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


class Row(NamedTuple):
    """A comparison: how many times as long theirs takes, in each run."""

    what: str
    peer: str
    ratios: list[float]
    note: str = ""  # why there are none, or what they are a ratio of

    def __str__(self) -> str:
        if not self.ratios:
            return f"{self.what:34}{self.peer:26}{'left out':>9}  {self.note}"
        low, high = min(self.ratios), max(self.ratios)
        spread = f"({low:.3g} to {high:.3g})"
        middle = median(self.ratios)
        return (
            f"{self.what:34}{self.peer:26}{middle:9.3g}  {spread} {self.note}".rstrip()
        )


Rows = Iterator[Row]


def in_turn(
    ours: Callable[[], float], theirs: Callable[[], float], n: int
) -> list[float]:
    """theirs ÷ ours, from `n` pairs of neighbouring runs."""
    ratios = []
    for _ in range(n):
        mine = ours()
        ratios.append(theirs() / mine)
    return ratios


# ── The control plane, beside SGLang's caches ────────────────────────────────────────


def control_plane(runs: int) -> Rows:
    """Requests a second of CPU time; each side in a process of its own."""
    folder = os.environ.get("RADIX_LIB_PEERS")
    peers = ["SglClassic", "SglUnifiedRust"]
    python = Path(os.environ.get("PEERS_ROOT", Path.home() / ".cache/radix-peers"))
    python = python / "venv/bin/python"
    why = ""
    if not folder:
        why = "RADIX_LIB_PEERS names no folder with SGLang's caches"
    elif not python.exists():
        why = f"{python} is missing: run setup.sh of {folder}"
    if why:
        for peer in peers:
            yield Row("control plane", peer, [], why)
        return

    def seconds(adapter: str, trace: str, page: str) -> float:
        command = [python, "bench.py", "--one", adapter, trace, page, "small"]
        told = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True
        )
        return 1 / float(json.loads(told.stdout.splitlines()[-1])["req_s"])

    ours = f"{HERE / 'peers_adapter.py'}:Ours"
    for trace in ("few_shot", "chat", "tot"):
        for peer in peers:
            what = f"control plane, {trace}, page 16"
            try:
                ratios = in_turn(
                    lambda t=trace: seconds(ours, t, "16"),
                    lambda t=trace, p=peer: seconds(p, t, "16"),
                    runs,
                )
            except subprocess.CalledProcessError as error:
                last = (error.stderr.strip().splitlines() or ["no message"])[-1]
                yield Row(what, peer, [], last)
            else:
                yield Row(what, peer, ratios)


# ── Workloads end to end ─────────────────────────────────────────────────────────────


class EndToEnd:
    """Several ways to answer the same requests; each returns its seconds.

    Requests that wait for others come in rounds. Answers are greedy and full length.
    """

    def __init__(self) -> None:
        self.loaded = load_model()
        self.model = self.loaded.model
        self.model.generation_config = GenerationConfig()  # no end token

    def workloads(self) -> dict[str, Workload]:
        words = Words(self.loaded.tokenizer.encode)
        return {
            "few-shot": few_shot(words, n=8),
            "chat, short answers": chat_with_short_answers(words, n=2),
            "self-consistency": self_consistency(words, n=1),
        }

    def ours(self, rounds: list[Workload]) -> None:
        model = RadixAttentionModel(self.model, self.loaded.tokenizer, n_pages=512)
        scheduler = Scheduler(model)
        for workload in rounds:
            asked = [
                scheduler.submit(list(r.prompt), r.max_new_tokens) for r in workload
            ]
            scheduler.run()
            assert all(request.outcome == "finished" for request in asked)

    def one_by_one(self, rounds: list[Workload]) -> None:
        for workload in rounds:
            for request in workload:
                self._generate([list(request.prompt)], request.max_new_tokens)

    def padded(self, rounds: list[Workload]) -> None:
        for workload in rounds:
            most = max(request.max_new_tokens for request in workload)
            self._generate([list(request.prompt) for request in workload], most)

    def copied(self, rounds: list[Workload]) -> None:
        """What all have in common is computed once, and its cache copied by hand."""
        prompts = [list(request.prompt) for workload in rounds for request in workload]
        columns = zip(*prompts, strict=False)
        differs = (i for i, column in enumerate(columns) if len(set(column)) > 1)
        n_common = next(differs, min(map(len, prompts)) - 1)
        cache = DynamicCache(config=self.model.config)
        with torch.inference_mode():
            self.model(torch.tensor([prompts[0][:n_common]]), past_key_values=cache)
        for workload in rounds:
            for request in workload:
                self._generate(
                    [list(request.prompt)],
                    request.max_new_tokens,
                    past_key_values=copy.deepcopy(cache),
                )

    def continuous(self, rounds: list[Workload]) -> None:
        config = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
        for workload in rounds:
            config.max_new_tokens = max(request.max_new_tokens for request in workload)
            prompts = [list(request.prompt) for request in workload]
            other = load_model().model  # it puts another attention into the model
            other.generate_batch(prompts, generation_config=config, progress_bar=False)

    def _generate(self, prompts: list[list[int]], n_new: int, **options: Any) -> None:
        longest = max(map(len, prompts))
        pad = [longest - len(tokens) for tokens in prompts]
        ids = [[0] * n + tokens for n, tokens in zip(pad, prompts, strict=True)]
        mask = [[0] * n + [1] * (longest - n) for n in pad]
        self.model.generate(
            torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            max_new_tokens=n_new,
            do_sample=False,
            pad_token_id=0,
            **options,
        )


def rounds_of(workload: Workload) -> list[Workload]:
    """Those who wait for nobody, then those who wait for these, and so on."""
    depth: list[int] = []
    rounds: list[Workload] = []
    for request in workload:
        depth.append(0 if request.after is None else depth[request.after] + 1)
        if depth[-1] == len(rounds):
            rounds.append([])
        rounds[depth[-1]].append(request)
    return rounds


def workloads(runs: int) -> Rows:
    """Three workloads, beside four ways of transformers to answer them."""
    bench = EndToEnd()
    peers = {
        "generate, one by one": bench.one_by_one,
        "generate, padded batches": bench.padded,
        "DynamicCache, copied": bench.copied,
        "generate_batch": bench.continuous,
    }
    for name, workload in bench.workloads().items():
        rounds = rounds_of(workload)
        for peer, answer in peers.items():
            n = runs
            if answer == bench.continuous:
                if name != "few-shot":
                    continue  # it takes a minute
                n = 1
            try:
                ratios = in_turn(
                    lambda r=rounds: timed(lambda: bench.ours(r)),
                    lambda r=rounds, a=answer: timed(lambda: a(r)),
                    n,
                )
            except Exception as error:  # a peer that cannot is no reason to stop
                yield Row(name, peer, [], f"{type(error).__name__}: {error}"[:80])
            else:
                yield Row(name, peer, ratios)


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


# ── What the cache costs where nothing is shared ─────────────────────────────────────


def overhead(runs: int) -> Rows:
    """The control plane's time ÷ that of the model, on prompts that share nothing."""
    loaded = load_model()
    model = RadixAttentionModel(loaded.model, loaded.tokenizer, n_pages=512)
    strangers = nothing_shared(Words(loaded.tokenizer.encode))
    n_tokens = len(strangers[0].prompt)
    shares = []
    for _ in range(runs):
        router = TokenTime(n_pages=64).router  # always full

        def lives(router: Any = router) -> None:
            for request in strangers:
                lease = router.admit(request.prompt)
                lease.advance(lease.n_tokens)
                router.finish(lease)

        a_life = timed(lives) / len(strangers)
        shares.append(a_life / measure(model, 0, n_tokens, n_runs=1).seconds)
    yield Row(
        "overhead, nothing shared", "the model's prefill", shares, "ours ÷ theirs"
    )


# ── The benches of single modules ────────────────────────────────────────────────────


def of_modules(runs: int) -> Rows:
    """The benches of executor and scheduler print tables of their own."""
    # Continuous batching takes a minute on a CPU: once, and of few requests.
    settings = {
        "bench_executor": ["--runs", str(runs)],
        "bench_scheduler": ["--runs", "1", "--requests", "4"],
    }
    for name, options in settings.items():
        path = HERE / f"{name}.py"
        if not path.exists():
            yield Row(name, "", [], "is not in this folder")
            continue
        command = [sys.executable, str(path), *options]
        if torch.get_num_threads() == 1:
            command += ["--threads", "1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            yield Row(name, "", [], last)
        for line in done.stdout.splitlines():
            yield Row(name, "", [], f"told: {line}")


PARTS = {
    "control plane": control_plane,
    "overhead": overhead,
    "workloads": workloads,
    "modules": of_modules,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--threads", type=int, help="of torch; as they come if left out"
    )
    parser.add_argument("--only", choices=PARTS, help="one part")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} "
        f"threads, Python {platform.python_version()}, torch {torch.__version__}"
    )
    rows: list[Row] = []
    parts = [options.only] if options.only else list(PARTS)
    bar = tqdm(parts, unit="part")
    for part in bar:
        bar.set_description(part)
        for row in PARTS[part](options.runs):
            rows.append(row)
            tqdm.write(row.note[6:] if row.note.startswith("told: ") else str(row))
    out = ROOT / "build" / "bench.json"
    out.parent.mkdir(exist_ok=True)
    found = {"machine": machine, "rows": [row._asdict() for row in rows]}
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{machine}\n{out.relative_to(ROOT)} has the same. Ratios are theirs ÷ ours.")


if __name__ == "__main__":
    main()
