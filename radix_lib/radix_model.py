"""Chapter 07: generation. A model that answers requests out of a shared prefix cache.

Prefill computes what the cache lacks; decode writes one more token a sequence into its
pages; when a request ends, its pages, those of the answer included, serve whoever comes
next.

Left out here: who is served when, and requests that join a running batch (chapter 08).
"""

from __future__ import annotations

import time
from collections.abc import Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import torch
from torch import Tensor

from radix_lib.draft import Draft
from radix_lib.executor import AttentionExecutor, Chunk
from radix_lib.generation_config import end_tokens, warn_of_left_out
from radix_lib.guard import Guarded, atomic
from radix_lib.model_loader import load_model
from radix_lib.page_manager import KVPool, PageManager
from radix_lib.prompts import (
    Prompt,
    as_token_ids,
    encode_chat,
    refuse_half_characters,
)
from radix_lib.radix_cache import RadixCache, Usage
from radix_lib.radix_tree import whole_number
from radix_lib.router import Lease, Router
from radix_lib.sampling import Sampler, Sampling


class Generation(NamedTuple):
    """An answer, or as much of it as there is, and what it took."""

    text: str
    tokens: list[int]  # the stop token, if one came, is the last
    prompt_tokens: int
    cached_tokens: int  # of the prompt, found in the cache
    computed_tokens: int  # of the prompt, run through the model (once for all samples)
    first_token_seconds: float
    seconds: float


class Stats(NamedTuple):
    """What a model has done so far, and where its pages are now."""

    requests: int
    prompt_tokens: int
    cached_tokens: int
    computed_tokens: int
    decoded_tokens: int
    pages: Usage


