"""How fast the scheduler is beside transformers' ways to answer sixteen requests.

    python tests/tools/benchmarks/bench_scheduler.py [--runs 3] [--threads 1]
                                                     [--requests 16] [--exact]

Ours answers all requests through one scheduler and an empty cache. Theirs is `generate`
one by one, `generate` on one left-padded batch, and continuous batching (which
`generate_batch` runs), each request with its own number of new tokens where the way
allows it. The sides take turns in one process; a ratio is the median over neighbouring
runs. Every answer is greedy and runs to its full length.

The last row is no comparison: thousands of requests in token time, which is what the
scheduler itself costs.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from radix_lib import (
    RadixAttentionModel,
    Scheduler,
    TokenTime,
    batch_invariant,
    load_model,
)
from radix_lib.token_time import Arrival, play

PAGE_SIZE = 16


class Asked(NamedTuple):
    """A request: its tokens, and how many are to come."""

    tokens: list[int]
    new: int


def few_shot(n: int, rng: random.Random) -> list[Asked]:
    """512 tokens that all share, 32 of each one's own, 16 new ones."""
    shared = some_tokens(512, rng)
    return [Asked(shared + some_tokens(32, rng), 16) for _ in range(n)]


def mixed(n: int, rng: random.Random) -> list[Asked]:
    """16 to 400 tokens, 4 to 48 new ones; nothing is shared."""
    return [
        Asked(some_tokens(rng.randint(16, 400), rng), rng.randint(4, 48))
        for _ in range(n)
    ]


def some_tokens(n: int, rng: random.Random) -> list[int]:
    return [rng.randrange(100, 40_000) for _ in range(n)]


class Bench:
    def __init__(self, runs: int):
        self.runs = runs
        self.ours = load_model()
        # Continuous batching puts another attention into the model.
        self.theirs = load_model().model
        for model in (self.ours.model, self.theirs):
            model.generation_config = GenerationConfig()  # no end token

    def scheduler(self, asked: list[Asked]) -> int:
        """Ours; the pool is made before the clock starts. Returns tokens answered."""
        model = RadixAttentionModel(
            self.ours.model, self.ours.tokenizer, page_size=PAGE_SIZE, n_pages=1_024
        )
        scheduler = Scheduler(model)
        requests = [scheduler.submit(tokens, new) for tokens, new in asked]
        scheduler.run()
        return sum(request.n_output for request in requests)

    def one_by_one(self, asked: list[Asked]) -> int:
        return sum(
            self.generated([tokens], new).shape[1] - len(tokens)
            for tokens, new in asked
        )

    def padded(self, asked: list[Asked]) -> int:
        """One batch, as long as its longest prompt and its longest answer."""
        out = self.generated([x.tokens for x in asked], max(x.new for x in asked))
        assert len(out) == len(asked)
        return sum(x.new for x in asked)

    def generated(self, prompts: list[list[int]], new: int) -> torch.Tensor:
        longest = max(map(len, prompts))
        pad = [longest - len(tokens) for tokens in prompts]
        rows = zip(pad, prompts, strict=True)
        ids = torch.tensor([[0] * n + tokens for n, tokens in rows])
        mask = torch.tensor([[0] * n + [1] * (longest - n) for n in pad])
        out: torch.Tensor = self.theirs.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )
        return out

    def continuous(self, asked: list[Asked]) -> int:
        config = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
        n_tokens = 0
        with (
            torch.no_grad(),
            self.theirs.continuous_batching_context_manager(
                generation_config=config, block=True, timeout=5
            ) as manager,
        ):
            for tokens, new in asked:
                manager.add_request(tokens, max_new_tokens=new)
            n_left = len(asked)
            while n_left:
                result = manager.get_result(timeout=1)
                if result and result.is_finished():
                    n_tokens += len(result.generated_tokens)
                    n_left -= 1
                elif result is None and not manager.is_running():
                    raise RuntimeError("continuous batching stopped")
        return n_tokens

    def compare(self, what: str, asked: list[Asked], exact: bool) -> None:
        """Run all sides in turn and print a row for each of theirs."""

        def ours() -> int:
            if not exact:
                return self.scheduler(asked)
            with batch_invariant():
                return self.scheduler(asked)

        sides: dict[str, Callable[[list[Asked]], int]] = {
            "generate, one by one": self.one_by_one,
            "generate, padded batch": self.padded,
            "continuous batching": self.continuous,
        }
        due = sum(x.new for x in asked)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for _ in range(self.runs):
            mine = timed(ours, due)
            for name, side in sides.items():
                times[name].append((mine, timed(lambda s=side: s(asked), due)))
        for name, pairs in times.items():
            ratio = median(theirs / mine for mine, theirs in pairs)
            print(
                f"{what:24}{name:24}{median(mine for mine, _ in pairs):9.2f}"
                f"{median(theirs for _, theirs in pairs):11.2f}{ratio:9.2f}",
                flush=True,
            )


def timed(call: Callable[[], int], due: int) -> float:
    """The seconds of a call that answers `due` tokens."""
    began = time.perf_counter()
    answered = call()
    seconds = time.perf_counter() - began
    assert answered == due, f"{answered} tokens, not {due}"
    return seconds


def token_time(n_requests: int) -> None:
    """Thousands of requests that share prefixes, on 20,000 pages."""
    rng = random.Random(0)
    shared = [some_tokens(512, rng) for _ in range(64)]
    arrivals = []
    now = 0.0
    for _ in range(n_requests):
        now += rng.expovariate(1 / 6)
        prefix = shared[int(rng.paretovariate(1)) % len(shared)]
        tokens = prefix + some_tokens(rng.randrange(16, 128), rng)
        arrivals.append(Arrival(now, tokens, rng.randrange(16, 64)))
    model: Any = TokenTime(20_000, PAGE_SIZE)
    scheduler = Scheduler(model, token_budget=2_048, max_running=256)
    began = time.process_time()
    requests = play(scheduler, arrivals)
    seconds = time.process_time() - began
    cached = sum(request.n_cached for request in requests)
    share = cached / sum(request.n_prompt for request in requests)
    print(
        f"{n_requests:,} requests in token time: {seconds:.1f} s of CPU, "
        f"{scheduler.n_steps:,} steps, {share:.0%} of the prompts cached"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--simulated", type=int, default=10_000)
    parser.add_argument(
        "--exact", action="store_true", help="ours in batch-invariant arithmetic"
    )
    parser.add_argument(
        "--threads", type=int, help="of torch; as they come if left out"
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    arithmetic = "exact" if options.exact else "ordinary"
    print(
        f"{torch.get_num_threads()} threads, {options.runs} runs, medians; ours in "
        f"{arithmetic} arithmetic"
    )
    print(f"{'':48}{'ours s':>9}{'theirs s':>11}{'theirs / ours':>15}")
    bench = Bench(options.runs)
    rng = random.Random(0)
    n = options.requests
    bench.compare(f"{n} few-shot requests", few_shot(n, rng), options.exact)
    bench.compare(f"{n} mixed requests", mixed(n, rng), options.exact)
    token_time(options.simulated)


if __name__ == "__main__":
    main()
