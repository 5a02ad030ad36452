"""Chapter 10: a fleet. Several workers on this machine, behind SGLang's own router.

    python -m radix_lib.fleet --workers 3 --policy cache_aware

Each worker and the router is a process of its own, on loopback. Whatever ends the
fleet, Ctrl-C, an error or the end of a `with`, ends all of them.

Left out here: how policies compare (`dispatch`). Source: `sglang-router` 0.3.2
(PyPI, January 2026), which SGLang's `smg` and its own new router follow.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from types import FrameType
from typing import Self

LOOPBACK = "127.0.0.1"

#: Policies of SGLang's router that need no other servers than ours.
POLICIES = ("cache_aware", "round_robin", "random", "power_of_two")

#: Seconds that a process has to end by itself before it is killed.
GRACE = 5.0


class FleetError(RuntimeError):
    """The fleet did not start, or lost a process: which one, and what to do."""


class Member:
    """A process of the fleet, and the address at which it serves."""

    def __init__(self, name: str, port: int, command: Sequence[str], quiet: bool):
        self.name = name
        self.port = port
        self.address = f"http://{LOOPBACK}:{port}"
        # A session of its own: Ctrl-C reaches the fleet alone, which then ends each.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if quiet else None,
            start_new_session=True,
        )

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def is_healthy(self) -> bool:
        """Whether it answers `/health`."""
        with suppress(OSError):
            return fetch(f"{self.address}/health", seconds=2) is not None
        return False

    def stop(self) -> None:
        """End the process, whatever it does, and wait until it is gone."""
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:  # it hangs
            self.process.kill()
            self.process.wait()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)


class Fleet:
    """Workers and a router that run inside a `with`.

    `worker_options` are arguments of `python -m radix_lib.worker`, `router_options` of
    `python -m sglang_router.launch_router`. Raises FleetError if one does not start.
    """

    def __init__(
        self,
        n_workers: int = 3,
        policy: str = "cache_aware",
        *,
        port: int = 0,
        worker_options: Sequence[str] = (),
        router_options: Sequence[str] = (),
        patience: float = 120.0,
    ):
        if n_workers < 1:
            raise ValueError(f"n_workers is at least 1, not {n_workers}")
        if policy not in POLICIES:
            raise ValueError(f"no policy {policy!r}: choose from {', '.join(POLICIES)}")
        if importlib.util.find_spec("sglang_router") is None:
            raise FleetError(
                "sglang_router is not installed: pip install sglang-router==0.3.2. It "
                "has wheels for Linux, macOS on ARM and Windows"
            )
        self.n_workers = n_workers
        self.policy = policy
        self.port = port or free_port()
        self.worker_options = worker_options
        self.router_options = router_options
        self.patience = patience
        self.workers: list[Member] = []
        self.router: Member | None = None
        self._ends = ExitStack()

    @property
    def address(self) -> str:
        """Where the router serves."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def members(self) -> list[Member]:
        """All processes: the workers, then the router."""
        return [*self.workers, *([self.router] if self.router else [])]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Start the workers, then the router; tell `progress` what is waited for."""
        for number in range(self.n_workers):
            port = free_port()
            command = [sys.executable, "-m", "radix_lib.worker", "--port", str(port)]
            self._launch(f"worker {number}", port, [*command, *self.worker_options])
        self._wait_for(self.workers, progress)
        self.router = self._launch("router", self.port, self._router_command())
        self._wait_for([self.router], progress)

    def stop(self) -> None:
        """End every process. Done twice, it does nothing more."""
        self._ends.close()

    def check(self) -> None:
        """Raise FleetError if a process has ended."""
        for member in self.members:
            if not member.alive:
                raise FleetError(
                    f"{member.name} (process {member.process.pid}) ended with status "
                    f"{member.process.returncode}: what it said stands above"
                )

    def _launch(self, name: str, port: int, command: Sequence[str]) -> Member:
        # The router logs to stdout whatever a worker did; what ends it is on stderr.
        member = Member(name, port, command, quiet=name == "router")
        self._ends.callback(member.stop)  # the last to start is the first to end
        if name != "router":
            self.workers.append(member)
        return member

    def _router_command(self) -> list[str]:
        options = {
            "--host": LOOPBACK,  # its own default is every address of the machine
            "--port": str(self.port),
            "--prometheus-host": LOOPBACK,
            "--prometheus-port": str(free_port()),
            "--policy": self.policy,
            "--log-level": "error",
        }
        named = [word for pair in options.items() for word in pair]
        addresses = [worker.address for worker in self.workers]
        command = [sys.executable, "-m", "sglang_router.launch_router", *named]
        return [*command, "--worker-urls", *addresses, *self.router_options]

    def _wait_for(
        self, members: Sequence[Member], progress: Callable[[str], None]
    ) -> None:
        """Wait until all of them are healthy."""
        until = time.monotonic() + self.patience
        waiting = list(members)
        while waiting:
            self.check()
            waiting = [member for member in waiting if not member.is_healthy()]
            names = ", ".join(member.name for member in waiting)
            progress(f"waiting for {names}" if waiting else "")
            if waiting and time.monotonic() > until:
                raise FleetError(
                    f"{names} did not get healthy in {self.patience:.0f} seconds"
                )
            if waiting:
                time.sleep(0.2)


def free_port() -> int:
    """A port on loopback that nobody listens at, a moment ago."""
    with socket.socket() as ear:
        ear.bind((LOOPBACK, 0))
        port: int = ear.getsockname()[1]
    return port


def fetch(url: str, body: object = None, seconds: float = 60.0) -> bytes | None:
    """What an address answers, with `body` as JSON if there is one; None if it refuses.

    Who says 503, "not now", is asked again for some seconds. Raises OSError where
    nobody answers, or what answers breaks off or is no HTTP.
    """
    data = None if body is None else json.dumps(body).encode()
    call = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    until = time.monotonic() + min(seconds, 10.0)
    while True:
        try:
            with urllib.request.urlopen(call, timeout=seconds) as response:
                answer: bytes = response.read()
                return answer
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > until:
                return None
            time.sleep(0.5)
        except http.client.HTTPException as error:
            raise OSError(f"{url} answers no HTTP: {error!r}") from error


def main() -> int:
    """Start a fleet and keep it until Ctrl-C."""
    parser = argparse.ArgumentParser("python -m radix_lib.fleet", description=__doc__)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--policy", choices=POLICIES, default=POLICIES[0])
    parser.add_argument("--port", type=int, default=30000)
    parser.add_argument("--model", help="a hub id or a local folder")
    parser.add_argument("--n-pages", type=int, default=512, help="of each worker")
    args = parser.parse_args()
    worker_options = ["--n-pages", str(args.n_pages)]
    if args.model:
        worker_options += ["--model", args.model]
    signal.signal(signal.SIGTERM, _as_ctrl_c)
    try:
        fleet = Fleet(
            args.workers, args.policy, port=args.port, worker_options=worker_options
        )
        try:
            fleet.start(_show)
            print(_how_to_use(fleet), flush=True)
            while True:
                fleet.check()
                time.sleep(0.5)
        finally:
            fleet.stop()
    except KeyboardInterrupt:
        print("\nThe fleet has ended.")
        return 0
    except (FleetError, ValueError) as error:
        print(f"\nradix_lib: {error}", file=sys.stderr)
        return 2


def _as_ctrl_c(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _show(line: str) -> None:
    print(f"\r{line:<70}", end="", file=sys.stderr, flush=True)


def _how_to_use(fleet: Fleet) -> str:
    body = '{"text": "Once there was", "sampling_params": {"max_new_tokens": 16}}'
    lines = [
        f"\n{fleet.n_workers} workers behind SGLang's router at {fleet.address}",
        *(f"  {worker.name} at {worker.address}" for worker in fleet.workers),
        "",
        f"curl {fleet.address}/generate -H 'Content-Type: application/json' \\",
        f"     -d '{body}'",
        "",
        "Ctrl-C ends all of them.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
