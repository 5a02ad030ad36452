"""Chapter 11: arithmetic in which no token's logits depend on what is computed beside.

Inside `batch_invariant` a row has the bits that it has in a tile of `ROWS` rows: in
linear layers, norms, activations and angles (`invariant_rows`). Attention is cut into
tiles of keys (`exact_attention`), which sequences may share (`shared_tiles`).

Left out here: other layers, left-padded batches (padding moves keys to other tiles),
training.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from radix_lib.exact_attention import attention
from radix_lib.executor import attention_over_pages
from radix_lib.invariant_rows import Function, in_any_batch, telling_numbers
from radix_lib.packed_weights import can_pack, linear_packed
from radix_lib.shared_tiles import attention_over_shared_tiles

NUMBERS = 64  # of a row, for functions that give a number for each number


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, [..., in] to [..., out]; weights are packed where that is exact."""
    if not input.numel() or not weight.numel():
        return F.linear(input, weight, bias)  # no row, or no sum
    if not (weight.is_contiguous() or weight.mT.is_contiguous()):
        weight = weight.contiguous()
    ways = _PACKED_OR_NOT if can_pack(weight) else _NOT_PACKED
    rows = input.reshape(1, -1, input.shape[-1])
    output = in_any_batch(ways, rows, weight)
    output = output.view(*input.shape[:-1], output.shape[-1])
    return output if bias is None else output + bias


_NOT_PACKED = (F.linear,)
_PACKED_OR_NOT = (linear_packed, F.linear)


def mean(input: Tensor, *others: Any, **options: Any) -> Tensor:
    """`Tensor.mean`; that of the last dimension, as norms take it, row by row."""
    if others != (-1,) or options != {"keepdim": True} or not input.numel():
        return input.mean(*others, **options)
    rows = input.reshape(1, -1, input.shape[-1])
    return in_any_batch((_mean,), rows).view(*input.shape[:-1], 1)


def _mean(left: Tensor, right: Any) -> Tensor:
    return left.mean(-1, keepdim=True)


def number_by_number(
    function: Callable[..., Tensor], input: Tensor, *others: Any, **options: Any
) -> Tensor:
    """`function(input, …)`, one that gives a number for each number.

    Kernels take the last few numbers of an input otherwise than all before. Where that
    can change a bit, there are always whole rows of them. It is asked in float32, and
    so computed: bfloat16 would hide the difference in most numbers, and not in all.
    """
    if not input.is_floating_point():
        output: Tensor = function(input, *others, **options)
        return output
    wide = input.to(torch.promote_types(input.dtype, torch.float32))
    given = _given(function, others, tuple(options.items()))
    if not _is_telling(given, wide.dtype, wide.device):
        return given(wide, None).to(input.dtype)
    numbers = wide.flatten()
    missing = -len(numbers) % NUMBERS
    rows = F.pad(numbers, (0, missing)) if missing else numbers
    output = in_any_batch((given,), rows.view(1, -1, NUMBERS)).flatten()
    return output[: len(numbers)].view_as(input).to(input.dtype)


@cache
def _given(
    function: Callable[..., Tensor],
    others: tuple[Any, ...],
    options: tuple[tuple[str, Any], ...],
) -> Function:
    """A function of torch with what it is given besides its input."""

    def of_rows(left: Tensor, right: Any) -> Tensor:
        return function(left, *others, **dict(options))

    return of_rows


@cache
def _is_telling(function: Function, dtype: torch.dtype, device: torch.device) -> bool:
    return bool(telling_numbers(function, dtype, device)[1].any())


# ── The mode ──────────────────────────────────────────────────────────────────────────

NUMBER_BY_NUMBER: list[Any] = [
    F.silu,
    F.gelu,
    torch.sigmoid,
    torch.tanh,
    torch.rsqrt,
    Tensor.cos,
    Tensor.sin,
]

_ANSWERS: dict[Any, Callable[..., Tensor]] = {
    F.linear: linear,
    F.scaled_dot_product_attention: attention,
    attention_over_pages: attention_over_shared_tiles,
    Tensor.mean: mean,
    **{function: partial(number_by_number, function) for function in NUMBER_BY_NUMBER},
}


class batch_invariant(TorchFunctionMode):
    """A `with` block in which a Llama-shaped model is computed batch-invariantly.

    It holds for whatever runs inside, Hugging Face's forward and `generate` as well as
    ours. Every shape of input is tested when it is first met: a way of computing that
    does not pass is not used, and if none does, NotInvariant is raised. Who edits a
    part of a weight's `.data` has to say so (`packed_weights.packed`).

    >>> x, w = torch.randn(40, 32), torch.randn(8, 32)
    >>> with batch_invariant():
    ...     torch.equal(F.linear(x, w)[7:9], F.linear(x[7:9], w))
    True
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Called by torch in place of `func`."""
        answer = _ANSWERS.get(func, func)
        return answer(*args, **kwargs) if kwargs else answer(*args)
