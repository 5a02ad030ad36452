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
from radix_lib.executor import AttentionExecutor, Chunk
from radix_lib.page_manager import KVPool, PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.router import Lease, Router


class Engine:
    """A model with cache, router, pool and executor, each of a type that may be
    named.
    """

    def __init__(
        self,
        model: Any,
        page_size: int = 16,
        n_pages: int = 64,
        *,
        router: Any = Router,
        cache: Any = RadixCache,
        executor: Any = AttentionExecutor,
        pool: Any = KVPool,
    ):
        config, attention = model.config, model.model.layers[0].self_attn
        self.router: Router = router(cache(PageManager(n_pages, page_size)))
        self.pool = pool(
            config.num_hidden_layers,
            config.num_key_value_heads,
            attention.head_dim,
            n_pages,
            page_size,
            dtype=model.dtype,
            device=model.device,
        )
        self.executor: AttentionExecutor = executor(model, self.pool)

    def compute(self, *leases: Lease, most: int | None = None) -> list[Seen]:
        """Compute what the leases lack, at most `most` tokens of each, in one
        forward.
        """
        chunks = [Chunk(x.pending[:most], x.n_computed, x.page_table) for x in leases]
        logits = self.executor.forward(chunks, all_logits=True)
        seen = []
        for lease, chunk in zip(leases, chunks, strict=True):
            lease.advance(len(chunk.tokens))
            mine, logits = logits[: len(chunk.tokens)], logits[len(chunk.tokens) :]
            seen.append(Seen(tuple(lease.tokens[: lease.n_computed]), mine))
        return seen

    def serve(self, tokens: Sequence[int], namespace: object = None) -> list[Seen]:
        """One request from admission to end, computed at once."""
        with self.router.admit(tokens, namespace) as lease:
            return self.compute(lease)

    def fork(self, lease: Lease, max_new_tokens: int) -> Lease:
        """A fork that may be written to: its tail is copied."""
        fork = self.router.fork(lease, max_new_tokens)
        if lease.n_computed % self.router.page_size:
            tails = (int(x.page_table[lease.n_shared]) for x in (lease, fork))
            self.pool.copy_page(*tails)
        return fork

    def flush(self) -> None:
        """Forget everything cached, as after a change of weights."""
        self.router.cache.evict(self.router.cache.n_evictable)


class Seen(NamedTuple):
    """Logits of the last `len(logits)` of some tokens."""

    tokens: tuple[int, ...]
    logits: Tensor  # [tokens computed, vocabulary]


Make = Callable[..., Engine]  # Make(n_pages=…) gives a fresh engine
State = Callable[[Make, list[int], random.Random], Iterator[Seen]]


def cold_prompt(make: Make, tokens: list[int], rng: random.Random) -> Iterator[Seen]:
    """Nothing is cached, and everything is computed at once."""
    yield from make().serve(tokens)


def hit_at_every_length(
    make: Make, tokens: list[int], rng: random.Random
) -> Iterator[Seen]:
    """The first 1, 2, … tokens were served before; what is whole pages of them is a
    hit.
    """
    for cut in range(1, len(tokens)):
        engine = make()
        engine.serve(tokens[:cut])
        yield from engine.serve(tokens)


def odd_chunks(make: Make, tokens: list[int], rng: random.Random) -> Iterator[Seen]:
    """A prompt in pieces of any size, each committed before the next."""
    engine = make()
    with engine.router.admit(tokens) as lease:
        while lease.pending:
            yield from engine.compute(lease, most=rng.randint(1, 9))
            engine.router.commit(lease)


def token_by_token(make: Make, tokens: list[int], rng: random.Random) -> Iterator[Seen]:
    """Every token in a step of its own, as in decoding."""
    engine = make()
    with engine.router.admit(tokens) as lease:
        while lease.pending:
            yield from engine.compute(lease, most=1)


