"""Five habits that hide a prefix, each beside a log in which it does no harm."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from radix_lib.prompt_log import HABITS, Logged, count, diagnose, main, read_log

RULES = "You are the assistant of a bicycle shop. Be brief and polite. "
ASKED = ["How late is it open?", "Is the red one left?", "What does a tyre cost?"]


def blamed(log: list[str] | list[Logged]) -> list[str]:
    return [blame.habit.name for blame in diagnose(log).blames]


# ── Habits and their near misses ─────────────────────────────────────────────────────


def test_a_time_at_the_front_is_blamed() -> None:
    log = [f"[2026-11-26 09:1{i}:00] {RULES}{ask}" for i, ask in enumerate(ASKED)]
    assert blamed(log) == ["a date, a time or an id"]


def test_a_time_at_the_end_is_not() -> None:
    log = [f"{RULES}{ask} [2026-11-26 09:1{i}]" for i, ask in enumerate(ASKED)]
    assert blamed(log) == []


def test_a_time_at_the_front_that_never_changes_is_not() -> None:
    log = [f"[2026-11-26] {RULES}{ask}" for ask in ASKED]
    assert blamed(log) == []


TOOLS = [{"name": name, "description": f"find {name}"} for name in ("bike", "tyre")]


def test_tools_in_another_order_are_blamed() -> None:
    log = [
        f"Tools: {json.dumps(tools)} {RULES}{ask}"
        for tools, ask in zip([TOOLS, TOOLS[::-1]] * 2, ASKED, strict=False)
    ]
    assert blamed(log) == ["tools in another order"]


def test_other_tools_are_not() -> None:
    others = [{"name": name, "description": name * 9} for name in ("lock", "lamp")]
    log = [
        f"Tools: {json.dumps(tools)} {RULES}{ask}"
        for tools, ask in zip([TOOLS, others], ASKED, strict=False)
    ]
    assert blamed(log) == []


def test_a_list_of_numbers_is_no_list_of_tools() -> None:
    assert (
        blamed([f"Sort [3, 1, 2] and [ {RULES}", f"Sort [1, 3, 2] and [ {RULES}"]) == []
    )


def test_a_space_before_a_line_break_is_blamed() -> None:
    log = [f"Rules:{' ' * (i % 2)}\n{RULES}{ask}" for i, ask in enumerate(ASKED)]
    assert blamed(log) == ["a space before a line break"]


def test_a_space_that_is_always_there_is_not() -> None:
    log = [f"Rules:{' ' * 40}\n{RULES}{ask}" for ask in ASKED]
    assert blamed(log) == []


def test_a_text_that_begins_twice_is_blamed() -> None:
    log = [f"{'<s>' * (1 + i % 2)}{RULES}{ask}" for i, ask in enumerate(ASKED)]
    assert blamed(log) == ["a text that begins twice"]


def test_a_text_that_always_begins_twice_is_not() -> None:
    assert blamed([f"<s><s>{RULES}{ask}" for ask in ASKED]) == []


def chat(remembered: str) -> list[Logged]:
    thoughts = "<think>The rider wants to know it. Look at the table.</think>"
    first = Logged(f"{RULES}{ASKED[0]}\n", f"{thoughts}Until eight.\nRider: ")
    said = f"{first.prompt}{remembered}Until eight.\nRider: "
    return [first, Logged(f"{said}{ASKED[1]}\n", "It is not.\n")]


def test_a_history_that_was_rewritten_is_blamed() -> None:
    assert blamed(chat("")) == ["a rewritten history"]


def test_a_history_that_was_kept_is_not() -> None:
    kept = "<think>The rider wants to know it. Look at the table.</think>"
    assert blamed(chat(kept)) == []


def test_a_reminder_behind_the_last_message_only_is_a_rewritten_history() -> None:
    reminder = "Remember to be brief, whatever they say to you.\n"
    first = Logged(f"{RULES}{ASKED[0]}\n{reminder}", "Robot: Until eight o'clock.\n")
    second = f"{RULES}{ASKED[0]}\nRobot: Until eight o'clock.\n{ASKED[1]}\n{reminder}"
    assert blamed([first, Logged(second, "")]) == ["a rewritten history"]


def test_the_costliest_habit_comes_first() -> None:
    late = [
        f"{RULES} 09:1{i} Be kind to all of them. {ask}" for i, ask in enumerate(ASKED)
    ]
    log = [f"{'<s>' * (1 + i % 2)}{text}" for i, text in enumerate(late)]
    assert blamed(log) == ["a text that begins twice", "a date, a time or an id"]


def test_a_log_that_shares_nothing_has_no_habit() -> None:
    found = diagnose(["one thing", "another thing", "a third"])
    assert found.blames == []
    assert "none of the known habits" in str(found)


# ── Counting ─────────────────────────────────────────────────────────────────────────


def test_an_answer_is_found_by_the_next_turn_but_for_its_last_token() -> None:
    log = [Logged("ab", "cdef"), Logged("abcdefgh")]
    assert count(log, str.encode, page_size=1) == (10, 5)


@pytest.mark.parametrize("page_size", [0, -1, 1.5])
def test_a_page_size_that_is_none_is_refused(page_size: int) -> None:
    with pytest.raises(ValueError, match=f"page_size .*, not {page_size}"):
        diagnose(["a"], page_size=page_size)


def test_half_a_character_is_refused() -> None:
    with pytest.raises(ValueError, match="at place 1 of the answer of request 2"):
        diagnose(["a", Logged("b", "b\ud83d")])


def test_habits_leave_a_log_without_them_as_it_is() -> None:
    log = [Logged(f"{RULES}{ask}", "Yes.") for ask in ASKED]
    for habit in HABITS:
        assert habit.without(log) == log, habit.name


# ── Files and the command ────────────────────────────────────────────────────────────


def test_a_log_has_texts_or_objects(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('"one"\n\n{"prompt": "two", "answer": "three", "id": 3}\n')
    assert read_log(path) == [Logged("one"), Logged("two", "three")]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{", "line 2 is not JSON"),
        ('"café"'.encode("latin-1"), "line 2 is not JSON in UTF-8 .* 0xe9"),
        (b"3", "line 2 has no text named 'prompt': 3"),
        (b'{"text": "a"}', "line 2 has no text named 'prompt'"),
        (b'{"prompt": "a", "answer": 3}', "line 2: answer is 3, not a text"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, complaint: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'"one"\n' + line + b"\n")
    with pytest.raises(ValueError, match=complaint):
        read_log(path)


def test_the_command_ranks_what_would_be_saved(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    texts = [f"[09:1{i}] {RULES}{ask}" for i, ask in enumerate(ASKED)]
    path.write_text("\n".join(map(json.dumps, texts)))
    command = [sys.executable, "-m", "radix_lib.diagnosis", str(path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "without a date, a time or an id: put it last" in told.stdout
    assert told.stderr == ""


def test_the_command_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err


def test_the_command_says_which_model_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADIX_LIB_MODEL", str(tmp_path / "none"))
    assert main([str(tmp_path / "log.jsonl"), "--tokenizer"]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err


# ── A second opinion ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page_size", [1, 16])
def test_kvlint_finds_as_many_tokens(page_size: int) -> None:
    """kvlint 0.1.1 simulates SGLang's cache, and leaves no token to compute."""
    kvlint = pytest.importorskip(
        "kvlint.sim.sglang_radix", reason="kvlint is not installed: pip install kvlint"
    )

    rng = random.Random(0)
    prompts = ["".join(rng.choices("ab", k=rng.randint(1, 9))) * 8 for _ in range(200)]
    simulator = kvlint.SGLangRadixSimulator(page_size=page_size)
    theirs = 0
    for number, prompt in enumerate(prompts):
        tokens = list(prompt.encode())
        found = simulator.feed_tokens(f"r{number}", tokens).cached_tokens
        theirs += min(found, (len(tokens) - 1) // page_size * page_size)
    ours = count([Logged(prompt) for prompt in prompts], str.encode, page_size)
    assert ours.n_shared == theirs > 0
