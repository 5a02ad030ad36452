"""Chapter 11: is the answer the same? Comparing logits with Hugging Face's own.

The baseline is always their forward and their `generate`, never code of ours.

Left out here: arithmetic that makes them equal in every cache state
(`batch_invariance`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig

from radix_lib.generation_config import end_tokens
from radix_lib.prompts import as_token_ids

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Comparison(NamedTuple):
    """How two tensors of logits, [..., vocabulary], differ."""

    bitwise: bool  # every bit is the same
    max_abs_diff: float  # NaN if there is one on either side, or an infinity on both
    n_differing: int  # numbers of which at least one bit differs
    same_argmax: int  # rows whose largest logit is the same token's ...
    rows: int  # ... of so many
    first_difference: tuple[int, ...] | None  # index of the first number that differs

    def __str__(self) -> str:
        verdict = f"first difference at {self.first_difference}"
        if self.bitwise:
            verdict = "bitwise equal"
        return (
            f"{verdict}: max |Δ| {self.max_abs_diff:.1e}, "
            f"same top token in {self.same_argmax} of {self.rows} rows"
        )


def compare_logits(ours: Tensor, theirs: Tensor) -> Comparison:
    """Compare two tensors of one shape and dtype, number by number and bit by bit.

    Bits are compared as integers, so that 0.0 and -0.0 differ and a NaN equals itself.
    Raises ValueError where shape or dtype differ: there is nothing to compare then.

    >>> ours, theirs = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5])
    >>> compare_logits(ours, theirs).first_difference
    (1,)
    """
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype or ours.ndim == 0:
        raise ValueError(
            f"cannot compare {list(ours.shape)} of {ours.dtype} with "
            f"{list(theirs.shape)} of {theirs.dtype}: ask both for the same logits"
        )
    bits = _BITS[ours.element_size()]
    differing = (ours.view(bits) != theirs.view(bits)).nonzero()
    max_abs_diff = 0.0
    if ours.numel():
        max_abs_diff = float((ours.double() - theirs.double()).abs().max())
    same_argmax = ours.argmax(-1) == theirs.argmax(-1)
    return Comparison(
        bitwise=not len(differing),
        max_abs_diff=max_abs_diff,
        n_differing=len(differing),
        same_argmax=int(same_argmax.sum()),
        rows=same_argmax.numel(),
        first_difference=tuple(differing[0].tolist()) if len(differing) else None,
    )


@torch.inference_mode(False)  # whoever calls may write to the logits
@torch.no_grad()
def baseline_logits(
    model: Any, tokens: Sequence[int], *, all_logits: bool = False
) -> Tensor:
    """Hugging Face's forward over the whole prompt, without any cache.

    Returns the logits after the last token, [vocabulary], or with `all_logits` after
    each of them, [tokens, vocabulary].
    """
    token_ids = torch.tensor([list(tokens)], device=model.device)
    logits: Tensor = model(
        token_ids, use_cache=False, logits_to_keep=0 if all_logits else 1
    ).logits
    return logits[0] if all_logits else logits[0, -1]


@torch.inference_mode(False)
def baseline_generate(
    model: Any,
    tokens: Sequence[int],
    max_new_tokens: int,
    stop: int | Sequence[int] = (),
) -> tuple[list[int], Tensor]:
    """Hugging Face's greedy `generate`: the new token ids, and each step's logits.

    The logits are [new tokens, vocabulary]. It ends at the model's own end tokens and
    at `stop`. Whatever else the checkpoint's generation config asks for is left out.
    """
    # `generate` fills what is not set from the model's own config, and None counts as
    # not set. So a second model on the same weights is asked, whose config is new.
    plain = copy.copy(model)
    plain.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    token_ids = torch.tensor([list(tokens)], device=model.device)
    output = plain.generate(
        token_ids,
        attention_mask=torch.ones_like(token_ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=[*end_tokens(model), *as_token_ids(stop)] or None,
        pad_token_id=0,  # one sequence: nothing is padded, and unset it warns
        return_dict_in_generate=True,
        output_logits=True,
    )
    return output.sequences[0, len(tokens) :].tolist(), torch.cat(output.logits)
