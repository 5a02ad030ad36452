"""A worker in this process: a tiny model with the course's tokenizer, on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from radix_lib.engine import Engine
from radix_lib.scheduler import Scheduler
from radix_lib.teaching import tiny_model
from radix_lib.worker import LOOPBACK, TellingModel, application


def tiny_with(tokenizer: Any) -> Any:
    """A tiny random model that has a row for each token of a tokenizer."""
    return tiny_model(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)


@contextmanager
def serving(
    model: Any, tokenizer: Any, *, max_requests: int = 256, **pool: int
) -> Iterator[tuple[str, TellingModel]]:
    """A worker that answers: its address, and the model behind it."""
    radix = TellingModel(model, tokenizer, **pool)
    scheduler = Scheduler(radix)
    app = application(Engine(scheduler, max_requests), "tiny")
    with socket.socket() as ear:
        ear.bind((LOOPBACK, 0))
        port = ear.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [ear]})
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the worker did not start"
        try:
            yield f"http://{LOOPBACK}:{port}", radix
        finally:
            server.should_exit = True
            thread.join()
