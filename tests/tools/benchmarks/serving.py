"""Whole workloads: ours through the scheduler, beside transformers' ways to answer.

Requests that wait for others come in rounds. Answers are greedy and run to their full
length; each request has its own where the way allows it.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from radix_lib import (
    RadixAttentionModel,
    Scheduler,
    TokenTime,
    batch_invariant,
    load_model,
)
from radix_lib.token_time import Arrival, play
from radix_lib.workloads import (
    Words,
    Workload,
    chat_with_short_answers,
    few_shot,
    nothing_shared,
)
from tests.tools.benchmarks.forward import Arithmetic, sides, timed
from tests.tools.benchmarks.rows import (
    EXACT,
    OVERHEAD,
    SCHEDULER,
    WORKLOADS,
    Measurement,
    Row,
    in_turn,
    row,
)

FEW_SHOT = "16 few-shot requests"
CHAT = "2 chats of 4 turns"
MIXED = "16 mixed requests"

ONE_BY_ONE = "generate, one by one"
PADDED = "generate, padded batch"
COPIED = "DynamicCache, copied"
CONTINUOUS = "continuous batching"


def workload(name: str, words: Words) -> Workload:
    """The requests of a name: token ids, and how many are to come."""
    if name == CHAT:
        return chat_with_short_answers(words, n=2)
    if name == FEW_SHOT:
        return [request._replace(max_new_tokens=16) for request in few_shot(words, 16)]
    lengths = random.Random(0)
    return [
        Arrival(0.0, words.passage(lengths.randint(16, 400)), lengths.randint(4, 24))
        for _ in range(16)
    ]


def rounds_of(requests: Workload) -> list[Workload]:
    """Those who wait for nobody, then those who wait for these, and so on."""
    depth: list[int] = []
    rounds: list[Workload] = []
    for request in requests:
        depth.append(0 if request.after is None else depth[request.after] + 1)
        if depth[-1] == len(rounds):
            rounds.append([])
        rounds[depth[-1]].append(request)
    return rounds


def neutral(**options: Any) -> GenerationConfig:
    """How to generate, with no end token but one that is given."""
    return GenerationConfig(**options)  # type: ignore[no-untyped-call]


class Serving:
    """Several ways to answer requests; each returns the seconds that it took."""

    def __init__(self) -> None:
        self.loaded = sides().loaded
        self.model: Any = self.loaded.model
        self.model.generation_config = neutral()
        self.words = Words(self.loaded.tokenizer.encode)

    def ours(self, arithmetic: Arithmetic, rounds: list[Workload]) -> float:
        """Through a scheduler with an empty cache."""
        model = RadixAttentionModel(self.model, self.loaded.tokenizer, n_pages=1024)
        scheduler = Scheduler(model)
        began = time.perf_counter()
        with arithmetic():
            for requests in rounds:
                asked = [
                    scheduler.submit(list(request.prompt), request.max_new_tokens)
                    for request in requests
                ]
                scheduler.run()
                for request in asked:
                    assert request.n_output == request.max_new_tokens
        return time.perf_counter() - began

    def one_by_one(self, rounds: list[Workload]) -> float:
        """`generate` for each request."""
        began = time.perf_counter()
        for requests in rounds:
            for request in requests:
                self._generate([list(request.prompt)], request.max_new_tokens)
        return time.perf_counter() - began

    def padded(self, rounds: list[Workload]) -> float:
        """A batch a round, as long as its longest prompt and its longest answer."""
        began = time.perf_counter()
        for requests in rounds:
            most = max(request.max_new_tokens for request in requests)
            self._generate([list(request.prompt) for request in requests], most)
        return time.perf_counter() - began

    def copied(self, rounds: list[Workload]) -> float:
        """What all have in common is computed once, and its cache copied by hand."""
        prompts = [list(request.prompt) for requests in rounds for request in requests]
        columns = zip(*prompts, strict=False)
        differs = (i for i, column in enumerate(columns) if len(set(column)) > 1)
        n_common = next(differs, min(map(len, prompts)) - 1)
        if not n_common:
            raise ValueError("the prompts have nothing in common")
        began = time.perf_counter()
        past = DynamicCache(config=self.model.config)
        with torch.inference_mode():
            self.model(torch.tensor([prompts[0][:n_common]]), past_key_values=past)
        for requests in rounds:
            for request in requests:
                self._generate(
                    [list(request.prompt)],
                    request.max_new_tokens,
                    past_key_values=copy.deepcopy(past),
                )
        return time.perf_counter() - began

    def _generate(self, prompts: list[list[int]], n_new: int, **options: Any) -> None:
        longest = max(map(len, prompts))
        pad = [longest - len(tokens) for tokens in prompts]
        ids = [[0] * n + tokens for n, tokens in zip(pad, prompts, strict=True)]
        mask = [[0] * n + [1] * (longest - n) for n in pad]
        answered: Tensor = self.model.generate(
            torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            max_new_tokens=n_new,
            do_sample=False,
            pad_token_id=0,
            **options,
        )
        assert answered.shape == (len(prompts), longest + n_new)


@cache
def serving() -> Serving:
    """The ways to answer, on a model that is loaded once."""
    return Serving()


def end_to_end(name: str, target: float | None, runs: int) -> Iterator[Row]:
    """A workload, beside three ways of transformers; the first one exactly, too."""
    ways = serving()
    rounds = rounds_of(workload(name, ways.words))
    ours = {"ours": partial(ways.ours, nullcontext, rounds)}
    if name == FEW_SHOT:
        ours[EXACT] = partial(ways.ours, batch_invariant, rounds)
        ours[EXACT]()  # packs the weights, and tries each shape
    peers = {
        ONE_BY_ONE: partial(ways.one_by_one, rounds),
        PADDED: partial(ways.padded, rounds),
        COPIED: partial(ways.copied, rounds),
    }
    times = in_turn(ours, peers, runs)
    for peer in peers:
        yield row(WORKLOADS, name, peer, times["ours"], times[peer], target)
    if name == FEW_SHOT:
        yield row(EXACT, name, ONE_BY_ONE, times[EXACT], times[ONE_BY_ONE], 8)


def continuous(name: str, runs: int) -> Iterator[Row]:
    """Four requests of a workload, beside what runs inside of `generate_batch`."""
    ways = serving()
    requests = workload(name, ways.words)[:4]
    other: Any = load_model().model  # it puts another attention into its model
    other.generation_config = neutral()
    config = neutral(do_sample=False, eos_token_id=-1, pad_token_id=0)

    def theirs() -> float:
        began = time.perf_counter()
        with (
            torch.no_grad(),
            other.continuous_batching_context_manager(
                generation_config=config, block=True, timeout=5
            ) as manager,
        ):
            for request in requests:
                manager.add_request(
                    list(request.prompt), max_new_tokens=request.max_new_tokens
                )
            n_tokens: list[int] = []  # of each answer
            while len(n_tokens) < len(requests):
                result = manager.get_result(timeout=1)
                if result and result.is_finished():
                    n_tokens.append(len(result.generated_tokens))
                elif result is None and not manager.is_running():
                    raise RuntimeError("it stopped before all were answered")
        seconds = time.perf_counter() - began
        assert sum(n_tokens) == sum(request.max_new_tokens for request in requests)
        return seconds

    times = in_turn(
        {"ours": partial(ways.ours, nullcontext, [requests])},
        {CONTINUOUS: theirs},
        runs,
    )
    what = f"4 of the {name}"
    yield row(SCHEDULER, what, CONTINUOUS, times["ours"], times[CONTINUOUS], 1)


def simulated(runs: int) -> Iterator[Row]:
    """What the scheduler itself costs: 10,000 requests in token time, 20,000 pages."""
    drawn = random.Random(0)

    def some(n: int) -> list[int]:
        return [drawn.randrange(100, 40_000) for _ in range(n)]

    prefixes = [some(512) for _ in range(64)]
    arrivals = []
    now = 0.0
    for _ in range(10_000):
        now += drawn.expovariate(1 / 6)
        prefix = prefixes[int(drawn.paretovariate(1)) % len(prefixes)]
        prompt = prefix + some(drawn.randrange(16, 128))
        arrivals.append(Arrival(now, prompt, drawn.randrange(16, 64)))
    seconds = []
    for _ in range(runs):
        model: Any = TokenTime(20_000)
        scheduler = Scheduler(model, token_budget=2_048, max_running=256)
        began = time.process_time()
        play(scheduler, arrivals)
        seconds.append(time.process_time() - began)
    limit = [10.0] * runs
    what = "10,000 requests in token time"
    yield row(SCHEDULER, what, "a limit of 10 s", seconds, limit, 1)


def overhead(runs: int) -> Iterator[Row]:
    """The control plane of a request that shares nothing, beside its prefill."""
    ways = serving()
    strangers = nothing_shared(ways.words)
    model = RadixAttentionModel(ways.model, ways.loaded.tokenizer, n_pages=64)
    router = TokenTime(n_pages=64).router  # always full

    def lives() -> None:
        for request in strangers:
            lease = router.admit(request.prompt)
            lease.advance(lease.n_tokens)
            router.finish(lease)

    def prefill() -> None:
        lease, _ = model.prefill(list(strangers[0].prompt), namespace=object())
        model.router.cancel(lease)

    lives()
    prefill()
    times = in_turn(
        {"ours": lambda: timed(lives) / len(strangers)},
        {"prefill": lambda: timed(prefill)},
        runs,
    )
    what = "a request of 384 tokens, nothing shared"
    yield row(OVERHEAD, what, "its prefill", times["ours"], times["prefill"], 100)


MEASUREMENTS = [
    Measurement("overhead", (OVERHEAD,), 10, overhead),
    Measurement(
        FEW_SHOT, (*[WORKLOADS] * 3, EXACT), 3, partial(end_to_end, FEW_SHOT, 1)
    ),
    Measurement(MIXED, (WORKLOADS,) * 3, 2, partial(end_to_end, MIXED, 1)),
    Measurement(CHAT, (WORKLOADS,) * 3, 3, partial(end_to_end, CHAT, None)),
    Measurement(CONTINUOUS, (SCHEDULER,), 1, partial(continuous, FEW_SHOT)),
    Measurement(CONTINUOUS, (SCHEDULER,), 1, partial(continuous, MIXED)),
    Measurement("token time", (SCHEDULER,), 1, simulated),
]
