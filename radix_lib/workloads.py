"""Chapter 09: workloads. Made traffic, when it comes, and what is worth counting.

A workload is a list of arrivals, made of the words of `assets/` by a generator with a
seed, the same on every machine. Answers are given too, so that a second turn can hold
the first one's: each request brings the `answer` that its server is to give.

    make a workload ── say when its requests come ── play it ── count

Left out here: recorded traffic (`traces`). Sources: the paper's list of workloads
(arXiv 2312.07104, §6.1); SGLang 0.5.23, `bench_serving.py` (groups that share a prompt,
drawn by Zipf's law; several turns with time to think).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from radix_lib.radix_tree import whole_number
from radix_lib.request import Request
from radix_lib.router import Router
from radix_lib.texts import read_asset
from radix_lib.token_time import Arrival

Tokens = list[int]
Workload = list[Arrival]


class Words:
    """Passages of the texts in `assets/`, as tokens, from places drawn by lot.

    `encode` is a tokenizer's: text in, token ids out.
    """

    def __init__(self, encode: Callable[[str], Sequence[int]], seed: int = 0):
        texts = [
            text for each in read_asset("workloads").values() for text in _leaves(each)
        ]
        words = " ".join(texts).split()
        self.tokens = [list(encode(f" {word}")) for word in words]
        self.random = random.Random(seed)

    def passage(self, n_tokens: int) -> Tokens:
        """`n_tokens` tokens of running text, from a place that was drawn by lot."""
        return self._from(self.random.randrange(len(self.tokens)), n_tokens)

    def passages(self, n: int, n_tokens: int) -> list[Tokens]:
        """`n` passages, from different places."""
        if n > len(self.tokens):
            raise ValueError(f"{n} passages: there are {len(self.tokens)} places")
        places = self.random.sample(range(len(self.tokens)), n)
        return [self._from(place, n_tokens) for place in places]

    def _from(self, at: int, n_tokens: int) -> Tokens:
        passage: Tokens = []
        while len(passage) < n_tokens:
            passage += self.tokens[at % len(self.tokens)]
            at += 1
        return passage[:n_tokens]


def _leaves(value: object) -> list[str]:
    """Every text in what a JSON file holds."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return [leaf for part in parts for leaf in _leaves(part)]  # type: ignore[attr-defined]


def ask(prompt: Tokens, answer: Tokens, after: int | None = None) -> Arrival:
    """A request at time 0, or as soon as number `after` of its workload is over."""
    return Arrival(0.0, prompt, len(answer), {"answer": answer}, after)


# ── The paper's list ─────────────────────────────────────────────────────────────────


def few_shot(words: Words, n: int = 64) -> Workload:
    """Messages to be sorted: the same examples before each."""
    examples = words.passage(512)
    return [ask(examples + words.passage(32), words.passage(4)) for _ in range(n)]


def chat_with_short_answers(words: Words, n: int = 16) -> Workload:
    """Dialogues of four turns under one system prompt, 16 tokens an answer."""
    return _chats(words, n, n_answer=16)


def chat_with_long_answers(words: Words, n: int = 16) -> Workload:
    """The same dialogues, 256 tokens an answer: decoding is most of the work."""
    return _chats(words, n, n_answer=256)


def _chats(words: Words, n: int, n_answer: int) -> Workload:
    system = words.passage(128)
    workload: Workload = []
    for _ in range(n):
        _add_turns(workload, words, system, n_turns=4, n_user=48, n_answer=n_answer)
    return workload


def _add_turns(
    workload: Workload,
    words: Words,
    said: Tokens,
    n_turns: int,
    n_user: int,
    n_answer: int,
) -> None:
    """A dialogue: each turn holds all that was said, and waits for the one before."""
    after = None
    for _ in range(n_turns):
        said = said + words.passage(n_user)
        answer = words.passage(n_answer)
        workload.append(ask(said, answer, after))
        after = len(workload) - 1
        said = said + answer


def tree_of_thought(words: Words, n: int = 8) -> Workload:
    """Questions whose thoughts branch in three, twice: 13 requests a question."""
    workload: Workload = []
    instructions = words.passage(128)
    for _ in range(n):
        question = instructions + words.passage(64)
        open_ends: list[tuple[Tokens, int | None]] = [(question, None)]
        for n_branches in (3, 3, 0):
            next_ends: list[tuple[Tokens, int | None]] = []
            for thought, after in open_ends:
                answer = words.passage(32)
                workload.append(ask(thought, answer, after))
                number = len(workload) - 1
                next_ends += [
                    (thought + answer + words.passage(8), number)
                    for _ in range(n_branches)
                ]
            open_ends = next_ends
    return workload


