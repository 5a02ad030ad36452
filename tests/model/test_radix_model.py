"""`radix_lib.radix_model` beside Hugging Face's own `generate`: answers, chat, forks,
faults.

Logits are compared in float64, where all ways to compute them agree to about 1e-14.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from radix_lib.page_manager import OutOfPages
from radix_lib.radix_model import Generation, RadixAttentionModel, Sampling
from radix_lib.router import Namespace

Models = Callable[..., Any]
CLOSE = {"rtol": 0, "atol": 1e-10}


class Characters:
    """A tokenizer for models that have none: token i is the i-th printable
    character.
    """

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(character) - 32 for character in text]

    def decode(self, tokens: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(chr(32 + token) for token in tokens)


@pytest.fixture
def cached(tiny_model: Models) -> Callable[..., RadixAttentionModel]:
    """`cached(kind, dtype, n_pages=…)`: a tiny model behind a cache of 64 pages of 4
    tokens.
    """

    def build(
        kind: str = "llama", dtype: torch.dtype = torch.float64, **more: Any
    ) -> RadixAttentionModel:
        options = {"page_size": 4, "n_pages": 64, **more}
        return RadixAttentionModel(tiny_model(kind, dtype), Characters(), **options)

    return build


def some_tokens(n: int, seed: int = 0) -> list[int]:
    return torch.randint(
        3, 97, (n,), generator=torch.Generator().manual_seed(seed)
    ).tolist()


def hf_answer(model: Any, tokens: list[int], max_new_tokens: int = 32) -> list[int]:
    """What Hugging Face's own `generate` answers, greedily."""
    ids = torch.tensor([tokens])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return out[0, len(tokens) :].tolist()


@torch.inference_mode()
def hf_logits(model: Any, tokens: list[int]) -> Tensor:
    """Hugging Face's logits after the last of `tokens`."""
    return model(torch.tensor([tokens]), logits_to_keep=1).logits[0, -1]


def assert_idle(model: RadixAttentionModel) -> None:
    """Nobody holds anything, and the books are in order."""
    model.router.check_integrity()
    usage = model.router.usage()
    assert (usage.locked, usage.private, len(model.router.leases)) == (0, 0, 0)


def state(model: RadixAttentionModel) -> tuple[Any, ...]:
    """What a call that is refused must leave alone: K/V, counts, tree, leases,
    totals.
    """
    nodes = [
        (node.key, node.pages.tolist(), node.lock_ref) for node in model.cache.nodes()
    ]
    leases = [
        (lease.key, lease.n_computed, lease.n_shared, lease.page_table.tolist())
        for lease in model.router.leases
    ]
    counts = model.cache.page_manager.ref_counts.tolist()
    return model.pool.data.tolist(), counts, sorted(nodes), leases, model.stats()


# Answers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_answers_are_hugging_faces(
    tiny_model: Models, cached: Models, kind: str, dtype: torch.dtype
) -> None:
    model, prefix = cached(kind, dtype), some_tokens(30)
    for n_cached, prompt in [
        (0, prefix),
        (28, prefix),  # again: whole pages, and one token is left to compute
        (28, prefix + some_tokens(9, seed=1)),
        (36, prefix + some_tokens(9, seed=1) + some_tokens(3, seed=2)),
        (16, prefix[:18] + some_tokens(5, seed=3)),  # leaves an edge half-way
        (0, some_tokens(1, seed=4)),
    ]:
        answer = model.generate(prompt, 20)
        assert answer.tokens == hf_answer(tiny_model(kind, dtype), prompt, 20)
        assert (answer.prompt_tokens, answer.cached_tokens) == (len(prompt), n_cached)
        assert answer.computed_tokens == len(prompt) - n_cached
        assert_idle(model)


