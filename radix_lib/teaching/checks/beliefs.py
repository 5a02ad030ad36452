"""What two kinds of index believe of real workers, beside what the workers found."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from radix_lib.fleet import Fleet, Member, fetch
from radix_lib.kv_events import (
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    Event,
    PrefixIndex,
    block_hashes,
)
from radix_lib.radix_tree import pack_tokens
from radix_lib.router import Namespace

NOBODYS = Namespace()  # what a worker takes for a request without a salt


class Beliefs(NamedTuple):
    """Tokens of the prompts of one request: found, and expected of that worker."""

    worker: int  # that SGLang's router has chosen
    found: int  # by the worker's own count
    by_events: int  # by an index of what the workers tell
    by_past_requests: int  # by an index of what was sent to them, as the router's


def measure_beliefs(
    fleet: Fleet, dialogues: Sequence[Sequence[str]], encode: Callable[[str], list[int]]
) -> list[Beliefs]:
    """Send dialogues through a fleet's router, a turn of each in turn.

    A dialogue is its prompts, in order. The first prompts go in pairs, one while the
    other is being answered, so that the router has a reason to spread them, and are not
    measured; all others go one after another.
    """
    watch = _Watch(fleet, encode)
    for one, other in zip(dialogues[::2], dialogues[1::2], strict=True):
        watch.open_pair(one[0], other[0])
    turns = zip(*(dialogue[1:] for dialogue in dialogues), strict=True)
    return [watch.measure(prompt) for turn in turns for prompt in turn]


class _Watch:
    """Looks at the workers of a fleet from outside: what they tell, and count."""

    def __init__(self, fleet: Fleet, encode: Callable[[str], list[int]]):
        self.fleet = fleet
        self.address = f"{fleet.address}/generate"
        self.encode = encode
        page_size = _read(fleet.workers[0], "server_info")["page_size"]
        self.told = PrefixIndex(page_size)
        self.sent = PrefixIndex(page_size)

    def ask(self, prompt: str) -> int:
        """How many tokens of a prompt were found by whoever got it."""
        body = {"text": prompt, "sampling_params": {"max_new_tokens": 4}}
        answer = fetch(self.address, body)
        assert answer is not None, "the fleet refused a prompt"
        found: int = json.loads(answer)["meta_info"]["cached_tokens"]
        return found

    def open_pair(self, one: str, other: str) -> None:
        """Ask for an answer to one prompt, and before it is whole to the other."""
        params = {"max_new_tokens": 24}
        body = {"text": one, "sampling_params": params, "stream": True}
        headers = {"Content-Type": "application/json"}
        call = urllib.request.Request(self.address, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(call, timeout=60) as answer:
            answer.readline()  # it is under way
            self.ask(other)
            answer.read()
        self.hear()
        for opening in (one, other):
            held = self.told.match(self.encode(opening), NOBODYS)
            self.remember(opening, max(held, key=lambda number: held[number]))

    def measure(self, prompt: str) -> Beliefs:
        """Ask, and set beside the answer what either index expected of that worker."""
        tokens = self.encode(prompt)
        by_events = self.told.match(tokens, NOBODYS)
        by_past_requests = self.sent.match(tokens, NOBODYS)
        before = self._prefilled()
        found = self.ask(prompt)
        # Whoever got it has computed one token at least, and nobody else has any.
        (worker,) = [
            number
            for number, n_tokens in enumerate(self._prefilled())
            if n_tokens > before[number]
        ]
        self.hear()
        self.remember(prompt, worker)
        return Beliefs(
            worker, found, by_events.get(worker, 0), by_past_requests.get(worker, 0)
        )

    def hear(self) -> None:
        """Take in what the workers tell."""
        for number, worker in enumerate(self.fleet.workers):
            events = [_event(fields) for fields in _read(worker, "kv_events")]
            self.told.apply(number, events)

    def remember(self, prompt: str, worker: int) -> None:
        """Believe that a worker has a prompt from now on."""
        size = self.sent.block_size
        names = block_hashes(pack_tokens(self.encode(prompt)), size, NOBODYS)
        self.sent.apply(worker, [BlockStored(names, None, [], size)])

    def _prefilled(self) -> list[int]:
        return [
            _read(worker, "server_info")["prefilled_tokens"]
            for worker in self.fleet.workers
        ]


def _read(worker: Member, path: str) -> Any:
    answer = fetch(f"{worker.address}/{path}")
    assert answer is not None, f"{worker.name} refused {path}"
    return json.loads(answer)


def _event(fields: dict[str, Any]) -> Event:
    """An event, of the JSON in which a worker tells it."""
    if fields["type"] == "AllBlocksCleared":
        return AllBlocksCleared()
    names = [bytes.fromhex(name) for name in fields["block_hashes"]]
    if fields["type"] == "BlockRemoved":
        return BlockRemoved(names)
    return BlockStored(names, None, fields["token_ids"], fields["block_size"])