def self_consistency(words: Words, n: int = 16) -> Workload:
    """Each question is asked eight times, and answered in eight ways."""
    examples = words.passage(256)
    questions = [examples + words.passage(64) for _ in range(n)]
    return [
        ask(question, words.passage(64)) for question in questions for _ in range(8)
    ]


def agent(words: Words, n: int = 12) -> Workload:
    """Tasks in six steps: after each action, what a tool gave back is added."""
    workload: Workload = []
    tools = words.passage(400)
    for _ in range(n):
        task = tools + words.passage(64)
        _add_turns(workload, words, task, n_turns=6, n_user=96, n_answer=24)
    return workload


def judge(words: Words, n: int = 12) -> Workload:
    """An essay is judged in five respects at once; then the judgements are summed.

    An arrival waits for one other at most: the sum waits for the fifth.
    """
    workload: Workload = []
    instructions = words.passage(96)
    respects = words.passages(5, 24)
    for _ in range(n):
        essay = instructions + words.passage(384)
        answers = words.passages(5, 48)
        for respect, answer in zip(respects, answers, strict=True):
            workload.append(ask(essay + respect, answer))
        said = [token for answer in answers for token in answer]
        summary = ask(essay + said, words.passage(64), after=len(workload) - 1)
        workload.append(summary)
    return workload


def retrieval(words: Words, n: int = 48) -> Workload:
    """Questions on four of twelve documents, which come in any order."""
    instructions = words.passage(64)
    documents = words.passages(12, 128)
    workload: Workload = []
    for _ in range(n):
        found = words.random.sample(documents, 4)
        context = [token for document in found for token in document]
        question = words.passage(24)
        workload.append(ask(instructions + context + question, words.passage(32)))
    return workload


def nothing_shared(words: Words, n: int = 64) -> Workload:
    """Prompts from places of their own, which have hardly anything in common."""
    prompts = words.passages(n, 384)
    return [ask(prompt, words.passage(32)) for prompt in prompts]


# ── Two shapes of serving benchmarks ─────────────────────────────────────────────────


def shared_prefixes(words: Words, n: int = 128, skew: float = 1.0) -> Workload:
    """16 groups, each with a system prompt of its own; some groups are asked often.

    The k-th group is asked in proportion to 1 / k ** `skew` (Zipf's law).
    """
    systems = words.passages(16, 512)
    weights = [1 / k**skew for k in range(1, len(systems) + 1)]
    drawn = words.random.choices(systems, weights, k=n)
    return [ask(system + words.passage(64), words.passage(32)) for system in drawn]


def turns_with_pauses(words: Words, n: int = 16) -> Workload:
    """Dialogues whose users think before they go on, a few thousand ticks a time."""
    return [
        request._replace(time=words.random.expovariate(1 / 3000))
        if request.after is not None
        else request
        for request in chat_with_short_answers(words, n)
    ]


WORKLOADS: dict[str, Callable[[Words], Workload]] = {
    "few-shot": few_shot,
    "chat, short answers": chat_with_short_answers,
    "chat, long answers": chat_with_long_answers,
    "tree of thought": tree_of_thought,
    "self-consistency": self_consistency,
    "agent with tools": agent,
    "judge with branches": judge,
    "retrieval, shuffled": retrieval,
    "nothing shared": nothing_shared,
    "shared prefixes, by Zipf": shared_prefixes,
    "turns with pauses": turns_with_pauses,
}


# ── When requests come ───────────────────────────────────────────────────────────────


def closed_loop(workload: Workload, n_users: int) -> Workload:
    """`n_users` at once: each asks the next thing when the last one is answered.

    What waits for one another, a dialogue or a question with its branches, is one
    user's; judgements of one essay wait for nothing, and are as many users'.
    """
    n_users = whole_number(n_users, "n_users", least=1)
    last_of: list[int] = []  # session → the number of its last request
    session_of: list[int] = []
    for number, request in enumerate(workload):
        if request.after is None:
            last_of.append(number)
            session_of.append(len(last_of) - 1)
        else:
            session_of.append(session_of[request.after])
            last_of[session_of[number]] = number
    return [
        request._replace(after=last_of[session_of[number] - n_users])
        if request.after is None and session_of[number] >= n_users
        else request
        for number, request in enumerate(workload)
    ]


def poisson(workload: Workload, gap: float, seed: int = 0) -> Workload:
    """Independent users: `gap` ticks from one to the next in the mean, by lot."""
    rng = random.Random(seed)
    rate = 1 / _checked_gap(gap)
    return _at_times(workload, lambda _: rng.expovariate(rate))