@pytest.mark.usefixtures("one_thread")
def test_answers_of_the_real_model_are_hugging_faces(real: Any) -> None:
    model = RadixAttentionModel(real.model, real.tokenizer)
    shots = "Q: What is 2 + 3?\nA: 5\nQ: What is 7 + 1?\nA: 8\n" * 2
    for question, n_cached in [
        ("Q: What is 4 + 4?\nA:", 0),
        ("Q: What is 6 + 3?\nA:", 64),
    ]:
        tokens = real.tokenizer.encode(shots + question)
        answer = model.generate(shots + question, 10)
        assert answer.tokens == hf_answer(real.model, tokens, 10)
        assert answer.cached_tokens == n_cached
        assert 0 < answer.first_token_seconds <= answer.seconds
    assert_idle(model)


@pytest.mark.parametrize("chunk_tokens", [1, 3, 4, 7, 100])
def test_a_chunked_prefill_gives_the_same_logits(
    tiny_model: Models, cached: Models, chunk_tokens: int
) -> None:
    model, prompt = cached(), some_tokens(30)
    model.generate(prompt[:10], 1)
    lease, logits = model.prefill(prompt, chunk_tokens=chunk_tokens)
    torch.testing.assert_close(
        logits, hf_logits(tiny_model(dtype=torch.float64), prompt), **CLOSE
    )
    assert (lease.n_cached, lease.n_computed, lease.pending) == (8, 30, [])
    model.router.finish(lease)
    assert_idle(model)


def test_a_small_pool_answers_right_while_it_evicts(
    tiny_model: Models, cached: Models
) -> None:
    model, hf = cached(n_pages=14), tiny_model(dtype=torch.float64)
    prefixes = [some_tokens(16, seed) for seed in range(3)]
    for i in range(15):
        prompt = prefixes[i * i % 3] + some_tokens(3 + i, seed=i)
        answer = model.generate(prompt, 12)
        assert answer.tokens == hf_answer(hf, prompt, 12)
        assert_idle(model)
    stats = model.stats()
    assert stats.cached_tokens > 0
    assert stats.computed_tokens + stats.decoded_tokens > 5 * 14 * 4, (
        "too little to evict"
    )


def test_decoding_several_sequences_at_once(tiny_model: Models, cached: Models) -> None:
    model, hf = cached(), tiny_model(dtype=torch.float64)
    prompts = [some_tokens(n, seed=n) for n in (5, 17, 8)]
    leases = [model.prefill(prompt, max_new_tokens=6)[0] for prompt in prompts]
    for step in range(6):
        tokens = [10 + step, 20 + step, 30 + step]
        logits = model.decode_step(leases, tokens)
        for prompt, token in zip(prompts, tokens, strict=True):
            prompt.append(token)
        expected = torch.stack([hf_logits(hf, prompt) for prompt in prompts])
        torch.testing.assert_close(logits, expected, **CLOSE)
    assert [lease.tokens for lease in leases] == prompts
    for lease in leases:
        model.router.finish(lease)
    assert_idle(model)
    # of 23: the answers stay
    assert model.generate(prompts[1] + [3], 1).cached_tokens == 20


def test_generate_prints_nothing(
    cached: Models, capfd: pytest.CaptureFixture[str]
) -> None:
    model = cached()
    model.generate(some_tokens(9), 5)
    model.sample(some_tokens(9), 2, 5, temperature=1.0)
    assert capfd.readouterr() == ("", "")


# Chat


@pytest.mark.usefixtures("one_thread")
def test_a_chat_reuses_its_own_answers(real: Any) -> None:
    model = RadixAttentionModel(real.model, real.tokenizer)
    chat = [{"role": "user", "content": "Name three colours."}]
    first = model.generate(chat, 24)
    chat += [
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "And one more?"},
    ]
    second = model.generate(chat, 8)
    # K/V of the last token of an answer are never computed: there was nothing after it.
    known = first.prompt_tokens + len(first.tokens) - 1
    assert second.cached_tokens == known // 16 * 16 > first.prompt_tokens // 16 * 16
    assert second.tokens == hf_answer(real.model, model.encode(chat), 8)
    assert_idle(model)