class RadixAttentionModel(Guarded):
    """A language model with a radix cache in front of it.

    `n_pages` pages of `page_size` tokens hold the K/V of running requests and of the
    cache alike. Answers are greedy, or drawn as a call says: a warning names what the
    checkpoint's own generation config asks for beside that (`left_out`).

    A call waits until another thread's is over; one that comes in the middle of a call
    on the same thread, from a finaliser, raises RuntimeError. A stream that is
    forgotten gives its pages back when Python collects it.
    """

    router_type = Router
    cache_type = RadixCache
    pool_type = KVPool
    executor_type = AttentionExecutor
    clock = staticmethod(time.perf_counter)

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        page_size: int = 16,
        n_pages: int = 512,
        policy: str = "lru",
    ):
        super().__init__()
        config = model.config
        self.model = model
        self.tokenizer = tokenizer
        self.cache = self.cache_type(PageManager(n_pages, page_size), policy)
        n_positions = config.max_position_embeddings
        self.router = self.router_type(
            self.cache, vocab_size=config.vocab_size, max_tokens=n_positions
        )
        # Pages are copied outside of inference mode, wherever the model was made.
        with torch.inference_mode(False):
            self.pool = self.pool_type(
                config.num_hidden_layers,
                config.num_key_value_heads,
                model.model.layers[0].self_attn.head_dim,
                n_pages,
                page_size,
                dtype=model.dtype,
                device=model.device,
            )
        self.executor = self.executor_type(model, self.pool)
        warn_of_left_out(model)
        self._requests = 0
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._decoded_tokens = 0

    @classmethod
    def from_pretrained(
        cls,
        name: str | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        **pool: Any,
    ) -> RadixAttentionModel:
        """Load a model as `load_model` does.

        `pool` may name `page_size`, `n_pages` and `policy`.
        """
        loaded = load_model(name, device=device, dtype=dtype)
        return cls(loaded.model, loaded.tokenizer, **pool)

    def encode(self, prompt: Prompt) -> list[int]:
        """The token ids of a prompt; a chat goes through the model's own template.

        Raises ValueError for what is neither text nor a chat nor token ids, and as
        `encode_chat` does.
        """
        if isinstance(prompt, str):
            refuse_half_characters(prompt)
            return list(self.tokenizer.encode(prompt))
        if isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], Mapping):
            return encode_chat(prompt, self.tokenizer)
        return as_token_ids(prompt)

    def prefill(
        self,
        prompt: Prompt,
        *,
        namespace: Hashable = None,
        max_new_tokens: int = 0,
        chunk_tokens: int | None = None,
    ) -> tuple[Lease, Tensor]:
        """Compute what the cache lacks of a prompt, and share it.

        At most `chunk_tokens` run at a time (None: all at once). Returns the lease,
        with room for `max_new_tokens`, and the logits after the last token,
        [vocabulary]. Raises what `Router.admit` raises; interrupted, it holds nothing.
        """
        if chunk_tokens is not None:
            chunk_tokens = whole_number(chunk_tokens, "chunk_tokens", least=1)
        held: list[Lease] = []
        try:
            tokens = self.encode(prompt)
            logits = self._prefill(
                held, tokens, namespace, max_new_tokens, chunk_tokens
            )
        except BaseException:
            self._drop(held)
            raise
        return held[0], logits

    @atomic
    def _prefill(
        self,
        held: list[Lease],
        tokens: list[int],
        namespace: Hashable,
        max_new_tokens: int,
        chunk_tokens: int | None,
    ) -> Tensor:
        """Admit a request and compute it. `held` gets its lease at once.

        So whoever is interrupted on the way back from here knows what to give back.
        """
        lease = self.router.admit(tokens, namespace, max_new_tokens)
        held.append(lease)
        while pending := lease.pending[:chunk_tokens]:
            chunk = Chunk(pending, lease.n_computed, lease.page_table)
            logits = self._forward([chunk])[0]
            lease.advance(len(pending))
            self.router.commit(lease)  # others find it before we answer
        self._requests += 1
        self._prompt_tokens += lease.n_tokens
        self._cached_tokens += lease.n_cached
        return logits

    def _drop(self, leases: Sequence[Lease]) -> None:
        """Cancel those that live: an interrupt keeps them from who would end them."""
        for lease in leases:
            self.router.drop(lease)

    @atomic
    def decode_step(self, leases: Sequence[Lease], tokens: Sequence[int]) -> Tensor:
        """Add one token to each sequence and compute it.

        Returns the logits after it, [sequences, vocabulary]. Raises ValueError where a
        lease has no room left or its prompt is not computed; then, and when interrupted
        in the model, no sequence has grown.
        """
        leases = list(leases)
        tokens = as_token_ids(tokens)
        self.router.checked_key(tokens)
        for lease in leases:
            self.router.check_live(lease)
            if lease.n_computed < lease.n_tokens:
                raise ValueError(
                    f"{lease.n_tokens - lease.n_computed} tokens are still to prefill"
                )
        chunks = [
            Chunk([token], lease.n_computed, lease.page_table)
            for lease, token in zip(leases, tokens, strict=True)
        ]
        logits = self._forward(chunks)
        for lease, token in zip(leases, tokens, strict=True):
            lease.append(token)
            lease.advance(1)
        self._decoded_tokens += len(leases)
        return logits

    def _forward(self, chunks: Sequence[Chunk], all_logits: bool = False) -> Tensor:
        """The executor's logits. The caller may write to them: to ban a token."""
        with torch.inference_mode(False):
            return self.executor.forward(chunks, all_logits=all_logits).clone()

    @atomic
    def step(
        self,
        leases: Sequence[Lease],
        n_tokens: Sequence[int],
        *,
        all_logits: bool = False,
    ) -> Tensor:
        """Compute the next `n_tokens` of each lease, all in one packed forward.

        Prompts, chunks of prompts and single tokens of answers may stand side by side.
        Returns the logits after the last token of each, [leases, vocabulary], or with
        `all_logits` after every token, [tokens, vocabulary]. Raises ValueError if one
        has fewer tokens to compute; then, and when interrupted in the model, no lease
        has advanced. Built in chapter 08.
        """
        chunks = []
        for lease, n in zip(leases, n_tokens, strict=True):
            self.router.check_live(lease)
            pending = lease.pending
            n = whole_number(n, "n_tokens", least=1)
            if n > len(pending):
                raise ValueError(
                    f"{n} tokens cannot be computed: {len(pending)} are missing"
                )
            chunks.append(Chunk(pending[:n], lease.n_computed, lease.page_table))
        logits = self._forward(chunks, all_logits)
        for lease, chunk in zip(leases, chunks, strict=True):
            lease.advance(len(chunk.tokens))
        return logits

    def sampler(self, **options: Any) -> Sampler:
        """What chooses the tokens of one answer; `options` are those of `Sampling`."""
        sampling = Sampling(**options)
        self.router.checked_key(sampling.stop)
        return Sampler(sampling, {*sampling.stop, *end_tokens(self.model)})

    def fork(self, lease: Lease, max_new_tokens: int = 0) -> Lease:
        """A second lease that goes on from the same tokens. Whole pages are shared.

        The partial last page will be written by both, so the fork gets a copy of its
        own.
        """
        held: list[Lease] = []
        try:
            self._fork(held, lease, max_new_tokens)
        except BaseException:
            self._drop(held)
            raise
        return held[0]

    @atomic
    def _fork(self, held: list[Lease], lease: Lease, max_new_tokens: int) -> None:
        """Fork a lease. `held` gets the second one as soon as there is one."""
        fork = self.router.fork(lease, max_new_tokens)
        held.append(fork)
        tail = fork.n_shared  # where the page that is computed in part would be
        if fork.n_computed > tail * self.pool.page_size:
            self.pool.copy_page(lease.page_table[tail], fork.page_table[tail])

    def generate(
        self, prompt: Prompt, max_new_tokens: int = 32, **options: Any
    ) -> Generation:
        """Answer a prompt; `options` as for `stream`."""
        *_, last = self.stream(prompt, max_new_tokens, **options)
        return last

    def stream(
        self, prompt: Prompt, max_new_tokens: int = 32, **options: Any
    ) -> Iterator[Generation]:
        """Answer a prompt, giving what there is of the answer after each token.

        `options` are `namespace`, which says with whom pages may be shared, and the
        fields of `Sampling`. The answer ends at `max_new_tokens`, at the model's own
        end token, or at one in `stop`. Each text begins with the one before: a
        character is shown when all its bytes have come; the last text holds nothing
        back. Closed before that, what was committed stays and everything else is given
        back.
        """
        with closing(self._answers(prompt, 1, max_new_tokens, **options)) as answers:
            for (answer,) in answers:
                yield answer

    def sample(
        self, prompt: Prompt, n: int, max_new_tokens: int = 32, **options: Any
    ) -> list[Generation]:
        """`n` answers to one prompt, which is computed once.

        `options` as for `stream`; sample i is drawn with `seed` + i.
        """
        *_, last = self._answers(prompt, n, max_new_tokens, **options)
        return last

    def _answers(
        self,
        prompt: Prompt,
        n: int,
        max_new_tokens: int,
        *,
        namespace: Hashable = None,
        **options: Any,
    ) -> Generator[list[Generation], None, None]:
        """Answer a prompt `n` times at once; yields all answers after each token.

        One that has ended gives its pages back at once; the others, when this is closed
        or interrupted.
        """
        sampling = Sampling(**options)
        n = whole_number(n, "n", least=1)
        max_new_tokens = whole_number(max_new_tokens, "max_new_tokens", least=1)
        self.router.checked_key(sampling.stop)
        ends = {*sampling.stop, *end_tokens(self.model)}
        began = time.perf_counter()
        first_token_seconds = 0.0
        held: list[Lease] = []
        try:
            # A lease for each answer: the prompt is computed once, the others fork.
            lease, logits = self.prefill(
                prompt, namespace=namespace, max_new_tokens=max_new_tokens
            )
            held.append(lease)
            for _ in range(1, n):
                held.append(self.fork(lease, max_new_tokens))
            n_prompt = lease.n_tokens
            drafts = [Draft(lease, sampling.seed + i) for i, lease in enumerate(held)]
            for lease in held:
                lease.entered = True  # it ends with this stream, if that is forgotten

            running = drafts
            rows = logits.expand(n, -1)
            while running:
                # Choose the next token of each that runs.
                for draft, row in zip(running, rows, strict=True):
                    token = sampling.choose(row, draft.random)
                    draft.add(token, ends, max_new_tokens)

                # Show all answers, those that have ended included.
                seconds = time.perf_counter() - began
                first_token_seconds = first_token_seconds or seconds
                yield [
                    Generation(
                        draft.show(self.tokenizer),
                        list(draft.tokens),
                        n_prompt,
                        held[0].n_cached,
                        n_prompt - held[0].n_cached,
                        first_token_seconds,
                        seconds,
                    )
                    for draft in drafts
                ]

                # End those that are done: their pages serve others from now on.
                for draft in running:
                    if draft.ended:
                        self.router.finish(draft.lease)
                running = [draft for draft in running if not draft.ended]

                # Compute what follows, for all of the others in one step.
                if running:
                    rows = self.decode_step(
                        [draft.lease for draft in running],
                        [draft.tokens[-1] for draft in running],
                    )
        finally:
            try:
                self._drop(held)
            except BaseException:
                self._drop(held)  # interrupted before the last of them had ended
                raise

    def flush(self) -> None:
        """Forget all K/V, as is due after a change of weights.

        They are the former model's. Raises RuntimeError, forgetting nothing, while
        requests run.
        """
        self.router.flush()

    def stats(self) -> Stats:
        """Totals since the model was made, and where the pages are now.

        Requests of a scheduler are not among them: each tells of itself.
        """
        with self._lock:
            return Stats(
                self._requests,
                self._prompt_tokens,
                self._cached_tokens,
                self._prompt_tokens - self._cached_tokens,
                self._decoded_tokens,
                self.router.usage(),
            )
