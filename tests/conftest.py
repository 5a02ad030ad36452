"""Fixtures for all tests: tiny models, the real one, and no network.

transformers is imported where it is first used: the tests of the control plane start
without it.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest

from radix_lib._openmp import waiting_briefly
from tests.support.tiny_models import TINY, TINY_MODELS

os.environ |= waiting_briefly(os.environ)  # before a test imports torch

# A script that starts the tests in the background has them ignore Ctrl-C, and with them
# whatever they start: a fleet that is told to end would go on for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test where it looks up a host or opens a connection."""

    def refuse(*_: object, **__: object) -> NoReturn:
        pytest.fail("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(params=TINY_MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    """The name of each tiny model in turn."""
    return request.param


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run the test on one thread: two wait in turns, in small products above all."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def tiny_model(tiny_models: Callable[..., Any], one_thread: None) -> Callable[..., Any]:
    """`tiny_model(kind, dtype)`: a tiny random model, made once. Do not change it."""
    return tiny_models


@pytest.fixture(scope="session")
def tiny_models() -> Callable[..., Any]:
    """What `tiny_model` gives, made once."""
    import torch

    from radix_lib.teaching.checks.cache_states import tiny_model

    models: dict[tuple[str, torch.dtype], Any] = {}

    def get(kind: str = "llama", dtype: torch.dtype = torch.float32) -> Any:
        if (kind, dtype) not in models:
            class_name, more = TINY_MODELS[kind]
            models[kind, dtype] = tiny_model(class_name, dtype, **(TINY | more))
        return models[kind, dtype]

    return get


@pytest.fixture(scope="session")
def real() -> Any:
    """The default model and its tokenizer, in float32."""
    from radix_lib.default_model import DEFAULT_MODEL
    from radix_lib.model_loader import load_model

    return load_model(DEFAULT_MODEL)
