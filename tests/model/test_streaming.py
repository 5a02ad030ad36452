"""Where an answer ends, and what a stream shows of it on the way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from radix_lib.equality import baseline_generate
from radix_lib.radix_model import Generation, RadixAttentionModel
from radix_lib.sampling import Sampling
from tests.support.answers import (
    Characters,
    Models,
    assert_idle,
    hf_answer,
    some_tokens,
)

# ── Stopping ──────────────────────────────────────────────────────────────────────────


def test_generation_stops_at_a_stop_token(cached: Models) -> None:
    model = cached()
    prompt = some_tokens(9)
    whole = model.generate(prompt, 20).tokens
    stop = whole[5]
    assert (
        model.generate(prompt, 20, stop=[stop, 96]).tokens
        == whole[: whole.index(stop) + 1]
    )
    assert_idle(model)


@pytest.mark.parametrize(
    "wrapped",
    [
        int,
        np.int64,
        torch.tensor,
        lambda stop: [stop],
        lambda stop: {stop},
        lambda stop: (token for token in (96, stop)),
        lambda stop: np.array([96, stop], np.uint8),
        lambda stop: torch.tensor([96, stop]),
        lambda stop: [torch.tensor(96), torch.tensor(stop)],
        lambda stop: np.array(stop),
    ],
)
def test_stop_tokens_may_come_in_any_container(
    cached: Models, wrapped: Callable[[int], Any]
) -> None:
    model = cached()
    prompt = some_tokens(9)
    whole = model.generate(prompt, 20).tokens
    expected = whole[: whole.index(whole[5]) + 1]
    assert model.generate(prompt, 20, stop=wrapped(whole[5])).tokens == expected
    theirs, _ = baseline_generate(model.model, prompt, 20, wrapped(whole[5]))
    assert theirs == expected


def test_a_stop_token_of_0_is_one(cached: Models) -> None:
    model = cached()
    assert Sampling(stop=0).stop == (0,)
    prompt = next(
        prompt
        for prompt in ([seed] for seed in range(97))
        if 0 in model.generate(prompt, 20).tokens[:-1]
    )
    whole = model.generate(prompt, 20).tokens
    stopped = model.generate(prompt, 20, stop=0).tokens
    assert stopped == whole[: whole.index(0) + 1]


def test_generation_stops_at_the_models_own_end_token(
    cached: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = cached()
    prompt = some_tokens(9)
    whole = model.generate(prompt, 20).tokens
    for ends in (whole[4], [96, whole[4]]):  # transformers allows one or several
        monkeypatch.setattr(model.model.generation_config, "eos_token_id", ends)
        assert model.generate(prompt, 20).tokens == whole[: whole.index(whole[4]) + 1]
        assert hf_answer(model.model, prompt, 20) == whole[: whole.index(whole[4]) + 1]


def test_its_own_end_token_ends_it_also_where_others_are_named(
    cached: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = cached()
    prompt = some_tokens(9)
    whole = model.generate(prompt, 20).tokens
    monkeypatch.setattr(model.model.generation_config, "eos_token_id", whole[4])
    assert (
        model.generate(prompt, 20, stop=[96]).tokens
        == whole[: whole.index(whole[4]) + 1]
    )


# ── Streaming ─────────────────────────────────────────────────────────────────────────


def test_a_stream_gives_growing_prefixes(cached: Models) -> None:
    model = cached()
    prompt = some_tokens(9)
    parts: list[Generation] = list(model.stream(prompt, 12))
    assert [len(part.tokens) for part in parts] == list(range(1, 13))
    assert all(parts[-1].tokens[: len(part.tokens)] == part.tokens for part in parts)
    assert all(part.text == Characters().decode(part.tokens) for part in parts)
    assert {(p.prompt_tokens, p.cached_tokens, p.computed_tokens) for p in parts} == {
        (9, 0, 9)
    }
    assert {part.first_token_seconds for part in parts} == {parts[0].seconds}
    assert [part.seconds for part in parts] == sorted(part.seconds for part in parts)
    assert model.generate(prompt, 12).tokens == parts[-1].tokens


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_a_stream_that_is_closed_early_holds_nothing(
    cached: Models, taken: int
) -> None:
    model = cached()
    prompt = some_tokens(9)
    stream = model.stream(prompt, 12)
    for _ in range(taken):
        next(stream)
    assert model.router.usage().private > 0 or taken == 0
    stream.close()
    assert_idle(model)
    assert next(iter(model.stream(prompt, 12))).cached_tokens == (8 if taken else 0)
    assert_idle(model)  # this one was only dropped


def test_a_stream_refuses_bad_input_when_it_starts(cached: Models) -> None:
    with pytest.raises(ValueError, match="temperature=-1"):
        next(cached().stream(some_tokens(3), temperature=-1))


# ── Texts that grow ───────────────────────────────────────────────────────────────────


class Bytes:
    """A tokenizer whose tokens are the bytes of `text`, numbered as they come."""

    def __init__(self, text: str):
        self.tokens: list[int] = []
        self.bytes = bytes(dict.fromkeys(text.encode()))
        self.tokens = [self.bytes.index(byte) for byte in text.encode()]

    def decode(self, tokens: list[int], skip_special_tokens: bool = False) -> str:
        return bytes(self.bytes[token] for token in tokens).decode(errors="replace")


def words(vocabulary: Sequence[str], **more: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of transformers whose token i is the i-th of `vocabulary`."""
    ids = {word: i for i, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=vocabulary[0]))
    tokenizer.decoder = more.pop("decoder", None)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **more)


