"""Chapter 11: every state that a cache can be in, beside Hugging Face's forward.

A state is a small story of requests. It tells what it has `Seen`: logits that our
executor has computed, and the tokens that they belong to. `compare_states` holds them
against Hugging Face's own forward of the same tokens, without a cache, in whatever
arithmetic is in force.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor

from radix_lib.equality import Comparison, baseline_logits, compare_logits
from radix_lib.radix_model import RadixAttentionModel
from radix_lib.router import Lease


class Seen(NamedTuple):
    """Logits of the last `len(logits)` of some tokens."""

    tokens: tuple[int, ...]
    logits: Tensor  # [tokens computed, vocabulary]


def compute(
    model: RadixAttentionModel, *leases: Lease, most: int | None = None
) -> list[Seen]:
    """Compute what the leases lack, at most `most` tokens of each, in one step."""
    counts = [len(lease.pending[:most]) for lease in leases]
    logits = model.step(leases, counts, all_logits=True)
    return [
        Seen(tuple(lease.tokens[: lease.n_computed]), mine)
        for lease, mine in zip(leases, logits.split(counts), strict=True)
    ]


def serve(
    model: RadixAttentionModel, tokens: Sequence[int], namespace: object = None
) -> list[Seen]:
    """One request from admission to end, computed at once."""
    with model.router.admit(tokens, namespace) as lease:
        return compute(model, lease)


Make = Callable[..., RadixAttentionModel]  # Make(n_pages=…) gives a fresh one
State = Callable[[Make, list[int], random.Random], Iterator[Seen]]


def cold_prompt(make: Make, tokens: list[int], rng: random.Random) -> Iterator[Seen]:
    """Nothing is cached, and everything is computed at once."""
    yield from serve(make(), tokens)


def hit_at_every_length(
    make: Make, tokens: list[int], rng: random.Random
) -> Iterator[Seen]:
    """The first 1, 2, … tokens were served before; whole pages of them are hits."""
    for cut in range(1, len(tokens)):
        model = make()
        serve(model, tokens[:cut])
        yield from serve(model, tokens)


def odd_chunks(make: Make, tokens: list[int], rng: random.Random) -> Iterator[Seen]:
    """A prompt in pieces of any size, each committed before the next."""
    model = make()
    with model.router.admit(tokens) as lease:
        while lease.pending:
            yield from compute(model, lease, most=rng.randint(1, 9))
            model.router.commit(lease)


def token_by_token(make: Make, tokens: list[int], rng: random.Random) -> Iterator[Seen]:
    """Every token in a step of its own, as in decoding."""
    model = make()
    with model.router.admit(tokens) as lease:
        while lease.pending:
            yield from compute(model, lease, most=1)


def second_turn(make: Make, tokens: list[int], rng: random.Random) -> Iterator[Seen]:
    """The second prompt goes on from an answer whose pages decoding has written."""
    model = make()
    half = len(tokens) // 2
    with model.router.admit(tokens[:half], max_new_tokens=8) as lease:
        (seen,) = compute(model, lease)
        for _ in range(7):
            lease.append(int(seen.logits[-1].argmax()))
            (seen,) = compute(model, lease)
            yield seen
        said = lease.tokens
    yield from serve(model, [*said, *tokens[half:]])


def ragged_batch(make: Make, tokens: list[int], rng: random.Random) -> Iterator[Seen]:
    """Up to sixteen sequences of all lengths in one step, some of them decoding."""
    model = make()
    leases: list[Lease] = []
    for number in range(rng.randint(2, 16)):
        end = rng.randint(1, len(tokens))
        own = [*tokens[:end], number % 7]  # their beginnings agree, their ends do not
        leases.append(model.router.admit(own, namespace=number % 3))
        start = rng.choice([0, end, rng.randint(0, end)])
        if start:
            yield from compute(model, leases[-1], most=start)
    rng.shuffle(leases)
    yield from compute(model, *leases)


def same_prompt_at_once(
    make: Make, tokens: list[int], rng: random.Random
) -> Iterator[Seen]:
    """Two requests compute the same; one takes over the other's pages and goes on."""
    model = make()
    leases = [model.router.admit(tokens) for _ in range(2)]
    for lease in leases:
        yield from compute(model, lease, most=2 * len(tokens) // 3)
        model.router.commit(lease)
    # whoever gets the pages given back
    serve(model, [(token + 1) % 7 for token in tokens])
    yield from compute(model, *leases)


def evicted_and_computed_again(
    make: Make, tokens: list[int], rng: random.Random
) -> Iterator[Seen]:
    """Three prompts push each other out of a pool that has room for one and a half."""
    n_pages = -(-len(tokens) // make().router.page_size)
    model = make(n_pages=n_pages + n_pages // 2)
    prompts = [
        tokens,
        tokens[::-1],
        [*tokens[: len(tokens) // 2], *tokens[: len(tokens) // 3]],
    ]
    for _ in range(2):
        for prompt in prompts:
            yield from serve(model, prompt)


def forks(make: Make, tokens: list[int], rng: random.Random) -> Iterator[Seen]:
    """Three branches of one prompt, each with words of its own, decoded together."""
    model = make()
    lease = model.router.admit(tokens, max_new_tokens=4)
    compute(model, lease)
    branches = [lease, *(model.fork(lease, 4) for _ in range(2))]
    for _ in range(4):
        for number, branch in enumerate(branches):
            branch.append(rng.randrange(5) + number)
        yield from compute(model, *branches)


def two_tenants(make: Make, tokens: list[int], rng: random.Random) -> Iterator[Seen]:
    """The same prompt in two namespaces, the second computed after the first."""
    model = make()
    for tenant in ("one", "two"):
        yield from serve(model, tokens, tenant)


def changed_weights(
    make: Make, tokens: list[int], rng: random.Random
) -> Iterator[Seen]:
    """The weights change, the cache is flushed, and the same prompt comes again."""
    model = make()
    prompt = [tokens[-1], *tokens, tokens[0]]  # of no other state
    serve(model, prompt)
    weight = model.model.model.layers[0].self_attn.v_proj.weight
    before = weight.clone()
    try:
        weight *= 1.01
        model.flush()
        yield from serve(model, prompt)
    finally:
        weight.copy_(before)


CACHE_STATES: dict[str, State] = {
    "cold prompt": cold_prompt,
    "hit at every length": hit_at_every_length,
    "odd chunks": odd_chunks,
    "token by token": token_by_token,
    "second turn of a chat": second_turn,
    "ragged batch": ragged_batch,
    "same prompt twice at once": same_prompt_at_once,
    "evicted, computed again": evicted_and_computed_again,
    "forks": forks,
    "two tenants": two_tenants,
    "weights changed, flushed": changed_weights,
}


class Total(NamedTuple):
    """All comparisons of one state together."""

    numbers: int  # compared
    differing: int  # of them, with at least one other bit
    max_abs_diff: float
    same_top: int  # rows with the same largest logit ...
    rows: int  # ... of so many


def total(comparisons: Sequence[tuple[Comparison, int]]) -> Total:
    """Add up comparisons, each with how many numbers it compared. A NaN stays one."""
    return Total(
        sum(n for _, n in comparisons),
        sum(c.n_differing for c, _ in comparisons),
        float(torch.tensor([c.max_abs_diff for c, _ in comparisons]).max()),
        sum(c.same_argmax for c, _ in comparisons),
        sum(c.rows for c, _ in comparisons),
    )


def compare_states(
    model: Any,
    tokens: Sequence[int],
    *,
    page_size: int = 16,
    seed: int = 0,
    states: Sequence[str] = tuple(CACHE_STATES),
    model_type: type[RadixAttentionModel] = RadixAttentionModel,
) -> Iterator[tuple[str, Total]]:
    """Run each state, and compare what it saw with Hugging Face's forward.

    Every request runs on a `model_type` of its own around `model`. The arithmetic is
    the one in force where the iterator is advanced.
    """
    expected: dict[tuple[int, ...], Tensor] = {}

    def make(n_pages: int | None = None) -> RadixAttentionModel:
        # for all that a state may have at once
        room = 40 * -(-(len(tokens) + 16) // page_size)
        return model_type(model, None, page_size=page_size, n_pages=n_pages or room)

    for name in states:
        comparisons = []
        for seen in CACHE_STATES[name](make, list(tokens), random.Random(seed)):
            if seen.tokens not in expected:
                expected[seen.tokens] = baseline_logits(
                    model, seen.tokens, all_logits=True
                )
            theirs = expected[seen.tokens][-len(seen.logits) :]
            comparisons.append((compare_logits(seen.logits, theirs), theirs.numel()))
        yield name, total(comparisons)


#: The families of models that the executor runs, each by its class of configuration.
FAMILIES = {name: f"{name}Config" for name in ("Llama", "Mistral", "Qwen2", "Qwen3")}


def tiny_model(
    config_class: str = "LlamaConfig", dtype: torch.dtype = torch.float32, **more: Any
) -> Any:
    """A random model of two small layers, the same each time."""
    shape = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "eos_token_id": None,
        "bos_token_id": None,
        "pad_token_id": None,
    }
    if config_class == "MistralConfig":
        shape["sliding_window"] = None
    config = getattr(transformers, config_class)(**(shape | more))
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="sdpa"
    )
    numbers = torch.Generator().manual_seed(0)
    with torch.no_grad():
        # Larger than transformers' own first values, and no bias 0 or norm 1: whatever
        # goes wrong in attention has to show in the logits.
        for name, parameter in model.named_parameters():
            noise = 0.3 * torch.randn(parameter.shape, generator=numbers)
            parameter.copy_(1 + noise if "norm" in name else noise)
    return model.to(dtype).eval().requires_grad_(False)
