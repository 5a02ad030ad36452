"""Chapter 09: the exercises' checks.

A check takes what the reader wrote and raises AssertionError where it goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from radix_lib.prompt_log import Logged, diagnose
from radix_lib.scheduler import Scheduler
from radix_lib.token_time import TokenTime, play
from radix_lib.trace_files import Recorded
from radix_lib.traces import replay
from radix_lib.workloads import Workload, ask, closed_loop, report

Tokens = list[int]


def shares_the_most(order: Callable[[Tokens, Tokens, Tokens], Tokens]) -> None:
    """Four questions on each of four documents: as much is shared as can be."""
    rules = list(b"You answer questions on one document. ")
    documents = [list(f"Document {i}: {'text ' * 20}".encode()) for i in range(4)]
    questions = [list(f"{letter}, question of a user. ".encode()) for letter in "abcd"]
    prompts = []
    for number in range(16):
        document = documents[number // 4]
        question = questions[number % 4]
        prompt = order(rules, document, question)
        for part in (rules, document, question):
            where = bytes(prompt).find(bytes(part))
            assert where >= 0, f"{bytes(part)[:12]!r}… is not in the prompt"
        prompts.append(prompt)
    shared = _hits([ask(prompt, [0]) for prompt in prompts])
    due = _hits(
        [ask(rules + documents[i // 4] + questions[i % 4], [0]) for i in range(16)]
    )
    assert shared >= due, f"{shared} tokens are found, and {due} could be"


def _hits(workload: Workload) -> int:
    model: Any = TokenTime(n_pages=8192, page_size=1)
    requests = play(Scheduler(model), closed_loop(workload, 1))
    return report(requests).n_cached_tokens


def mru_beats_lru(trace: Sequence[Sequence[int]], n_pages: int = 4) -> None:
    """At most twelve requests of which mru finds at least twice what lru finds."""
    assert len(trace) <= 12, f"{len(trace)} requests are more than 12"
    requests = [Recorded(0.0, len(blocks), 1, list(blocks)) for blocks in trace]
    longest = max(len(blocks) for blocks in trace)
    assert longest <= n_pages, f"a request of {longest} blocks does not fit"
    found = {
        policy: replay(requests, n_pages, policy).hits for policy in ("lru", "mru")
    }
    assert found["mru"] > 0, "mru finds nothing"
    assert found["mru"] >= 2 * found["lru"], (
        f"mru finds {found['mru']}, lru {found['lru']}"
    )


def counts_users(most_users: Callable[[Workload, float], int]) -> None:
    """The most users with whom 9 of 10 answers begin within so many ticks."""
    workload = [ask([i, *range(200)], [7] * 20) for i in range(24)]
    for objective in (400.0, 700.0, 1500.0):
        in_time = [n for n in range(1, 25) if _first_token(workload, n) <= objective]
        due = max(in_time, default=0)
        said = most_users(workload, objective)
        assert said == due, (
            f"within {objective:g} ticks there is room for {due}, not {said}"
        )


def _first_token(workload: Workload, n_users: int) -> float:
    model: Any = TokenTime()
    requests = play(Scheduler(model), closed_loop(workload, n_users))
    return report(requests).first_token.p90


def keeps_its_history(
    render: Callable[[Sequence[tuple[str, str]], str], str],
) -> None:
    """Turns of a dialogue are never rewritten, and the reminder is in each of them."""
    reminder = "(Answer in one sentence.)"
    said: list[tuple[str, str]] = []
    log = []
    for question in ("How late is it open?", "And on Sunday?", "Is there a lift?"):
        prompt = render(said, question)
        answer = f"Answer {len(said)}: it is, as on all other days of this week."
        assert question in prompt, f"{question!r} is not in its prompt"
        behind = prompt[prompt.index(question) :]
        assert reminder in behind, "the reminder does not follow the last question"
        assert all(a in prompt for _, a in said), "an answer was forgotten"
        log.append(Logged(prompt, answer))
        said.append((question, answer))
    for before, after in pairwise(log):
        kept = after.prompt.startswith(before.prompt + before.answer)
        assert kept, "a later turn does not begin with what was said before"


def finds_a_name(without: Callable[[str], str]) -> None:
    """Prompts that begin with a user's name share the rest; others stay as they are."""
    rules = " You are the assistant of a bicycle shop. Be brief and polite."
    names = ("Ada", "Bob", "Ada Lovelace")
    named = [f"User: {name}.{rules}" for name in names]
    plain = [f"{rules} User: {name}." for name in names]
    moved = [without(prompt) for prompt in named]
    for name, after in zip(names, moved, strict=True):
        assert f"User: {name}." in after, f"'User: {name}.' was lost"
        assert rules.strip() in after, f"the rules were lost: {after}"
    n_shared = diagnose(moved).count.n_shared
    assert n_shared >= 2 * 48, f"{n_shared} of their tokens are shared, not 96 or more"
    for prompt in plain:
        assert without(prompt) == prompt, f"{prompt[-20:]!r} needed no change"
