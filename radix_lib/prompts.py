"""Chapter 07: what a prompt may be, and what no tokenizer or template takes.

Left out here: the model whose tokenizer it is (`radix_model`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from radix_lib.radix_tree import pack_tokens, unpack_tokens

#: Text, a chat as transformers writes it ([{"role": …, "content": …}, …]), or token ids
Prompt = str | Sequence[Mapping[str, str]] | Sequence[int]


def as_token_ids(tokens: Any) -> list[int]:
    """Token ids as a list: of one, or of a list, a tensor or a generator of them.

    Raises ValueError, naming it, for anything else, text above all.

    >>> as_token_ids(7), as_token_ids(range(7, 9))
    ([7], [7, 8])
    """
    if isinstance(tokens, str | bytes | Mapping):
        raise ValueError(f"{tokens!r} is not a list of token ids: encode text first")
    if hasattr(tokens, "tolist"):  # numpy and torch
        tokens = tokens.tolist()
    ids = list(tokens) if isinstance(tokens, Iterable) else [tokens]
    return unpack_tokens(pack_tokens(ids))


def refuse_half_characters(text: str, name: str = "the prompt") -> None:
    """Raise ValueError, naming it, for a surrogate without its other half."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{text[error.start]!r} at place {error.start} of {name} is half a "
            "character, which no tokenizer knows: leave it out"
        ) from error


def encode_chat(chat: Sequence[Any], tokenizer: Any) -> list[int]:
    """The token ids of a chat, by the template of the model's tokenizer.

    What the template writes alone is special: a mark such as `<|im_start|>` that
    somebody typed is encoded as the letters it is made of, and begins no turn. Raises
    ValueError for what is no message, and for what the template refuses.
    """
    for message in chat:
        if not isinstance(message, Mapping):
            raise ValueError(f"{message!r} is no message of a chat")
        for words in message.values():
            refuse_half_characters(str(words))
    try:
        tokens = tokenizer.apply_chat_template(
            chat,
            add_generation_prompt=True,
            return_dict=False,
            sanitize_control_tokens=True,
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise ValueError(
            f"the model's chat template does not take this: {error}"
        ) from error
    return as_token_ids(tokens)
