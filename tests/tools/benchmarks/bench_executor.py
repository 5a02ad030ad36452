"""How fast the executor is beside Hugging Face's own forward, on the default model.

    python tests/tools/benchmarks/bench_executor.py [--runs 12] [--threads 1]

Ratios only: the two sides take turns in one process, and a ratio is the median over
neighbouring runs. Ours is timed from token ids to logits, through the public calls:
admission, matching, eviction, page tables, commit. Hugging Face's side is its forward
alone, on a `DynamicCache` that is ready; what brings either side back to its former
length is not timed.

On a machine with other work to do, look at CPU time, and ask for one thread: threads
that wait for each other make the clock, and the CPU time of several, mean little.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from radix_lib import RadixAttentionModel, batch_invariant, load_model

PAGE_SIZE = 16


class Seconds(NamedTuple):
    wall: float
    cpu: float  # of all threads


Side = Callable[[], Seconds]


def timed(call: Callable[[], Any]) -> tuple[Seconds, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu), result


def show(
    what: str, ours: Side, theirs: Side, runs: int, theirs_on_top: bool, target: str
) -> None:
    """Run two sides in turn and print a line of medians."""
    ours(), theirs()  # warm up
    pairs = [(ours(), theirs()) for _ in range(runs)]

    def ratio(clock: str) -> float:
        shares = [getattr(a, clock) / getattr(b, clock) for a, b in pairs]
        return median(1 / share if theirs_on_top else share for share in shares)

    times = [1e3 * median(pair[side].wall for pair in pairs) for side in (0, 1)]
    meaning = "theirs / ours" if theirs_on_top else "ours / theirs"
    print(
        f"{what:32}{times[0]:9.1f}{times[1]:11.1f}{ratio('wall'):8.3f}{ratio('cpu'):8.3f}"
        f"  {meaning}  {target}",
        flush=True,
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

    def prefill(
        self,
        model: RadixAttentionModel,
        prompt: list[int],
        n_cached: int,
        namespace: Any = None,
    ) -> Seconds:
        seconds, (lease, _) = timed(lambda: model.prefill(prompt, namespace=namespace))
        assert lease.n_cached == n_cached
        model.router.cancel(lease)
        return seconds

    def first_token(self, cached: int, new: int) -> None:
        """Time to first token with and without the cache: a namespace of its own is
        cold.
        """
        model, prefix, fresh = self.model(), self.tokens(cached), count()
        self.prefill(model, prefix, 0)
        show(
            f"first token, {cached} of {cached + new} cached",
            lambda: self.prefill(model, prefix + self.tokens(new), cached),
            lambda: self.prefill(model, prefix + self.tokens(new), 0, next(fresh)),
            self.runs,
            True,
            "≥ 8; theirs: ours, cold",
        )

    def suffix(self, cached: int, new: int) -> None:
        """Skipping efficiency: the same suffix on a prefix that is ready on both
        sides.
        """
        model, prefix = self.model(), self.tokens(cached)
        self.prefill(model, prefix, 0)
        cache = self.dynamic_cache([prefix])

        def theirs() -> Seconds:
            ids = self.tokens(new)
            seconds, _ = timed(lambda: self.hf_forward(torch.tensor([ids]), cache))
            cache.crop(-new)
            return seconds

        show(
            f"suffix, {new} on {cached}",
            lambda: self.prefill(model, prefix + self.tokens(new), cached),
            theirs,
            self.runs,
            True,
            "≥ 0.95",
        )

    def decode(self, n_sequences: int, length: int) -> None:
        """One step of decoding; both sides grow by a token a run, from equal
        lengths.
        """
        room = self.runs + 1
        model = self.model(n_sequences * -(-(length + room) // PAGE_SIZE))
        prompts = [self.tokens(length) for _ in range(n_sequences)]
        leases = [model.prefill(prompt, max_new_tokens=room)[0] for prompt in prompts]
        cache = self.dynamic_cache(prompts)

        def ours() -> Seconds:
            tokens = self.tokens(n_sequences)
            return timed(lambda: model.decode_step(leases, tokens))[0]

        def theirs() -> Seconds:
            tokens = self.tokens(n_sequences)
            return timed(lambda: self.hf_forward(torch.tensor(tokens)[:, None], cache))[
                0
            ]

        show(
            f"decode, {n_sequences} × {length}",
            ours,
            theirs,
            self.runs,
            False,
            "≤ 1.05",
        )

    def exact_prefill(self, n_tokens: int) -> None:
        """What batch-invariant arithmetic costs: Hugging Face's forward with it and
        without.
        """
        ids = torch.tensor([self.tokens(n_tokens)])

        def forward() -> Seconds:
            return timed(
                lambda: self.hf_forward(ids, DynamicCache(config=self.hf.config))
            )[0]

        def exact() -> Seconds:
            with batch_invariant():
                return forward()

        what = f"exact prefill, {n_tokens}"
        show(what, exact, forward, self.runs, False, "≤ 2; theirs: standard")

    def exact_decode(self, n_sequences: int, length: int) -> None:
        """The same for our decode step."""
        room = 2 * (self.runs + 1)
        model = self.model(n_sequences * -(-(length + room) // PAGE_SIZE))
        leases = [
            model.prefill(self.tokens(length), max_new_tokens=room)[0]
            for _ in range(n_sequences)
        ]

        def step() -> Seconds:
            tokens = self.tokens(n_sequences)
            return timed(lambda: model.decode_step(leases, tokens))[0]

        def exact() -> Seconds:
            with batch_invariant():
                return step()

        what = f"exact decode, {n_sequences} × {length}"
        show(what, exact, step, self.runs, False, "≤ 2; theirs: standard")

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
    parser.add_argument(
        "--threads", type=int, help="of torch; as they come if left out"
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(
        f"{torch.get_num_threads()} threads, {options.runs} runs, page size {PAGE_SIZE}, medians"
    )
    print(
        f"{'':32}{'ours ms':>9}{'theirs ms':>11}{'ratio':>8}{'of CPU':>8}{'':17}target"
    )
    bench = Bench(options.runs)
    bench.first_token(960, 64)
    bench.suffix(960, 64)
    bench.suffix(512, 32)
    for n_sequences in (1, 8, 32):
        bench.decode(n_sequences, 300)
    bench.exact_prefill(1024)
    for n_sequences in (8, 32):
        bench.exact_decode(n_sequences, 300)


if __name__ == "__main__":
    main()