def second_turn(make: Make, tokens: list[int], rng: random.Random) -> Iterator[Seen]:
    """A dialogue: the second prompt goes on from an answer whose pages were written in
    decoding.
    """
    engine = make()
    half = len(tokens) // 2
    with engine.router.admit(tokens[:half], max_new_tokens=8) as lease:
        (seen,) = engine.compute(lease)
        for _ in range(7):
            lease.append(int(seen.logits[-1].argmax()))
            (seen,) = engine.compute(lease)
            yield seen
        said = lease.tokens
    yield from engine.serve([*said, *tokens[half:]])


def ragged_batch(make: Make, tokens: list[int], rng: random.Random) -> Iterator[Seen]:
    """Up to sixteen sequences of all lengths at once, in any order, some of them
    decoding.
    """
    engine, leases = make(), []
    for number in range(rng.randint(2, 16)):
        end = rng.randint(1, len(tokens))
        own = [*tokens[:end], number % 7]  # their beginnings agree, their ends do not
        leases.append(engine.router.admit(own, namespace=number % 3))
        if start := rng.choice([0, end, rng.randint(0, end)]):
            yield from engine.compute(leases[-1], most=start)
    rng.shuffle(leases)
    yield from engine.compute(*leases)


def same_prompt_at_once(
    make: Make, tokens: list[int], rng: random.Random
) -> Iterator[Seen]:
    """Two requests compute the same; one takes over the other's pages and goes on."""
    engine = make()
    leases = [engine.router.admit(tokens) for _ in range(2)]
    for lease in leases:
        yield from engine.compute(lease, most=2 * len(tokens) // 3)
        engine.router.commit(lease)
    # whoever gets the pages given back
    engine.serve([(token + 1) % 7 for token in tokens])
    yield from engine.compute(*leases)


def evicted_and_computed_again(
    make: Make, tokens: list[int], rng: random.Random
) -> Iterator[Seen]:
    """Three prompts push each other out of a pool that has room for one and a half."""
    n_pages = -(-len(tokens) // make().router.page_size)
    engine = make(n_pages=n_pages + n_pages // 2)
    prompts = [
        tokens,
        tokens[::-1],
        [*tokens[: len(tokens) // 2], *tokens[: len(tokens) // 3]],
    ]
    for _ in range(2):
        for prompt in prompts:
            yield from engine.serve(prompt)


def forks(make: Make, tokens: list[int], rng: random.Random) -> Iterator[Seen]:
    """Three branches of one prompt, each with words of its own, decoded together."""
    engine = make()
    lease = engine.router.admit(tokens, max_new_tokens=4)
    engine.compute(lease)
    branches = [lease, *(engine.fork(lease, 4) for _ in range(2))]
    for _ in range(4):
        for number, branch in enumerate(branches):
            branch.append(rng.randrange(5) + number)
        yield from engine.compute(*branches)


def two_tenants(make: Make, tokens: list[int], rng: random.Random) -> Iterator[Seen]:
    """The same prompt in two namespaces, the second computed after the first."""
    engine = make()
    for tenant in ("one", "two"):
        yield from engine.serve(tokens, tenant)


def changed_weights(
    make: Make, tokens: list[int], rng: random.Random
) -> Iterator[Seen]:
    """The weights change, the cache is flushed, and the same prompt comes again."""
    engine, prompt = make(), [tokens[-1], *tokens, tokens[0]]  # of no other state
    engine.serve(prompt)
    weight = engine.executor.decoder.layers[0].self_attn.v_proj.weight
    before = weight.clone()
    try:
        weight *= 1.01
        engine.flush()
        yield from engine.serve(prompt)
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
    engine: type[Engine] = Engine,
    **parts: Any,
) -> Iterator[tuple[str, Total]]:
    """Run each state, and compare what it saw with Hugging Face's forward of the same
    tokens.

    `parts` name other types for an `Engine`. The arithmetic is the one in force where
    the iterator is advanced.
    """
    expected: dict[tuple[int, ...], Tensor] = {}

    def make(n_pages: int | None = None) -> Engine:
        # for all that a state may have at once
        room = 40 * -(-(len(tokens) + 16) // page_size)
        return engine(model, page_size, n_pages or room, **parts)

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
