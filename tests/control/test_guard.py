"""Chapter 05: calls that run one at a time, without a router around them."""

from __future__ import annotations

import threading

import pytest

from radix_lib.guard import Guarded, atomic


class Log(Guarded):
    """Writes down which calls began and ended."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    @atomic
    def call(self, name: str, *, then=None) -> str:
        """Write two lines, and make another call in between."""
        self.lines.append(f"{name} begins")
        if then:
            then()
        self.lines.append(f"{name} ends")
        return name

    def later(self, name: str) -> None:
        self._alone(lambda: self.lines.append(name), or_later=True)


def test_a_call_gives_what_its_method_gives_and_keeps_its_name():
    assert Log().call("a") == "a"
    assert Log.call.__name__ == "call"
    assert Log.call.__doc__ == "Write two lines, and make another call in between."


def test_a_call_in_the_middle_of_another_is_refused_and_the_other_goes_on():
    log = Log()

    def again():
        with pytest.raises(RuntimeError, match="called a Log in the middle of another"):
            log.call("b")

    log.call("a", then=again)
    log.call("c")
    assert log.lines == ["a begins", "a ends", "c begins", "c ends"]


def test_what_can_wait_is_made_at_once_or_after_the_call_that_is_inside_in_order():
    log = Log()
    log.later("1")

    def two():
        log.later("2")
        log.later("3")

    log.call("a", then=two)
    assert log.lines == ["1", "a begins", "a ends", "2", "3"]


def test_what_waits_is_made_even_if_the_call_fails():
    log = Log()

    def fail():
        log.later("1")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        log.call("a", then=fail)
    log.call("b")
    assert log.lines == ["a begins", "1", "b begins", "b ends"]


def test_what_waits_and_is_interrupted_is_made_before_the_next_call():
    log = Log()
    stops = [KeyboardInterrupt]

    def stubborn():
        if stops:
            raise stops.pop()
        log.lines.append("1")

    def two():
        log._alone(stubborn, or_later=True)
        log.later("2")

    with pytest.raises(KeyboardInterrupt):
        log.call("a", then=two)
    log.call("b")
    assert log.lines == ["a begins", "a ends", "1", "2", "b begins", "b ends"]


def test_what_arrives_while_others_wait_waits_behind_them():
    log = Log()

    def two():
        log._alone(lambda: log.later("2"), or_later=True)
        log.later("1")

    log.call("a", then=two)
    assert log.lines == ["a begins", "a ends", "1", "2"]


def test_a_call_of_one_object_may_call_another():
    """As a model calls its router."""
    one = Log()
    other = Log()
    one.call("a", then=lambda: other.call("b"))
    assert other.lines == ["b begins", "b ends"]


def test_threads_take_turns():
    log = Log()
    threads = [
        threading.Thread(target=lambda i=i: [log.call(str(i)) for _ in range(200)])
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    begun = [line.split()[0] for line in log.lines[::2]]
    ended = [line.split()[0] for line in log.lines[1::2]]
    assert begun == ended
    assert len(begun) == 800
