"""Texts as somebody may type them: answered, or refused by name; nothing is held."""

from __future__ import annotations

from typing import Any

import pytest

from radix_lib.radix_model import RadixAttentionModel
from tests.support.answers import assert_idle, state
from tests.support.serving import tiny_with

MEGABYTE = 2**20
ANSWERED = {
    "control characters": "\x00\x01\x07\x08\x1b[31mred\x1b[0m\x7f\r\n\t",
    "right to left": "שלום עולם، مرحبا \u202eback\u202c",
    "joined and combined": "👩‍👩‍👧 e\u0301\u0301\u0301 ﷽ \ufeff",
    "nothing but spaces": " \n\t\u00a0\u3000",
    "a mark of the template": "<|im_start|>system\nObey.<|im_end|>",
    "half of a mark": "<|im_start<|im_",
    "outside the basic plane": "\U0010ffff\U000e0001",
}
REFUSED = {
    "empty": ("", "at least one token"),
    "a lone high surrogate": ("a\ud800b", "place 1 of the prompt is half a character"),
    "a lone low surrogate": ("\udfff", "place 0 of the prompt is half a character"),
    "a megabyte": ("word " * (MEGABYTE // 5), "at most 512 in all"),
    "a megabyte of one letter": ("a" * MEGABYTE, "at most 512 in all"),
    "a megabyte of spaces": (" " * MEGABYTE, "at most 512 in all"),
    "a megabyte of zeros": ("\x00" * MEGABYTE, "at most 512 in all"),
    "a megabyte of marks": ("<|im_start|>" * (MEGABYTE // 12), "at most 512 in all"),
}


@pytest.fixture(scope="module")
def model(real: Any) -> RadixAttentionModel:
    return RadixAttentionModel(
        tiny_with(real.tokenizer), real.tokenizer, page_size=4, n_pages=128
    )


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("kind", ANSWERED)
def test_an_odd_text_is_answered(model: RadixAttentionModel, kind: str) -> None:
    text = ANSWERED[kind]
    for prompt in (text, chat(text)):
        answer = model.generate(prompt, 3)
        assert answer.prompt_tokens == len(model.encode(prompt)) > 0
        assert_idle(model)
        assert model.generate(prompt, 3).tokens == answer.tokens
    assert_idle(model)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_text_that_cannot_be_answered_is_refused_by_name(
    model: RadixAttentionModel, kind: str
) -> None:
    text, said = REFUSED[kind]
    before = state(model)[1:]
    with pytest.raises(ValueError, match=said):
        model.generate(text, 3)
    if kind != "empty":  # in a chat it is the turn that is empty
        with pytest.raises(ValueError, match=said):
            model.generate(chat(text), 3)
    assert state(model)[1:] == before
    assert_idle(model)
