"""`python -m radix_lib`, and the prompts whose answers are committed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

from radix_lib import RadixAttentionModel, __main__, load_model
from radix_lib.equality import baseline_generate
from radix_lib.model_loader import LoadedModel
from radix_lib.teaching.checks.cache_states import (
    CACHE_STATES,
    compare_states,
    tiny_model,
)
from radix_lib.texts import few_shot_prompts

#: `run(*args)` gives the exit status, what was printed, and what went to stderr.
Run = Callable[..., tuple[Any, str, str]]


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model()


@pytest.fixture
def run(
    loaded: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run the command in this process, on the model that is loaded already."""

    def from_pretrained(name: str | None, **options: Any) -> RadixAttentionModel:
        return RadixAttentionModel(loaded.model, loaded.tokenizer, **options)

    def run(*args: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["radix_lib", *args])
        status: Any
        try:
            status = __main__.main()
        except SystemExit as error:
            status = error.code
        out, err = capsys.readouterr()
        return status, out, err

    monkeypatch.setattr(RadixAttentionModel, "from_pretrained", from_pretrained)
    return run


def test_the_few_shot_pair_shares_its_prefix_and_gives_the_same_tokens() -> None:
    """In a process of its own, as a reader types it."""
    done = subprocess.run(
        [sys.executable, "-m", "radix_lib"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    counts = re.findall(r"(\d+) tokens: (\d+) cached, (\d+) computed", done.stdout)
    (n1, hit1, new1), (n2, hit2, new2) = (map(int, count) for count in counts)
    assert hit1 == 0 and new1 == n1
    assert hit2 / n2 > 0.95 and hit2 + new2 == n2
    assert done.stdout.count("tokens: the same") == 2
    assert "bitwise equal" in done.stdout
    assert done.stderr == ""


def test_a_terminal_that_knows_few_characters_gets_the_others_as_escapes() -> None:
    command = [sys.executable, "-m", "radix_lib", "--prompt=日本", "--max-new-tokens=1"]
    done = subprocess.run(
        command,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.decode("cp1252")
    assert r"Request 1: \u65e5\u672c" in printed
    assert r"max |\u0394|" in printed
    assert "tokens: the same" in printed


def test_own_prompts_page_size_and_length(run: Run) -> None:
    prompts = ("--prompt", "Birds can fly.", "--prompt", "Birds can swim.")
    status, out, _ = run(*prompts, "--page-size", "1", "--max-new-tokens", "2")
    assert status == 0
    assert re.search(r"4 tokens: 2 cached, 2 computed", out)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--page-size", "0"], "page_size is a whole number from 1, not 0"),
        (["--prompt", ""], "at least one token"),
        (["--prompt", "caf\udce9"], r"'\udce9' at place 3 of the prompt"),
        (["--max-new-tokens", "0"], "at least 1"),
        (["--max-new-tokens", "9000"], "room for more: 9000"),
        (["--exact", "--page-size", "4"], "only --model goes with it"),
    ],
)
def test_bad_input_is_refused_in_words(run: Run, args: list[str], says: str) -> None:
    status, _, err = run(*args)
    assert status == 2 and says in err


def test_different_tokens_give_exit_status_1(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A baseline that answers otherwise stands for a cache that is wrong."""

    def other(*args: Any) -> tuple[list[int], Tensor]:
        tokens, logits = baseline_generate(*args)
        return [tokens[0] + 1, *tokens[1:]], logits

    monkeypatch.setattr(__main__, "baseline_generate", other)
    status, out, _ = run("--prompt", "Birds can fly.", "--max-new-tokens", "2")
    assert status == 1 and "DIFFERENT" in out


def test_a_checkpoints_penalty_is_left_out_on_both_sides_and_named(
    run: Run, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded.model.generation_config, "repetition_penalty", 5.0)
    with pytest.warns(UserWarning, match=r"repetition_penalty=5\.0"):
        status, out, _ = run()
    assert status == 0, out
    assert out.count("tokens: the same") == 2


def test_committed_answers_are_beyond_doubt(loaded: LoadedModel) -> None:
    """At each step the top two logits are well apart: no rounding can swap them."""
    newline = loaded.tokenizer.encode("\n")
    for prompt in few_shot_prompts(4):
        _, logits = baseline_generate(
            loaded.model, loaded.tokenizer.encode(prompt), 4, stop=newline
        )
        top = logits.topk(2).values
        assert (top[:, 0] - top[:, 1]).min() > 1.0


def test_there_are_only_so_many_prompts() -> None:
    with pytest.raises(ValueError, match="not 99"):
        few_shot_prompts(99)


# ── --exact ───────────────────────────────────────────────────────────────────────────


def test_exact_prints_the_three_legs_and_holds(
    capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    assert __main__.is_exact("a tiny model", tiny_model(), list(range(1, 20)), (4,))
    printed = capsys.readouterr().out
    assert "a tiny model, float32, 19 tokens" in printed
    assert all(leg in printed for leg in ("(a)", "(b)", "(c)"))
    rows = [line for line in printed.splitlines() if line.lstrip().startswith("4  ")]
    assert len(rows) == len(CACHE_STATES)
    assert all(row.endswith(" 0") for row in rows)


def test_one_bit_is_told_and_sets_the_exit_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    one_thread: None,
) -> None:
    def one_bit(*args: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
        for name, found in compare_states(*args, **kwargs):
            yield name, found._replace(differing=1) if name == "forks" else found

    loaded = SimpleNamespace(
        model=tiny_model(),
        name="tiny",
        tokenizer=SimpleNamespace(encode=lambda _: [5, 6, 7, 8]),
    )
    monkeypatch.setattr(__main__, "load_model", lambda name, dtype: loaded)
    monkeypatch.setattr(__main__, "FAMILIES", {})
    monkeypatch.setattr("sys.argv", ["radix_lib", "--exact"])
    assert __main__.main() == 0
    assert "Not one bit differs." in capsys.readouterr().out
    monkeypatch.setattr(__main__, "compare_states", one_bit)
    assert __main__.main() == 1
    assert "NOT EQUAL" in capsys.readouterr().out
