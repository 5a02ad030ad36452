"""Chapter 09: right answers to its exercises pass their checks, wrong ones do not."""

from __future__ import annotations

import re

import pytest

from radix_lib import explain
from radix_lib.scheduler import Scheduler
from radix_lib.teaching.checks import six_logs, workload_exercises as exercises
from radix_lib.token_time import TokenTime, play
from radix_lib.workloads import closed_loop, report

KINDS = {
    "A": "page floor",
    "B": "evicted",
    "C": "another token",
    "D": "another namespace",
    "E": "another token",
    "F": "not committed",
}


@pytest.mark.parametrize("letter", KINDS)
def test_nothing_is_found_of_a_log_and_explain_says_why(letter: str) -> None:
    log = six_logs.served_log(letter)
    assert set(log.n_cached) == {0}
    why = explain(log.router, *log.next_request)
    assert (why.n_found, why.kind) == (0, KINDS[letter])
    log.router.check_integrity()


def test_a_log_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no log 'G'"):
        six_logs.served_log("G")


RIGHT = {
    "A": "large pages",
    "B": "evicted",
    "C": "a time in front",
    "D": "a namespace each",
    "E": "tools in another order",
    "F": "all at once",
}


def test_reasons_are_compared_one_by_one() -> None:
    six_logs.names_the_reasons(RIGHT)
    with pytest.raises(AssertionError, match="E: it is not that"):
        six_logs.names_the_reasons(RIGHT | {"E": "a time in front"})
    with pytest.raises(AssertionError, match="F: None is none of"):
        six_logs.names_the_reasons({**RIGHT, "F": None})


def test_what_many_ask_of_comes_first() -> None:
    exercises.shares_the_most(
        lambda rules, document, question: rules + document + question
    )
    for wrong in (
        lambda rules, document, question: rules + question + document,
        lambda rules, document, question: question + rules + document,
        lambda rules, document, question: rules + document,
    ):
        with pytest.raises(AssertionError):
            exercises.shares_the_most(wrong)


def test_a_loop_larger_than_the_pool_is_where_mru_wins() -> None:
    exercises.mru_beats_lru([[0], [1], [2], [3], [4]] * 2)
    for wrong in ([[0], [1]] * 3, [[0, 1, 2, 3, 4]], [[i] for i in range(9)]):
        with pytest.raises(AssertionError):
            exercises.mru_beats_lru(wrong)


def most_users(workload, objective):
    n_users = 0
    while n_users < len(workload):
        requests = play(Scheduler(TokenTime()), closed_loop(workload, n_users + 1))
        if report(requests).first_token.p90 > objective:
            break
        n_users += 1
    return n_users


def median_only(workload, objective):
    in_time = [0]
    for n in range(1, 25):
        requests = play(Scheduler(TokenTime()), closed_loop(workload, n))
        if report(requests).first_token.median <= objective:
            in_time.append(n)
    return max(in_time)


def test_users_are_counted_by_the_slow_tenth() -> None:
    exercises.counts_users(most_users)
    for wrong in (median_only, lambda workload, objective: 24):
        with pytest.raises(AssertionError):
            exercises.counts_users(wrong)


REMINDER = "(Answer in one sentence.)"


def kept(said, question):
    turns = [f"User: {q} {REMINDER}\nRobot: {a}" for q, a in said]
    return "".join([*turns, f"User: {question} {REMINDER}\nRobot: "])


def last_only(said, question):
    turns = [f"User: {q}\nRobot: {a}" for q, a in said]
    return "".join([*turns, f"User: {question} {REMINDER}\nRobot: "])


def no_reminder(said, question):
    return kept(said, question).replace(REMINDER, "")


def test_a_reminder_stays_where_it_was_said() -> None:
    exercises.keeps_its_history(kept)
    for wrong in (last_only, no_reminder):
        with pytest.raises(AssertionError):
            exercises.keeps_its_history(wrong)


def one_word_alone(prompt):
    found = re.match(r"User: \w+\.", prompt)
    return prompt if not found else f"{prompt[found.end() :]} {found[0]}"


def loses_the_rules(prompt):
    found = re.match(r"User: [^.]+\.", prompt)
    return prompt if not found else f"{prompt[found.end() :][:52]} {found[0]}"


def test_a_name_moves_behind_what_all_have() -> None:
    def moved(prompt):
        found = re.match(r"User: [^.]+\.", prompt)
        return prompt if not found else f"{prompt[found.end() :]} {found[0]}"

    exercises.finds_a_name(moved)
    for wrong in (
        lambda prompt: prompt,
        lambda prompt: re.sub(r"User: \w+\.", "", prompt),
        lambda prompt: prompt[::-1],
        one_word_alone,
        loses_the_rules,
    ):
        with pytest.raises(AssertionError):
            exercises.finds_a_name(wrong)
