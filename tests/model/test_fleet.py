"""A fleet: real workers behind SGLang's router, on loopback, and nothing left over."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from radix_lib.fleet import GRACE, Fleet, FleetError, Member, free_port
from tests.support.serving import tiny_with

# A busy machine may take longer than the five seconds that httpx waits.
get = partial(httpx.get, timeout=60)
post = partial(httpx.post, timeout=60)

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="signals of POSIX are sent here"
)


@pytest.fixture(scope="module")
def folder(real: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model with the course's tokenizer, as a worker loads it."""
    path = tmp_path_factory.mktemp("tiny")
    tiny_with(real.tokenizer).save_pretrained(path)
    real.tokenizer.save_pretrained(path)
    return str(path)


@contextmanager
def fleet_of(folder: str, n_workers: int = 3, **options: Any) -> Iterator[Fleet]:
    """A fleet; when it has ended, so have all of its processes."""
    fleet = Fleet(
        n_workers, worker_options=["--model", folder, "--page-size", "4"], **options
    )
    with fleet:
        members = fleet.members
        yield fleet
    assert len(members) == n_workers + 1
    assert not any(is_there(member.process.pid) for member in members)


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def cached_tokens(fleet: Fleet, prompts: list[str]) -> int:
    """How many tokens of some prompts the workers found, asked one after another."""
    total = 0
    for prompt in prompts:
        body = {"text": prompt, "sampling_params": {"max_new_tokens": 4}}
        answer = post(f"{fleet.address}/generate", json=body).json()
        total += answer["meta_info"]["cached_tokens"]
    return total


def dialogues(n: int, n_turns: int) -> list[str]:
    """The prompts of several dialogues, a turn of each in turn."""
    said = [f"Dialogue number {i} on the theme of {i * i}. " * 3 for i in range(n)]
    prompts = []
    for turn in range(n_turns):
        said = [f"{text}Turn {turn}: and what then? " for text in said]
        prompts += said
    return prompts


def test_cache_aware_finds_more_than_round_robin(folder: str) -> None:
    prompts = dialogues(n=4, n_turns=4)
    found = {}
    for policy in ("cache_aware", "round_robin"):
        with fleet_of(folder, policy=policy) as fleet:
            found[policy] = cached_tokens(fleet, prompts)
    assert found["cache_aware"] > found["round_robin"]


def test_a_salt_of_generate_goes_through_the_router_to_the_pages(folder: str) -> None:
    with fleet_of(folder, n_workers=1) as fleet:
        found = []
        for salt in ("ann", "bob", "ann"):
            body = {
                "text": "The same words, whoever it is that says them.",
                "extra_key": salt,
                "sampling_params": {"max_new_tokens": 2},
            }
            answer = post(f"{fleet.address}/generate", json=body).json()
            found.append(answer["meta_info"]["cached_tokens"])
    assert found[:2] == [0, 0]
    assert found[2] > 0


def test_every_request_is_accounted_for_when_a_worker_is_killed(folder: str) -> None:
    with fleet_of(folder) as fleet:
        outcomes = asyncio.run(ask_many(fleet, n=200, kill_after=60))
        survivors = [member for member in fleet.workers if member.alive]
        assert len(survivors) == 2
        assert sum(outcomes.values()) == 200
        assert outcomes.keys() <= {"answered", "refused by name", "broken off"}
        assert outcomes["answered"] > 100
        for worker in survivors:
            info = until_idle(worker)
            assert info["pages"]["private"] == info["pages"]["locked"] == 0


async def ask_many(fleet: Fleet, n: int, kill_after: int) -> Counter[str]:
    """`n` requests at once, half of them streams; in the middle a worker is killed."""
    client = openai.AsyncOpenAI(
        base_url=f"{fleet.address}/v1", api_key="none", timeout=60, max_retries=0
    )
    outcomes: Counter[str] = Counter()

    async def ask(number: int) -> None:
        messages: Any = [{"role": "user", "content": f"{number % 20} green bottles"}]
        try:
            answer = await client.chat.completions.create(
                model="tiny", messages=messages, max_tokens=16, stream=number % 2 == 0
            )
            if number % 2 == 0:
                pieces = [piece async for piece in answer]
                whole = bool(pieces) and pieces[-1].choices[0].finish_reason
                outcomes["answered" if whole else "broken off"] += 1
            else:
                outcomes["answered"] += 1
        except openai.APIStatusError:
            outcomes["refused by name"] += 1
        except (openai.APIError, httpx.HTTPError):  # in the middle of a stream
            outcomes["broken off"] += 1
        if sum(outcomes.values()) == kill_after:
            fleet.workers[0].process.kill()

    await asyncio.gather(*(ask(number) for number in range(n)))
    await client.close()
    return outcomes


def until_idle(worker: Member) -> Any:
    for _ in range(100):
        info = get(f"{worker.address}/server_info").json()
        if not info["requests"]:
            return info
        time.sleep(0.05)
    raise AssertionError(f"{worker.name} still has {info['requests']} requests")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_how_to_use_it_and_ends_with_all_of_it(
    folder: str, number: signal.Signals
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "radix_lib.fleet", "--workers", "2"]
    command += ["--port", str(port), "--model", folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as fleet:
        assert fleet.stdout is not None
        lines: list[str] = []
        while not any("Ctrl-C" in line for line in lines):
            lines.append(fleet.stdout.readline())
            assert lines[-1], "the fleet ended before it was up"
        children = children_of(fleet.pid)
        assert len(children) >= 3
        assert f"curl http://127.0.0.1:{port}/generate" in "".join(lines)
        os.kill(children[0], signal.SIGSTOP)  # one of them hangs
        fleet.send_signal(number)
        assert fleet.wait(4 * GRACE) == 0
    assert not any(is_there(child) for child in children)


def children_of(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children")
    if not listed.exists():
        pytest.skip("only Linux lists the children of a process")
    return [int(child) for child in listed.read_text().split()]


def test_a_worker_that_does_not_start_ends_the_fleet(tmp_path: Path) -> None:
    fleet = Fleet(2, worker_options=["--model", str(tmp_path)])
    with pytest.raises(FleetError, match="ended with status 2"), fleet:
        pass
    assert not any(is_there(member.process.pid) for member in fleet.members)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_workers": 0}, "n_workers is at least 1, not 0"),
        ({"policy": "fastest"}, "no policy 'fastest': choose from cache_aware"),
    ],
)
def test_what_makes_no_sense_is_refused(options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Fleet(**options)


def test_without_the_router_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FleetError, match="pip install sglang-router"):
        Fleet()