@pytest.fixture
def streamed(
    cached: Models, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[Generation]]:
    """`streamed(tokenizer, tokens)`: the parts of a stream that chooses just those."""

    def stream(tokenizer: Any, tokens: list[int]) -> list[Generation]:
        model: RadixAttentionModel = cached()
        model.tokenizer = tokenizer
        chosen = iter(tokens)
        monkeypatch.setattr(Sampling, "choose", lambda *_: next(chosen))
        parts = list(model.stream([1], len(tokens)))
        assert parts[-1].tokens == tokens
        for part, following in itertools.pairwise(parts):
            assert following.text.startswith(part.text), (part.text, following.text)
        return parts

    return stream


MANY_BYTES = "a né 日本 😀€ 👩‍👩‍👧!"


def test_a_character_is_shown_when_all_its_bytes_have_come(
    streamed: Callable[..., list[Generation]],
) -> None:
    tokenizer = Bytes(MANY_BYTES)
    parts = streamed(tokenizer, tokenizer.tokens)
    data = MANY_BYTES.encode()
    whole = [data[:n].decode(errors="ignore") for n in range(1, len(data) + 1)]
    assert [part.text for part in parts] == whole


def test_an_answer_is_whole_in_the_end(
    streamed: Callable[..., list[Generation]],
) -> None:
    tokenizer = Bytes(MANY_BYTES)
    for n in range(1, len(tokenizer.tokens)):
        tokens = tokenizer.tokens[:n]
        assert streamed(tokenizer, tokens)[-1].text == tokenizer.decode(tokens, True)


def test_an_answer_cut_inside_a_character_ends_with_what_decoding_gives(
    streamed: Callable[..., list[Generation]],
) -> None:
    tokenizer = Bytes("a😀")
    parts = streamed(tokenizer, tokenizer.tokens[:-1])
    assert [part.text for part in parts] == [
        "a",
        "a",
        "a",
        "a\N{REPLACEMENT CHARACTER}",
    ]


def test_bytes_that_spell_nothing_are_shown_once_something_follows(
    streamed: Callable[..., list[Generation]],
) -> None:
    tokenizer = Bytes("aé")
    first, broken, _ = tokenizer.tokens
    parts = streamed(tokenizer, [first, broken, broken, first, first])
    assert [part.text for part in parts] == ["a", "a", "a", "a��a", "a��aa"]


@pytest.mark.parametrize("seed", range(20))
def test_spaces_that_a_tokenizer_cleans_up_are_held_back(
    streamed: Callable[..., list[Generation]], seed: int
) -> None:
    vocabulary = ["do", "n't", ".", "'", "n", "'t", "s", "'s", "v", "'ve", "e", ","]
    tokenizer = words(vocabulary, clean_up_tokenization_spaces=True)
    tokens = [token % len(vocabulary) for token in some_tokens(12, seed)]
    parts = streamed(tokenizer, tokens)
    plain = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
    assert parts[-1].text == tokenizer.decode(tokens)
    assert parts[-1].text != plain, "nothing was cleaned up: no test at all"


def test_a_tokenizer_that_rewrites_a_run_of_bytes_takes_nothing_back(
    streamed: Callable[..., list[Generation]],
) -> None:
    """Llama's fallback: one byte that is not complete spoils the whole run."""
    data = "a€😀".encode()
    vocabulary = [f"<0x{byte:02X}>" for byte in dict.fromkeys(data)]
    decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = words(vocabulary, decoder=decoder)
    tokens = [vocabulary.index(f"<0x{byte:02X}>") for byte in data]
    assert tokenizer.decode(tokens[:5]) == "�" * 5
    texts = [part.text for part in streamed(tokenizer, tokens)]
    assert texts == ["a"] * 3 + ["a€"] * 4 + ["a€😀"]
    texts = [part.text for part in streamed(tokenizer, tokens[:5])]
    assert texts == ["a"] * 3 + ["a€"] * 2, "not even at the end"


def test_the_real_tokenizer_streams_characters_of_several_tokens(
    real: Any, streamed: Callable[..., list[Generation]]
) -> None:
    """Its tokens are numbered anew, since the tiny model knows fewer."""
    ids = real.tokenizer.encode(MANY_BYTES)
    known = list(dict.fromkeys(ids))

    class Renumbered:
        def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
            return real.tokenizer.decode([known[token] for token in tokens])

    parts = streamed(Renumbered(), [known.index(token) for token in ids])
    assert parts[-1].text == MANY_BYTES
    assert not any("�" in part.text for part in parts)
    assert len({part.text for part in parts}) < len(parts), "no token was incomplete"