def test_a_chat_is_written_by_the_models_own_template(real: Any) -> None:
    model = RadixAttentionModel(real.model, real.tokenizer, n_pages=1)
    chat = [{"role": "user", "content": "Hi"}]
    expected = real.tokenizer.apply_chat_template(chat, add_generation_prompt=True)
    assert model.encode(chat) == expected["input_ids"]
    assert model.encode("Hi there") == real.tokenizer.encode("Hi there")


@pytest.mark.parametrize("container", [list, tuple, np.array, torch.tensor])
def test_a_prompt_may_be_token_ids(
    cached: Models, container: Callable[[list[int]], Any]
) -> None:
    model, prompt = cached(), some_tokens(9)
    assert model.encode(container(prompt)) == prompt
    assert (
        model.generate(container(prompt), 3).tokens == model.generate(prompt, 3).tokens
    )


# Stopping and streaming


def test_generation_stops_at_a_stop_token(cached: Models) -> None:
    model, prompt = cached(), some_tokens(9)
    whole = model.generate(prompt, 20).tokens
    stop = whole[5]
    assert (
        model.generate(prompt, 20, stop=[stop, 96]).tokens
        == whole[: whole.index(stop) + 1]
    )
    assert_idle(model)


def test_generation_stops_at_the_models_own_end_token(
    cached: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompt = cached(), some_tokens(9)
    whole = model.generate(prompt, 20).tokens
    for ends in (whole[4], [96, whole[4]]):  # transformers allows one or several
        monkeypatch.setattr(model.model.generation_config, "eos_token_id", ends)
        assert model.generate(prompt, 20).tokens == whole[: whole.index(whole[4]) + 1]
        assert hf_answer(model.model, prompt, 20) == whole[: whole.index(whole[4]) + 1]


def test_its_own_end_token_ends_it_also_where_others_are_named(
    cached: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompt = cached(), some_tokens(9)
    whole = model.generate(prompt, 20).tokens
    monkeypatch.setattr(model.model.generation_config, "eos_token_id", whole[4])
    assert (
        model.generate(prompt, 20, stop=[96]).tokens
        == whole[: whole.index(whole[4]) + 1]
    )


def test_a_stream_gives_growing_prefixes(cached: Models) -> None:
    model, prompt = cached(), some_tokens(9)
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
    model, prompt = cached(), some_tokens(9)
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


# Sampling


def drawn(logits: Tensor, temperature: float, top_p: float, n: int = 4_000) -> Tensor:
    """How often each token comes, as shares."""
    random = torch.Generator().manual_seed(0)
    sampling = Sampling(temperature, top_p)
    tokens = [sampling.choose(logits, random) for _ in range(n)]
    return torch.bincount(torch.tensor(tokens), minlength=len(logits)) / n


# Tokens 2, 0, 3, 1 in the order of their probabilities, .5 .3 .15 .05
BY_HAND = torch.tensor([0.3, 0.05, 0.5, 0.15]).log()


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (1e-9, [2]),
        (0.49, [2]),
        (0.51, [2, 0]),
        (0.79, [2, 0]),
        (0.81, [2, 0, 3]),
        (0.94, [2, 0, 3]),
        (0.96, [2, 0, 3, 1]),
        (1.0, [2, 0, 3, 1]),
    ],
)
def test_top_p_keeps_the_smallest_set(top_p: float, kept: list[int]) -> None:
    shares = drawn(BY_HAND, 1.0, top_p)
    assert sorted(kept) == shares.nonzero().flatten().tolist()
    expected = torch.zeros(4)
    expected[kept] = BY_HAND.exp()[kept]
    torch.testing.assert_close(shares, expected / expected.sum(), rtol=0, atol=0.03)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_divides_the_logits(temperature: float) -> None:
    expected = (BY_HAND / temperature).softmax(-1)
    torch.testing.assert_close(
        drawn(BY_HAND, temperature, 1.0), expected, rtol=0, atol=0.03
    )


