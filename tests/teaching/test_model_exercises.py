"""Chapters 01, 06, 07 and 11: right answers to exercises pass, wrong ones do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from radix_lib import RadixAttentionModel
from radix_lib.teaching import (
    Stop,
    attends_by_page,
    computes_in_pieces,
    counts_sample_pages,
    merges_halves,
    searches_on_forks,
    stops_at_text,
)

PROMPT = [i * 7 % 97 for i in range(45)]

# ── Chapter 01 ────────────────────────────────────────────────────────────────────────


def pieces_of(size, ids):
    return [ids[start : start + size] for start in range(0, len(ids), size)]


def in_pieces(forward, ids, size):
    cache = DynamicCache()
    for piece in pieces_of(size, ids):
        logits = forward(piece, cache)
    return logits


def each_alone(forward, ids, size):
    for piece in pieces_of(size, ids):
        logits = forward(piece, DynamicCache())
    return logits


def at_once(forward, ids, size):
    return forward(ids, None)


def without_an_end(forward, ids, size):
    in_pieces(forward, ids, size)


def test_pieces_that_share_a_cache_pass(tiny_model: Callable[..., Any]):
    computes_in_pieces(tiny_model(), PROMPT)(in_pieces)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (each_alone, "logits are off by"),
        (at_once, "45 tokens at a time, not 40"),
        (without_an_end, "nothing was returned"),
    ],
)
def test_other_pieces_are_told(tiny_model: Callable[..., Any], wrong, told):
    with pytest.raises(AssertionError, match=told):
        computes_in_pieces(tiny_model(), PROMPT, atol=1e-4)(wrong)


# ── Chapter 06 ────────────────────────────────────────────────────────────────────────


def paged_attention(query, pages, n_tokens, scaling, largest=-torch.inf):
    largest = torch.tensor(largest)
    total = torch.zeros(())
    values = torch.zeros(64)
    for i, (k, v) in enumerate(pages):
        n_filled = min(16, n_tokens - 16 * i)
        scores = k[:n_filled] @ query * scaling
        new = torch.maximum(largest, scores.max())
        weights = (scores - new).exp()
        total = total * (largest - new).exp() + weights.sum()
        values = values * (largest - new).exp() + weights @ v[:n_filled]
        largest = new
    return values / total


def from_zero(query, pages, n_tokens, scaling):
    return paged_attention(query, pages, n_tokens, scaling, largest=0.0)


def mean_of_pages(query, pages, n_tokens, scaling):
    found = []
    for i, (k, v) in enumerate(pages):
        n_filled = min(16, n_tokens - 16 * i)
        found.append((k[:n_filled] @ query * scaling).softmax(0) @ v[:n_filled])
    return torch.stack(found).mean(0)


def all_at_once(query, pages, n_tokens, scaling):
    keys, values = (torch.cat(parts)[:n_tokens] for parts in zip(*pages, strict=True))
    return (keys @ query * scaling).softmax(0) @ values


def without_the_largest(query, pages, n_tokens, scaling):
    total = torch.zeros(())
    values = torch.zeros(64)
    for i, (k, v) in enumerate(pages):
        n_filled = min(16, n_tokens - 16 * i)
        weights = (k[:n_filled] @ query * scaling).exp()
        total = total + weights.sum()
        values = values + weights @ v[:n_filled]
    return values / total


def test_a_running_softmax_passes():
    attends_by_page(paged_attention)


@pytest.mark.parametrize(
    "wrong", [mean_of_pages, all_at_once, without_the_largest, from_zero]
)
def test_other_attention_is_told(wrong):
    with pytest.raises(AssertionError, match="it differs"):
        attends_by_page(wrong)


# ── Chapter 07 ────────────────────────────────────────────────────────────────────────


def sample_pages(n_prompt, n_new, n, page_size):
    n_shared = n_prompt // page_size
    n_each = -(-(n_prompt + n_new) // page_size)
    return n_shared + n * (n_each - n_shared)


def test_pages_of_samples_are_counted():
    counts_sample_pages(sample_pages)
    with pytest.raises(AssertionError, match="6 pages, not 8"):
        counts_sample_pages(lambda p, m, n, size: -(-p // size) + n * -(-m // size))


class Letters:
    """A tokenizer of one letter a token."""

    def encode(self, text, **_):
        return [ord(letter) - 32 for letter in text]

    def decode(self, tokens, **_):
        return "".join(chr(32 + int(token)) for token in tokens)


@pytest.fixture
def new_server(tiny_model: Callable[..., Any]) -> Callable[[], RadixAttentionModel]:
    def make() -> RadixAttentionModel:
        return RadixAttentionModel(tiny_model(), Letters(), page_size=4, n_pages=64)

    return make


def until(stream, text):
    answer = ""
    try:
        for so_far in stream:
            answer = so_far.text
            if text in answer:
                return answer[: answer.index(text)]
        return answer
    finally:
        stream.close()


def without_closing(stream, text):
    for so_far in stream:
        if text in so_far.text:
            return so_far.text[: so_far.text.index(text)]
    return so_far.text


def too_late(stream, text):
    *_, last = stream
    return last.text.partition(text)[0]


def test_a_stream_that_is_cut_and_closed_passes(new_server):
    answer = new_server().generate("Hello", 20).text
    half = Stop("Hello", answer[9:11], answer[: answer.index(answer[9:11])], 13)
    stops = [half, Stop("Hello", "no such text", None, 19)]
    stops_at_text(new_server, stops)(until)
    for wrong, told in ((without_closing, "still open"), (too_late, "were decoded")):
        with pytest.raises(AssertionError, match=told):
            stops_at_text(new_server, [half])(wrong)


def beams(server, prompt, width, n_new):
    """A beam search of width 1, on forks."""
    lease, logits = server.prefill(prompt, max_new_tokens=n_new)
    tokens = [int(logits.argmax())]
    while len(tokens) < n_new:
        fork = server.fork(lease, n_new)
        server.router.cancel(lease)
        lease = fork
        (row,) = server.decode_step([lease], tokens[-1:])
        tokens.append(int(row.argmax()))
    server.router.cancel(lease)
    return tokens


def beams_that_leave_a_lease(server, prompt, width, n_new):
    server.prefill([1, 2, 3])
    return beams(server, prompt, width, n_new)


def beams_that_admit_twice(server, prompt, width, n_new):
    beams(server, prompt, width, n_new)
    return beams(server, prompt, width, n_new)


def test_a_search_on_forks_passes(new_server):
    due = new_server().generate(PROMPT, 4).tokens
    contract = searches_on_forks(new_server, PROMPT, 1, due)
    contract(beams)
    for wrong, told in (
        (lambda *_: [0, 0, 0, 0], "not"),
        (beams_that_leave_a_lease, "1 leases are left"),
        (beams_that_admit_twice, "more than once"),
    ):
        with pytest.raises(AssertionError, match=told):
            contract(wrong)


# ── Chapter 11 ────────────────────────────────────────────────────────────────────────


def merge(one, other):
    top = torch.maximum(one[0], other[0])
    fades = torch.exp(one[0] - top), torch.exp(other[0] - top)
    weight = one[1] * fades[0] + other[1] * fades[1]
    return top, weight, one[2] * fades[0] + other[2] * fades[1]


def without_fading(one, other):
    return torch.maximum(one[0], other[0]), one[1] + other[1], one[2] + other[2]


def by_bare_weights(one, other):
    top = torch.maximum(one[0], other[0])
    weight = one[1] * torch.exp(one[0]) + other[1] * torch.exp(other[0])
    total = one[2] * torch.exp(one[0]) + other[2] * torch.exp(other[0])
    return top, weight * torch.exp(-top), total * torch.exp(-top)


def test_halves_are_merged():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(150, generator=generator)
    values = torch.randn(150, 64, generator=generator)
    merges_halves(scores, values)(merge)
    for wrong in (without_fading, by_bare_weights):
        with pytest.raises(AssertionError, match="wrong weight"):
            merges_halves(scores, values)(wrong)