def bursts(workload: Workload, size: int, gap: float) -> Workload:
    """`size` at one moment, then nobody for `gap` ticks."""
    size = whole_number(size, "size", least=1)
    gap = _checked_gap(gap)
    return _at_times(
        workload, lambda number: gap if number and not number % size else 0
    )


def _checked_gap(gap: float) -> float:
    if not 0 < gap < math.inf:
        raise ValueError(f"gap is a number of ticks above 0, not {gap!r}")
    return gap


def _at_times(workload: Workload, wait: Callable[[int], float]) -> Workload:
    """Whoever waits for nobody comes so many ticks after the one before."""
    now = 0.0
    n_starts = 0
    timed = []
    for request in workload:
        if request.after is None:
            now += wait(n_starts)
            n_starts += 1
            request = request._replace(time=now)
        timed.append(request)
    return timed


# ── Numbers that mean something ──────────────────────────────────────────────────────


class Spread(NamedTuple):
    """The median of something, and how much worse it gets for a few."""

    median: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of some values; all 0 if there is none."""
        if not values:
            return cls(0.0, 0.0, 0.0)
        return cls(*(float(np.percentile(values, q)) for q in (50, 90, 99)))


@dataclass(frozen=True)
class Report:
    """What came of requests that were played. Times are in the model's ticks.

    Each rate says of what it is a share.
    """

    n_requests: int
    n_prompt_tokens: int
    n_cached_tokens: int  # of the prompts, found when a request was first admitted
    n_requests_with_hits: int
    n_output_tokens: int
    n_retractions: int
    first_token: Spread  # from submission to the first token of the answer
    per_token: Spread  # from then on, a token
    elapsed: float

    @property
    def hit_rate(self) -> float:
        """Tokens of prompts found in the cache ÷ tokens of prompts."""
        return _share(self.n_cached_tokens, self.n_prompt_tokens)

    @property
    def saved(self) -> float:
        """Tokens found ÷ all tokens that a server without a cache computes."""
        return _share(self.n_cached_tokens, self.n_prompt_tokens + self.n_output_tokens)

    @property
    def requests_hit(self) -> float:
        """Requests of which anything was found ÷ requests."""
        return _share(self.n_requests_with_hits, self.n_requests)

    @property
    def throughput(self) -> float:
        """Tokens of answers a tick."""
        return _share(self.n_output_tokens, self.elapsed)


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def report(requests: Sequence[Request]) -> Report:
    """Count what came of some requests, all of which are finished."""
    unfinished = [r.number for r in requests if r.outcome != "finished"]
    if unfinished:
        raise ValueError(f"requests {unfinished} are not finished: count the others")
    began = min((r.submitted_at for r in requests), default=0.0)
    ended = max((_end_of(r) for r in requests), default=0.0)
    return Report(
        n_requests=len(requests),
        n_prompt_tokens=sum(r.n_prompt for r in requests),
        n_cached_tokens=sum(r.n_cached for r in requests),
        n_requests_with_hits=sum(r.n_cached > 0 for r in requests),
        n_output_tokens=sum(r.n_output for r in requests),
        n_retractions=sum(r.n_retractions for r in requests),
        first_token=Spread.of([seconds_to_first(r) for r in requests]),
        per_token=Spread.of([seconds_a_token(r) for r in requests if r.n_output > 1]),
        elapsed=ended - began,
    )


def seconds_to_first(request: Request) -> float:
    """From submission to the first token of the answer."""
    assert request.first_token_at is not None
    waited: float = request.first_token_at - request.submitted_at
    return waited


def seconds_a_token(request: Request) -> float:
    """From the first token of the answer to the last, divided by the steps between."""
    assert request.first_token_at is not None
    return (_end_of(request) - request.first_token_at) / (request.n_output - 1)


def _end_of(request: Request) -> float:
    assert request.ended_at is not None
    return request.ended_at


def goodput(requests: Sequence[Request], first_token: float, per_token: float) -> float:
    """Requests a tick that kept both objectives: the most each may take.

    Raises ValueError, as `report` does, if one is not finished.
    """
    elapsed = report(requests).elapsed
    good = [
        r
        for r in requests
        if seconds_to_first(r) <= first_token
        and (r.n_output < 2 or seconds_a_token(r) <= per_token)
    ]
    return _share(len(good), elapsed)


def memory_shared(router: Router) -> float:
    """Of the pages that live requests hold, the share that others hold as well.

    1 − distinct pages ÷ entries of all page tables: what sharing saves just now.
    """
    tables = [lease.page_table for lease in router.leases]
    if not tables:
        return 0.0
    entries = np.concatenate(tables)
    return 1 - _share(len(np.unique(entries)), len(entries))
