"""How fast the executor is beside Hugging Face's own forward, on the default model.

    python tests/benchmarks/bench_executor.py [--runs 12] [--threads N]

Ratios only: the two sides take turns in one process, and each row is the median of the ratios of
neighbouring runs. Ours is timed from token ids to logits, through the public calls: admission,
matching, eviction, page tables, commit. Hugging Face's side is its forward alone, on a
`DynamicCache` that is ready; what brings the cache back to its former length is not timed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from radix_lib import RadixAttentionModel, load_model

PAGE_SIZE = 16


class Row(NamedTuple):
    what: str
    ours: float  # seconds, median
    theirs: float
    ratio: float  # median of neighbours' ratios, as `meaning` says
    meaning: str
    target: str


def alternate(
    ours: Callable[[], float], theirs: Callable[[], float], runs: int
) -> list[tuple[float, float]]:
    """Run the two in turn; each gives back the seconds that it wants counted."""
    ours(), theirs()  # warm up
    return [(ours(), theirs()) for _ in range(runs)]


def timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def row(what: str, pairs: list[tuple[float, float]], theirs_on_top: bool, target: str) -> Row:
    ratios = [b / a if theirs_on_top else a / b for a, b in pairs]
    return Row(
        what,
        median(a for a, _ in pairs),
        median(b for _, b in pairs),
        median(ratios),
        "theirs / ours" if theirs_on_top else "ours / theirs",
        target,
    )


class Bench:
    def __init__(self, runs: int):
        self.runs = runs
        self.loaded = load_model()
        self.hf = self.loaded.model
        self.random = torch.Generator().manual_seed(0)

    def tokens(self, n: int) -> list[int]:
        return torch.randint(100, 40_000, (n,), generator=self.random).tolist()

    def model(self, n_pages: int = 512) -> RadixAttentionModel:
        return RadixAttentionModel(
            self.hf, self.loaded.tokenizer, page_size=PAGE_SIZE, n_pages=n_pages
        )

    def cold_against_hit(self, total: int, cached: int) -> Row:
        """Time to first token with and without the cache: a namespace of its own is cold."""
        model, prefix, fresh = self.model(), self.tokens(cached), count()
        model.router.cancel(model.prefill(prefix)[0])

        def prefill(namespace: Any) -> float:
            prompt, held = prefix + self.tokens(total - cached), []
            seconds = timed(lambda: held.append(model.prefill(prompt, namespace=namespace)))
            [(lease, _)] = held
            assert lease.n_cached == (cached if namespace is None else 0)
            model.router.cancel(lease)
            return seconds

        pairs = alternate(lambda: prefill(None), lambda: prefill(next(fresh)), self.runs)
        return row(f"first token, {cached} of {total} cached", pairs, True, "≥ 8 (hit, cold)")

    def suffix(self, cached: int, new: int) -> Row:
        """Skipping efficiency: the same suffix on a prefix that is ready on both sides."""
        model, prefix = self.model(), self.tokens(cached)
        model.router.cancel(model.prefill(prefix)[0])
        cache = self.dynamic_cache([prefix])

        def ours() -> float:
            prompt, held = prefix + self.tokens(new), []
            seconds = timed(lambda: held.append(model.prefill(prompt)))
            [(lease, _)] = held
            assert lease.n_cached == cached
            model.router.cancel(lease)
            return seconds

        def theirs() -> float:
            ids = torch.tensor([self.tokens(new)])
            seconds = timed(lambda: self.hf_forward(ids, cache))
            cache.crop(-new)
            return seconds

        return row(f"suffix, {new} on {cached}", alternate(ours, theirs, self.runs), True, "≥ 0.95")

    def decode(self, n_sequences: int, length: int) -> Row:
        """One step of decoding; both sides grow by a token a run, from equal lengths."""
        room = self.runs + 2
        n_pages = n_sequences * -(-(length + room) // PAGE_SIZE)
        model = self.model(n_pages)
        prompts = [self.tokens(length) for _ in range(n_sequences)]
        leases = [model.prefill(prompt, max_new_tokens=room)[0] for prompt in prompts]
        cache = self.dynamic_cache(prompts)
        steps = [self.tokens(n_sequences) for _ in range(room)]
        mine, other = iter(steps), iter(steps)

        def ours() -> float:
            tokens = next(mine)
            return timed(lambda: model.decode_step(leases, tokens))

        def theirs() -> float:
            ids = torch.tensor(next(other))[:, None]
            return timed(lambda: self.hf_forward(ids, cache))

        return row(
            f"decode, {n_sequences} × {length}",
            alternate(ours, theirs, self.runs),
            False,
            "≤ 1.05",
        )

    def dynamic_cache(self, prompts: list[list[int]]) -> DynamicCache:
        cache = DynamicCache(config=self.hf.config)
        self.hf_forward(torch.tensor(prompts), cache)
        return cache

    @torch.inference_mode()
    def hf_forward(self, ids: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        return self.hf(input_ids=ids, past_key_values=cache, logits_to_keep=1).logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--threads", type=int, help="torch threads; as they come if left out")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    bench = Bench(options.runs)
    rows: list[tuple[str, Callable[[], Row]]] = [
        ("first", lambda: bench.cold_against_hit(1024, 960)),
        ("suffix 64", lambda: bench.suffix(960, 64)),
        ("suffix 32", lambda: bench.suffix(512, 32)),
        *((f"decode {n}", lambda n=n: bench.decode(n, 300)) for n in (1, 8, 32)),
    ]
    print(f"{torch.get_num_threads()} threads, {options.runs} runs, medians, page size {PAGE_SIZE}")
    print(f"{'':32}{'ours ms':>9}{'theirs ms':>11}{'ratio':>8}  {'what':15}target")
    for name, make in rows:
        if options.only in name:
            r = make()
            times = f"{r.ours * 1e3:9.1f}{r.theirs * 1e3:11.1f}{r.ratio:8.3f}"
            print(f"{r.what:32}{times}  {r.meaning:15}{r.target}", flush=True)


if __name__ == "__main__":
    main()