def test_temperature_zero_takes_the_largest_and_draws_nothing() -> None:
    random = torch.Generator().manual_seed(0)
    before = random.get_state()
    assert Sampling().choose(BY_HAND, random) == 2
    assert torch.equal(random.get_state(), before)
    assert Sampling(temperature=1e-6).choose(BY_HAND.bfloat16(), random) == 2


def test_samples_are_those_that_come_alone(cached: Models) -> None:
    """Sample i is drawn with seed + i, whether the others are there or not, cold or on
    a hit.
    """
    model, prompt = cached(), some_tokens(10)
    sampling = {"temperature": 1.0, "top_p": 0.9}
    samples = model.sample(prompt, 4, 16, seed=7, **sampling)
    assert_idle(model)
    assert len({tuple(sample.tokens) for sample in samples}) == 4
    for i, sample in enumerate(samples):
        for other in (model, cached()):
            assert (
                other.generate(prompt, 16, seed=7 + i, **sampling).tokens
                == sample.tokens
            )
    again = cached().sample(prompt, 4, 16, seed=7, **sampling)
    assert [sample.tokens for sample in again] == [sample.tokens for sample in samples]


def test_greedy_samples_are_the_greedy_answer(cached: Models, kind: str) -> None:
    model, prompt = cached(kind), some_tokens(10)
    alone = cached(kind).generate(prompt, 12).tokens
    assert [sample.tokens for sample in model.sample(prompt, 3, 12)] == [alone] * 3


def test_samples_end_each_at_its_own_stop(cached: Models) -> None:
    model, prompt = cached(), some_tokens(10)
    sampling = {"temperature": 1.5, "seed": 3, "stop": list(range(3, 20))}
    samples = model.sample(prompt, 6, 16, **sampling)
    assert len({len(sample.tokens) for sample in samples}) > 2
    for i, sample in enumerate(samples):
        sampling["seed"] = 3 + i
        assert model.generate(prompt, 16, **sampling).tokens == sample.tokens
    assert_idle(model)


def test_a_sample_that_ended_gives_its_pages_back_at_once(cached: Models) -> None:
    model, prompt = cached(), some_tokens(10)
    sampling = {"temperature": 1.5, "seed": 3, "stop": list(range(3, 20))}
    lengths = [len(sample.tokens) for sample in model.sample(prompt, 6, 16, **sampling)]
    model.flush()
    first = min(lengths)
    assert first < max(lengths)
    answers = model._answers(prompt, 6, 16, **sampling)
    running = [(next(answers), len(model.router.leases))[1] for _ in range(first + 1)]
    assert running[:first] == [6] * first and running[first] == 6 - lengths.count(first)
    answers.close()  # type: ignore[attr-defined]
    assert_idle(model)


def test_a_prompt_is_computed_once_for_all_its_samples(cached: Models) -> None:
    model = cached()
    seen: list[int] = []
    handle = model.model.model.layers[0].self_attn.q_proj.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape[1])
    )
    model.sample(some_tokens(10), 3, 5)
    handle.remove()
    assert seen == [10, 3, 3, 3, 3]


# Forks


@pytest.mark.parametrize("length", range(5, 10))
def test_forks_go_their_own_ways(
    tiny_model: Models, cached: Models, length: int
) -> None:
    """Wherever the prompt ends in its page, neither side sees what the other wrote."""
    model, hf = cached(), tiny_model(dtype=torch.float64)
    trunk = some_tokens(length)
    lease = model.prefill(trunk, max_new_tokens=9)[0]
    leases = [lease, model.fork(lease, 9)]
    leases.append(model.fork(leases[1], 9))
    model.router.check_integrity()
    n_whole = length // 4
    for fork in leases[1:]:  # whole pages are the same ones, the rest is its own
        assert (fork.page_table[:n_whole] == lease.page_table[:n_whole]).all()
        assert not set(fork.page_table[n_whole:]) & set(lease.page_table[n_whole:])
    texts = [list(trunk) for _ in leases]
    for step in range(9):
        for i in (2, 0, 1):  # each by itself, in turn: no batch hides who wrote where
            token = 10 + 9 * i + step
            texts[i].append(token)
            logits = model.decode_step([leases[i]], [token])[0]
            torch.testing.assert_close(logits, hf_logits(hf, texts[i]), **CLOSE)
    for fork in leases:
        model.router.finish(fork)
    assert_idle(model)
    for text in texts:
        assert model.generate([*text, 3], 1).cached_tokens == len(text) // 4 * 4


