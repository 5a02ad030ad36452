"""A worker under many clients for a long while: no page is lost, and memory is flat."""

from __future__ import annotations

import random
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from radix_lib.worker import TellingModel
from tests.support.serving import serving, tiny_with

MINUTES = 10
N_CLIENTS = 64
PREFIX = "You are a patient teacher of arithmetic. Explain each step briefly. "


def resident_mib() -> float:
    """How much memory this process has, in MiB."""
    status = Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("this system does not tell how much memory a process has")
    return int(status.read_text().split()[1]) * resource.getpagesize() / 2**20


def be_client(number: int, address: str, until: threading.Event) -> dict[str, int]:
    """Ask, leave in the middle of an answer, ask for too much; how often of each."""
    draw = random.Random(number)
    seen = {"answered": 0, "left": 0, "refused": 0}
    with httpx.Client(base_url=address, timeout=120) as client:
        while not until.is_set():
            body: dict[str, Any] = {
                "text": PREFIX * draw.randint(1, 3) + f"What is {draw.randint(0, 99)}?",
                "sampling_params": {"max_new_tokens": draw.randint(1, 24)},
            }
            kind = draw.random()
            if kind < 0.1:
                body["sampling_params"]["max_new_tokens"] = 10**6
                assert client.post("/generate", json=body).status_code == 400
                seen["refused"] += 1
            elif kind < 0.3:
                with client.stream(
                    "POST", "/generate", json=body | {"stream": True}
                ) as r:
                    next(r.iter_lines(), None)
                seen["left"] += 1
            else:
                answer = client.post("/generate", json=body)
                assert answer.status_code in (200, 503), answer.text
                seen["answered"] += answer.status_code == 200
    return seen


@pytest.mark.long
def test_a_worker_under_64_clients_loses_no_page_and_its_memory_is_flat(
    real: Any,
) -> None:
    stop = threading.Event()
    with (
        serving(
            tiny_with(real.tokenizer), real.tokenizer, n_pages=600, page_size=4
        ) as (address, model),
        ThreadPoolExecutor(N_CLIENTS) as pool,
    ):
        clients = [pool.submit(be_client, i, address, stop) for i in range(N_CLIENTS)]
        memory = []
        for _ in range(MINUTES):
            time.sleep(60)
            memory.append(resident_mib())
        stop.set()
        seen = [client.result() for client in clients]
        assert_nothing_held(model)
    for kind in ("answered", "left", "refused"):
        assert sum(counts[kind] for counts in seen) > N_CLIENTS, kind
    # The first minutes fill pool and caches; what comes after adds nothing.
    early = max(memory[: MINUTES // 2])
    assert max(memory[MINUTES // 2 :]) < early + 32, memory


def assert_nothing_held(model: TellingModel) -> None:
    for _ in range(600):
        if not model.router.leases:
            break
        time.sleep(0.1)
    model.router.check_integrity()
    usage = model.router.usage()
    assert (usage.locked, usage.private) == (0, 0)
    model.flush()
    assert model.router.usage().free == model.router.page_manager.n_pages
