"""Chapter 09: a log of prompts. What would they share if one thing were changed?

Five habits of prompts that hide a shared prefix from a cache, each with its remedy. A
habit is blamed for what it costs and for nothing else: the log is counted as it is, and
counted again as it would be without the habit.

Left out here: the cache that served them (`diagnosis`). Memory is unlimited here, and
requests come one by one.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from radix_lib.prompts import refuse_half_characters
from radix_lib.radix_tree import TOKEN_BYTES, RadixTree, pack_tokens, whole_number
from radix_lib.supported_models import ModelError


class Logged(NamedTuple):
    """A request of a log, as text."""

    prompt: str
    answer: str = ""  # whatever the server added to it, if that is known


Log = Sequence[Logged]
Encode = Callable[[str], Sequence[int]]


def read_log(path: str | Path) -> list[Logged]:
    """Read JSON lines: a text each, or an object with `prompt` and maybe `answer`.

    Raises ValueError, which names the line, for one that is neither, and OSError for a
    missing file.
    """
    log = []
    with open(path, "rb") as file:
        for at, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line.decode())
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {at} is not JSON in UTF-8 ({error}): a line is a "
                    'text in quotes, or {"prompt": "…", "answer": "…"}'
                ) from error
            if isinstance(entry, str):
                entry = {"prompt": entry}
            if not isinstance(entry, dict) or not isinstance(entry.get("prompt"), str):
                raise ValueError(
                    f"{path}, line {at} has no text named 'prompt': {str(entry)[:60]}"
                )
            answer = entry.get("answer") or ""
            if not isinstance(answer, str):
                raise ValueError(f"{path}, line {at}: answer is {answer!r}, not a text")
            log.append(Logged(entry["prompt"], answer))
    return log


class Count(NamedTuple):
    """Tokens of prompts: all of them, and those that a cache would have found."""

    n_tokens: int
    n_shared: int

    @property
    def n_computed(self) -> int:
        """Those that it would not have found."""
        return self.n_tokens - self.n_shared


def count(log: Log, encode: Encode, page_size: int) -> Count:
    """Count what a cache of any size would have found of a log.

    Each request is over before the next one comes; the tree has its answer, too, but
    for the last token, whose K/V nobody computed.
    """
    tree = RadixTree(page_size)
    n_tokens = 0
    n_shared = 0
    for request in log:
        key = pack_tokens(list(encode(request.prompt)))
        n_tokens += len(key) // TOKEN_BYTES
        n_shared += len(tree.match(key[:-TOKEN_BYTES]).pages) * page_size
        if request.answer:
            text = request.prompt + request.answer
            key = pack_tokens(list(encode(text)))[:-TOKEN_BYTES]
        tree.insert(key, np.zeros(len(key) // tree.page_bytes, np.int64))
    return Count(n_tokens, n_shared)


# ── Five habits ──────────────────────────────────────────────────────────────────────

_CHANGES_EACH_TIME = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"  # a UUID
    r"|\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"
    r"|\b\d\d?:\d\d(?::\d\d)?\b"  # a time of day
    r"|\b1\d{9}(?:\d{3})?\b",  # seconds or milliseconds since 1970
    re.IGNORECASE,
)


def move_times_to_the_end(log: Log) -> list[Logged]:
    """Dates, times and ids follow the prompt, in the order in which they stood."""
    return [
        Logged(
            _CHANGES_EACH_TIME.sub("", prompt)
            + " ".join(_CHANGES_EACH_TIME.findall(prompt)),
            answer,
        )
        for prompt, answer in log
    ]


def sort_tools(log: Log) -> list[Logged]:
    """Lists of JSON objects, and the fields of these, in order of their names."""
    return [Logged(_with_sorted_lists(prompt), answer) for prompt, answer in log]


def _with_sorted_lists(text: str) -> str:
    decoder = json.JSONDecoder()
    parts = []
    done = 0
    at = text.find("[")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except ValueError:
            end = at + 1
        else:
            if value and all(isinstance(item, dict) for item in value):
                items = sorted(json.dumps(item, sort_keys=True) for item in value)
                parts += [text[done:at], f"[{', '.join(items)}]"]
                done = end
        at = text.find("[", end)
    return "".join([*parts, text[done:]])


def strip_line_ends(log: Log) -> list[Logged]:
    """No space before a line break, and one kind of line break."""
    return [
        Logged(re.sub(r"[ \t\r]+\n", "\n", prompt), answer) for prompt, answer in log
    ]


def begin_once(log: Log) -> list[Logged]:
    """One token that begins a text, where there are several: <s><s>."""
    return [
        Logged(re.sub(r"\A(<[^<>\s]+>)\1+", r"\1", prompt), answer)
        for prompt, answer in log
    ]


BEHIND = 16  # letters


def keep_history(log: Log) -> list[Logged]:
    """A later turn repeats what was said before, where a piece of that was cut out.

    A template that takes the thoughts out of earlier answers does so, or one that puts
    a reminder behind the last message only.
    """
    kept: list[Logged] = []
    said = [prompt + answer for prompt, answer in log]
    for number, (prompt, answer) in enumerate(log):
        for before in range(number - 1, -1, -1):
            n_repeated = _repeats(said[before], prompt)
            if n_repeated:
                prompt = "".join(kept[before]) + prompt[n_repeated:]
                break
        kept.append(Logged(prompt, answer))
    return kept


def _repeats(said: str, prompt: str) -> int:
    """How long the beginning of `prompt` is that repeats `said`, but for one piece.

    0 if it does not: what is behind the missing piece has at least `BEHIND` letters.
    """
    n_common = _n_common(said, prompt)
    if n_common == len(said):
        return n_common
    behind = prompt[n_common : n_common + BEHIND]
    if len(behind) < BEHIND:
        return 0
    at = said.find(behind, n_common + 1)
    while at >= 0:
        if prompt.startswith(said[at:], n_common):
            return n_common + len(said) - at
        at = said.find(behind, at + 1)
    return 0


def _n_common(one: str, two: str) -> int:
    """How many letters two texts have in common at their beginning."""
    low = 0
    high = min(len(one), len(two))
    while low < high:  # `low` letters agree, `high` is the most that can
        middle = (low + high + 1) // 2
        if one[low:middle] == two[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class Habit(NamedTuple):
    """What hides a prefix, and the log as it would be without it."""

    name: str
    remedy: str
    without: Callable[[Log], list[Logged]]


HABITS = [
    Habit("a date, a time or an id", "put it last", move_times_to_the_end),
    Habit("tools in another order", "sort them by name", sort_tools),
    Habit("a space before a line break", "strip the ends of lines", strip_line_ends),
    Habit("a text that begins twice", "add the BOS token in one place", begin_once),
    Habit("a rewritten history", "repeat what was said, to the letter", keep_history),
]


class Blame(NamedTuple):
    """A habit, and the tokens that need not have been computed without it."""

    habit: Habit
    n_saved: int


@dataclass(frozen=True)
class Diagnosis:
    """What a log shares, and what it would share. Print it to read it."""

    n_requests: int
    count: Count
    blames: list[Blame]  # the costliest first

    def __str__(self) -> str:
        n_tokens, n_shared = self.count
        share = n_shared / n_tokens if n_tokens else 0.0
        lines = [
            f"{self.n_requests} requests, {n_tokens} tokens of prompts; "
            f"a cache finds {n_shared} at most ({share:.1%})"
        ]
        lines += [
            f"  {n_saved} more without {habit.name}: {habit.remedy}"
            for habit, n_saved in self.blames
        ]
        if not self.blames:
            lines.append("  none of the known habits hides a prefix")
        return "\n".join(lines)


def diagnose(
    log: Sequence[Logged | str],
    encode: Encode = str.encode,
    page_size: int = 16,
) -> Diagnosis:
    """Count what a log shares, and what it would share without each of the habits.

    `encode` turns text into tokens; a byte is one where nothing else is said. Each
    prompt is compared with all before it. Raises ValueError for a page size that is
    none, and for half a character.

    >>> print(diagnose([f"2026-11-{day} You are a helpful robot." for day in (26, 27)]))
    2 requests, 70 tokens of prompts; a cache finds 0 at most (0.0%)
      32 more without a date, a time or an id: put it last
    """
    page_size = whole_number(page_size, "page_size", least=1)
    entries = [Logged(one) if isinstance(one, str) else Logged(*one) for one in log]
    for number, entry in enumerate(entries, 1):
        for name, text in entry._asdict().items():
            refuse_half_characters(text, f"the {name} of request {number}")
    now = count(entries, encode, page_size)
    blames = []
    for habit in HABITS:
        changed = count(habit.without(entries), encode, page_size)
        # A change that makes prompts longer finds more, and one that makes them shorter
        # computes less, without anything more being shared: both have to gain.
        n_saved = min(
            changed.n_shared - now.n_shared, now.n_computed - changed.n_computed
        )
        if n_saved > 0:
            blames.append(Blame(habit, n_saved))
    blames.sort(key=lambda blame: -blame.n_saved)
    return Diagnosis(len(entries), now, blames)


# ── The command ──────────────────────────────────────────────────────────────────────


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m radix_lib.diagnosis prompts.jsonl`; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m radix_lib.diagnosis",
        description="Which prompts of a log would share a prefix if one thing changed?",
    )
    parser.add_argument(
        "log", help="JSON lines: a text each, or an object with prompt and answer"
    )
    parser.add_argument(
        "--page-size", type=int, default=16, help="tokens a page (default: 16)"
    )
    parser.add_argument(
        "--tokenizer",
        action="store_true",
        help="count tokens of the course's model; without it, a byte is a token",
    )
    options = parser.parse_args(arguments)
    encode: Encode = str.encode
    try:
        if options.tokenizer:
            from radix_lib.model_loader import load_model

            encode = load_model().tokenizer.encode
        print(diagnose(read_log(options.log), encode, options.page_size))
    except (OSError, ModelError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0