def test_a_fork_at_the_end_of_a_page_copies_none(
    cached: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, copied = cached(), []
    monkeypatch.setattr(model.pool, "copy_page", lambda *pages: copied.append(pages))
    for length, n_copies in ((8, 0), (9, 1)):
        model.fork(
            model.prefill(some_tokens(length, seed=length), max_new_tokens=3)[0], 3
        )
        assert len(copied) == n_copies


def test_a_fork_outlives_its_origin(tiny_model: Models, cached: Models) -> None:
    model, hf = cached(n_pages=8), tiny_model(dtype=torch.float64)
    text = some_tokens(10)
    lease = model.prefill(text, max_new_tokens=2)[0]
    fork = model.fork(lease, 6)
    model.router.cancel(lease)
    # Somebody else takes whatever is free now, and fills it.
    other = model.prefill(some_tokens(15, seed=9))[0]
    for token in range(20, 26):
        text.append(token)
        logits = model.decode_step([fork], [token])[0]
        torch.testing.assert_close(logits, hf_logits(hf, text), **CLOSE)
    model.router.finish(fork)
    model.router.finish(other)
    assert_idle(model)


def test_a_fork_in_the_middle_of_an_answer(tiny_model: Models, cached: Models) -> None:
    model, hf = cached(), tiny_model(dtype=torch.float64)
    text = some_tokens(6)
    lease = model.prefill(text, max_new_tokens=8)[0]
    for token in range(50, 55):
        model.decode_step([lease], [token])
        text.append(token)
    fork = model.fork(lease, 4)
    logits = model.decode_step([lease, fork], [1, 2])
    expected = torch.stack([hf_logits(hf, [*text, token]) for token in (1, 2)])
    torch.testing.assert_close(logits, expected, **CLOSE)


# Namespaces


def test_namespaces_share_nothing(tiny_model: Models, cached: Models) -> None:
    model, prompt = cached(), some_tokens(20)
    expected = hf_answer(tiny_model(dtype=torch.float64), prompt, 6)
    names = [
        None,
        "a",
        Namespace("a", "bc"),
        Namespace("ab", "c"),
        Namespace("abc", ""),
    ]
    for n_cached in (0, 16):
        for name in names:
            answer = model.generate(prompt, 6, namespace=name)
            assert (answer.cached_tokens, answer.tokens) == (n_cached, expected)
    pages = [page for node in model.cache.nodes() for page in node.pages.tolist()]
    # 25 tokens each, in pages of 4
    assert len(pages) == len(set(pages)) == len(names) * 6


# What goes wrong


BAD: list[tuple[Callable[[RadixAttentionModel], Any], str]] = [
    (lambda model: model.generate([]), "at least one token"),
    (lambda model: model.generate(""), "at least one token"),
    (lambda model: model.generate([1, 97]), "97"),
    (lambda model: model.generate([1, -1]), "-1"),
    (lambda model: model.generate([1, 2.5]), "2.5"),
    (lambda model: model.generate([1] * 257, 1), "256"),
    (lambda model: model.generate([1] * 250, 7), "256"),
    (lambda model: model.generate([1], 0), "max_new_tokens=0"),
    (lambda model: model.generate([1], temperature=-1), "temperature=-1"),
    (lambda model: model.generate([1], temperature=float("nan")), "temperature=nan"),
    (lambda model: model.generate([1], top_p=0), "top_p=0"),
    (lambda model: model.generate([1], top_p=1.5), "top_p=1.5"),
    (lambda model: model.generate([1], top_p=float("nan")), "top_p=nan"),
    (lambda model: model.sample([1], 0), "n=0"),
    (lambda model: model.prefill([1], chunk_tokens=0), "chunk_tokens"),
    # type: ignore[arg-type]
    (lambda model: model.prefill([1] * 9, chunk_tokens=2.5), "not 2.5"),
    (lambda model: model.generate([1], stop=[5, 97]), "token id 97"),
    (lambda model: model.prefill([1], max_new_tokens=-1), "-1"),
]


@pytest.mark.parametrize(("call", "said"), BAD, ids=[said for _, said in BAD])
def test_bad_input_is_refused_and_nothing_changes(
    cached: Models, call: Callable[[RadixAttentionModel], Any], said: str
) -> None:
    model = cached(n_pages=80)
    model.generate(some_tokens(9), 2)
    before = state(model)
    with pytest.raises(ValueError, match=said):
        call(model)
    assert state(model) == before


def test_a_request_longer_than_the_pool_is_refused(cached: Models) -> None:
    model = cached(n_pages=4)
    with pytest.raises(ValueError, match="16"):
        model.generate([1] * 12, 5)
    assert model.generate([1] * 12, 4).prompt_tokens == 12


def test_a_request_that_has_to_wait_is_told_so(cached: Models) -> None:
    model = cached(n_pages=6)
    lease = model.prefill(some_tokens(9))[0]
    before = state(model)
    with pytest.raises(OutOfPages, match="pages needed: 4, free: 3"):
        model.generate(some_tokens(13, seed=1), 3)
    with pytest.raises(OutOfPages):  # the prompt fits, the third sample does not
        model.sample(some_tokens(2, seed=2), 4, 2)
    assert state(model)[1:4] == before[1:4]
    model.router.finish(lease)
    assert len(model.generate(some_tokens(13, seed=1), 3).tokens) == 3


@pytest.mark.parametrize(
    ("leases", "tokens", "said"),
    [
        ("a", [97], "97"),
        ("a", [-1], "-1"),
        ("a", [2.5], "2.5"),
        ("ab", [1], "longer|shorter"),
        ("", [], "at least one"),
        ("f", [1], "must fit in 2 pages"),  # full
        ("p", [1], "still to prefill"),
        ("ap", [1, 1], "still to prefill"),
        ("af", [1, 1], "must fit in 2 pages"),
        ("e", [1], "not live"),  # ended: its pages may be another's by now
        ("ae", [1, 1], "not live"),
        ("aa", [1, 2], "slot"),  # both would write to the same slot
    ],
)
def test_a_bad_decode_step_is_refused_and_nothing_changes(
    cached: Models, leases: str, tokens: list[int], said: str
) -> None:
    model = cached()
    known = {
        name: model.prefill(some_tokens(6, seed), max_new_tokens=4)[0]
        for seed, name in enumerate("abe")
    }
    known["f"] = model.prefill(some_tokens(8, seed=7))[0]
    known["p"] = model.router.admit(some_tokens(6, seed=8), None, 4)
    model.router.finish(known["e"])
    before = state(model)
    with pytest.raises(ValueError, match=said):
        model.decode_step([known[name] for name in leases], tokens)
    assert state(model) == before


# Faults


class Fault(Exception):
    """Thrown where a program goes wrong; KeyboardInterrupt is what a reader throws."""


@contextmanager
def failing(
    module: torch.nn.Module, call: int, error: type[BaseException]
) -> Iterator[None]:
    """Make `module` raise at its `call`-th call."""
    calls = iter(range(call))

    def hook(*_: Any) -> None:
        if next(calls, None) is None:
            raise error

    handle = module.register_forward_pre_hook(hook)
    try:
        with pytest.raises(error):
            yield
    finally:
        handle.remove()


@pytest.mark.parametrize("error", [Fault, KeyboardInterrupt])
@pytest.mark.parametrize(
    "call", [0, 1, 3]
)  # in the prefill, the first and the third step
@pytest.mark.parametrize(
    "ask",
    [
        lambda model, prompt: model.generate(prompt, 8),
        lambda model, prompt: list(model.stream(prompt, 8)),
        lambda model, prompt: model.sample(prompt, 3, 8, temperature=1.0),
    ],
    ids=["generate", "stream", "sample"],
)
def test_a_fault_in_the_model_leaks_nothing(
    tiny_model: Models, cached: Models, ask: Any, call: int, error: type[BaseException]
) -> None:
    model, prompt = cached(n_pages=24), some_tokens(19)
    model.generate(prompt[:9], 4)
    before = model.stats()
    # Half of the layers have written their K/V by then.
    with failing(model.model.model.layers[1].mlp, call, error):
        ask(model, prompt)
    assert_idle(model)
    assert model.stats().requests == before.requests + (call > 0)
    answer = model.generate(prompt, 8)
    assert answer.tokens == hf_answer(tiny_model(dtype=torch.float64), prompt, 8)
    assert answer.cached_tokens == (16 if call else 8)
    assert_idle(model)


@pytest.mark.parametrize("error", [Fault, KeyboardInterrupt])
def test_a_fault_between_two_chunks_of_a_prefill(
    tiny_model: Models, cached: Models, error: type[BaseException]
) -> None:
    model, prompt = cached(), some_tokens(30)
    with failing(model.model.model.layers[1].mlp, 2, error):
        model.prefill(prompt, chunk_tokens=9)
    assert_idle(model)
    lease, logits = model.prefill(prompt)
    assert lease.n_cached == 16, "what two chunks computed was shared and stays right"
    torch.testing.assert_close(
        logits, hf_logits(tiny_model(dtype=torch.float64), prompt), **CLOSE
    )


@pytest.mark.parametrize("error", [Fault, KeyboardInterrupt])
def test_after_a_fault_in_a_decode_step_it_can_be_tried_again(
    tiny_model: Models, cached: Models, error: type[BaseException]
) -> None:
    model, hf = cached(), tiny_model(dtype=torch.float64)
    prompts = [some_tokens(n, seed=n) for n in (7, 12)]
    leases = [model.prefill(prompt, max_new_tokens=3)[0] for prompt in prompts]
    before = state(model)[1:]
    with failing(model.model.model.layers[1].mlp, 0, error):
        model.decode_step(leases, [5, 6])
    assert state(model)[1:] == before
    logits = model.decode_step(leases, [8, 9])
    expected = torch.stack(
        [hf_logits(hf, [*prompts[0], 8]), hf_logits(hf, [*prompts[1], 9])]
    )
    torch.testing.assert_close(logits, expected, **CLOSE)


@pytest.mark.parametrize("error", [Fault, KeyboardInterrupt])
def test_a_fault_while_a_tail_is_copied_leaks_no_fork(
    cached: Models, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = cached()

    def copy_page(source: int, target: int) -> None:
        raise error

    lease = model.prefill(some_tokens(10), max_new_tokens=3)[0]
    with monkeypatch.context() as patch:
        patch.setattr(model.pool, "copy_page", copy_page)
        with pytest.raises(error):
            model.fork(lease, 3)
        assert list(model.router.leases) == [lease]
        with pytest.raises(error):
            model.sample(some_tokens(10, seed=1), 2, 3)
    assert list(model.router.leases) == [lease]
    model.router.finish(lease)
    assert_idle(model)


@pytest.mark.parametrize("error", [Fault, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["commit", "finish", "fork"])
def test_a_fault_in_the_router_leaks_nothing(
    cached: Models,
    name: str,
    error: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, prompt = cached(), some_tokens(10)
    for when in ("before", "after"):
        call = getattr(model.router, name)

        def fail(*args: Any, when: str = when, call: Any = call) -> None:
            if when == "after":
                call(*args)
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(model.router, name, fail)
            with pytest.raises(error):
                model.sample(prompt, 2, 3)
        if (name, when) == ("fork", "after"):  # the fork never reached the model
            [lost] = model.router.leases
            model.router.cancel(lost)
        assert_idle(model)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_fault_while_flushing_leaves_books_that_add_up(
    cached: Models, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = cached()
    model.generate(some_tokens(10), 3)
    shorten = model.cache._shorten

    def fail(leaf: Any, keep: int) -> None:
        if when == "after":  # the leaf is gone, its pages are not free yet
            shorten(leaf, keep)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model.cache, "_shorten", fail)
        with pytest.raises(KeyboardInterrupt):
            model.flush()
    assert_idle(model)
    model.flush()
    assert model.stats().pages.free == 64


# Books


def test_stats_count_what_was_done(cached: Models) -> None:
    model, prompt = cached(), some_tokens(10)
    assert model.stats() == (0, 0, 0, 0, 0, (64, 0, 0, 0))
    model.generate(prompt, 5)  # computes 10, and 4 of the 5 new ones
    assert model.stats()[:5] == (1, 10, 0, 10, 4)
    model.generate(prompt, 1)
    assert model.stats()[:5] == (2, 20, 8, 12, 4)
    model.sample(prompt, 3, 3)
    assert model.stats()[:5] == (3, 30, 16, 14, 10)
    lease = model.prefill(prompt, max_new_tokens=1)[0]
    assert model.stats()[:5] == (4, 40, 24, 16, 10)
    assert model.stats().pages == model.router.usage()
    model.router.cancel(lease)
    with pytest.raises(ValueError, match="97"):
        model.generate([97])
    assert model.stats()[:5] == (4, 40, 24, 16, 10)


def test_pages_are_never_lost_over_many_requests(cached: Models) -> None:
    model = cached(n_pages=20)
    for seed in range(30):
        prompt = some_tokens(5 + seed, seed % 7)
        if seed % 3 == 0:
            model.sample(prompt, 2, 3, temperature=1.0, seed=seed)
        elif seed % 3 == 1:
            next(iter(model.stream(prompt, 5)))
        else:
            model.generate(prompt, 4)
        assert_idle(model)
        usage = model.router.usage()
        assert usage.free + usage.unlocked == 20


def test_from_pretrained_honours_what_it_is_told(
    tmp_path: Any, tiny_model: Models
) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tiny_model().save_pretrained(tmp_path)
    words = {"a": 0, "b": 1, "[UNK]": 2}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    ).save_pretrained(tmp_path)
    model = RadixAttentionModel.from_pretrained(
        str(tmp_path), dtype=torch.bfloat16, page_size=2, n_pages=9, policy="fifo"
    )
    assert model.pool.data.dtype == model.model.dtype == torch.bfloat16
    # K and V, heads, slots, head_dim
    assert model.pool.get_page(2, 8).shape == (
        2,
        2,
        2,
        8,
    )
    assert model.pool.data.numel() == 3 * 9 * model.pool.get_page(0, 0).numel()
    assert (model.router.page_size, model.cache.page_manager.n_pages) == (2, 9)
    answer = model.generate("a", 3)
    assert answer.prompt_tokens == 1 and len(answer.tokens) == 3
    assert_idle(model)


def test_after_a_change_of_weights_the_cache_is_flushed(tiny_model: Models) -> None:
    """K/V of the former weights are stale, and only the caller knows: sglang
    `flush_cache`.
    """
    model = RadixAttentionModel(
        copy.deepcopy(tiny_model()), Characters(), page_size=4, n_pages=32
    )
    prompt = some_tokens(20)

    def logits() -> Tensor:
        lease, row = model.prefill(prompt)
        model.router.finish(lease)
        return row

    logits()
    with torch.no_grad():
        model.model.model.layers[0].self_attn.v_proj.weight.mul_(-1)
    expected = model.model(torch.tensor([prompt]), logits_to_keep=1).logits[0, 0]
    assert (logits() - expected).abs().max() > 0.01, (
        "stale pages were not read: no test at all"
    )
    lease, _ = model.prefill(prompt)
    with pytest.raises(RuntimeError, match="still running: 1;"):
        model.flush()
    model.router.finish(lease)
    model.flush()
    assert model.stats().pages.free == 32
    torch.testing.assert_close(logits(), expected, rtol=0, atol=1e-5)
