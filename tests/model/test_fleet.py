"""A fleet: real workers behind SGLang's router, on loopback, and nothing left over."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from radix_lib.fleet import GRACE, Fleet, FleetError, Member, fetch, free_port
from radix_lib.teaching import measure_beliefs
from tests.support.clients import crowd
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
def fleet_of(
    folder: str, n_workers: int = 3, more_options: Sequence[str] = (), **options: Any
) -> Iterator[Fleet]:
    """A fleet; when it has ended, so have all of its processes."""
    worker_options = ["--model", folder, "--page-size", "4", *more_options]
    fleet = Fleet(n_workers, worker_options=worker_options, **options)
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


def dialogues(n: int, n_turns: int) -> list[str]:
    """The prompts of several dialogues, a turn of each in turn."""
    said = [f"Dialogue number {i} on the theme of {i * i}. " * 3 for i in range(n)]
    prompts = []
    for turn in range(n_turns):
        said = [f"{text}Turn {turn}: and what then? " for text in said]
        prompts += said
    return prompts


def test_events_tell_every_hit_and_past_requests_too_many_as_pools_shrink(
    folder: str, real: Any
) -> None:
    prompts = dialogues(n=4, n_turns=4)
    talks = [prompts[i::4] for i in range(4)]
    too_many = {}
    for n_pages in (400, 20):  # for all four, and for hardly one
        more = ["--n-pages", str(n_pages)]
        with fleet_of(folder, n_workers=2, more_options=more) as fleet:
            turns = measure_beliefs(fleet, talks, real.tokenizer.encode)
        assert [turn.by_events for turn in turns] == [turn.found for turn in turns]
        # The router sends each turn to where the dialogue was, whatever is left there.
        assert all(turn.by_past_requests for turn in turns)
        too_many[n_pages] = sum(turn.by_past_requests - turn.found for turn in turns)
    assert too_many[400] == 0 < too_many[20]


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


def test_a_salt_of_a_chat_is_lost_in_the_router_and_kept_by_the_worker(
    folder: str,
) -> None:
    """If this fails, the router has changed: chapter 10 says that 0.3.2 drops it."""
    with fleet_of(folder, n_workers=1) as fleet:
        (worker,) = fleet.workers
        direct = [chat_cached(worker.address, salt) for salt in ("ann", "bob", "ann")]
        through = [chat_cached(fleet.address, salt) for salt in ("cleo", "dan")]
    assert direct[:2] == [0, 0]
    assert direct[2] > 0
    assert through[0] == 0
    assert through[1] > 0


def chat_cached(address: str, salt: str) -> int:
    """How many tokens of a chat with a salt were found."""
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", timeout=60)
    messages: Any = [{"role": "user", "content": "The same words, whoever says them."}]
    answer: Any = client.chat.completions.create(
        model="tiny",
        messages=messages,
        max_tokens=2,
        extra_body={"cache_salt": salt},
    )
    cached: int = answer.usage.prompt_tokens_details.cached_tokens
    return cached


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        signal.SIGTERM,
        pytest.param(signal.SIGSTOP, marks=pytest.mark.long),
    ],
    ids=lambda n: n.name,
)
def test_every_request_is_accounted_for_when_a_worker_is_lost(
    folder: str, number: signal.Signals
) -> None:
    # Of a worker that hangs the router learns by waiting: by default half an hour.
    impatient = ["--request-timeout-secs", "10"]
    few_pages = ["--n-pages", "64"]  # most requests wait, so that the loss meets them
    with fleet_of(
        folder,
        policy="round_robin",
        more_options=few_pages,
        router_options=impatient,
    ) as fleet:
        lost, *others = fleet.workers
        # It is held, so that it cannot be done with its share before the others are.
        lost.process.send_signal(signal.SIGSTOP)

        def lose_one(outcomes: Counter[str]) -> None:
            if outcomes.total() == 30:
                lost.process.send_signal(signal.SIGCONT)
                time.sleep(0.1)  # in the middle of answers that take it longer
                lost.process.send_signal(number)

        outcomes = asyncio.run(
            crowd(fleet.address, n=200, max_tokens=64, after_each=lose_one)
        )
        assert outcomes.total() == 200
        assert outcomes.keys() <= {"answered", "refused by name", "broken off"}
        assert outcomes["answered"] > 100
        for worker in others:
            info = when_idle(worker)
            assert info["pages"]["private"] == info["pages"]["locked"] == 0
        if number != signal.SIGSTOP:
            lost.process.wait(timeout=60)


def test_a_worker_that_is_told_to_end_finishes_its_answers_first(folder: str) -> None:
    with fleet_of(folder, n_workers=1) as fleet:
        (worker,) = fleet.workers
        params = {"max_new_tokens": 200}
        body = {"text": "Once", "sampling_params": params, "stream": True}
        path = f"{worker.address}/generate"
        with httpx.stream("POST", path, json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            worker.process.terminate()
            pieces = [line for line in (first, *lines) if line]
        worker.process.wait(timeout=60)
    last = json.loads(pieces[-2].removeprefix("data: "))
    assert pieces[-1] == "data: [DONE]"
    assert last["meta_info"]["completion_tokens"] == 200


def when_idle(worker: Member) -> Any:
    """What a worker says of itself as soon as it has no request."""
    for _ in range(100):
        info = get(f"{worker.address}/server_info").json()
        if not info["requests"]:
            return info
        time.sleep(0.05)
    raise AssertionError(f"{worker.name} has {info['requests']} requests")


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
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
        try:
            assert fleet.wait(4 * GRACE) == 0
        finally:
            fleet.kill()  # one that has ended does not notice
    assert not any(is_there(child) for child in children)


def test_what_the_tests_start_hears_ctrl_c_even_if_they_run_in_the_background() -> None:
    asks = "import signal; print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)"
    starts = (
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"command = [sys.executable, '-c', {asks!r}]\n"
        "subprocess.run(command)\n"
        "import tests.conftest\n"
        "subprocess.run(command)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", starts],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    assert said.split() == ["True", "False"]


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


@pytest.mark.parametrize(
    "said", [b"SSH-2.0\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfour"]
)
def test_what_answers_no_http_is_nobody(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ear:

        def answer() -> None:
            connection, _ = ear.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        port = ear.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
            fetch(f"http://127.0.0.1:{port}/health")
        thread.join()


def test_without_the_router_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FleetError, match="pip install sglang-router"):
        Fleet()
