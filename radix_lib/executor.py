"""Chapter 06: the executor, the data plane. Attention over cached and new K/V.

Only new tokens run through the model. Their queries attend to the K/V that the page
table lists, cached and new alike, at their true positions. The layers, the rotary
embedding and the attention function are Hugging Face's own, called in their order, so
that a cold prompt is computed by the very operations of their forward.

Left out here: which pages to use (chapter 05), what to do with logits (chapter 07), and
reading K/V through the page table inside the attention kernel, as production does:
plain PyTorch has to gather them first. Source: SGLang 0.5.9, `forward_extend` and
`forward_decode` of `layers/attention/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from radix_lib.page_manager import KVPool
from radix_lib.radix_tree import Pages, check_pages, pack_tokens, whole_number
from radix_lib.supported_models import check_supported

Rows = NDArray[np.int64]  # of packed tokens


class Chunk(NamedTuple):
    """New tokens of one sequence. K/V before `start` must lie in its pages."""

    tokens: Sequence[int]
    start: int  # the position of the first of them
    page_table: Pages


class Group(NamedTuple):
    """Sequences that attend in one call: one, or several with one new token each."""

    rows: Tensor | slice  # which of the queries, sequence by sequence
    page_tables: Tensor  # [sequences, pages]
    length: int  # tokens of the longest sequence, old and new
    # [sequences, 1, new tokens, length], True where attention may look
    mask: Tensor | None


@dataclass(frozen=True, eq=False)
class CachedChunks:
    """Chunks that attend to K/V in pages, and how they are grouped for it."""

    chunks: Sequence[Chunk]
    rows: Tensor | slice  # which of the packed tokens are theirs
    groups: list[Group]


class Batch(NamedTuple):
    """Chunks packed into one row, with the indices that every layer needs."""

    token_ids: Tensor  # [1, tokens]
    positions: Tensor  # [1, tokens]
    slots: Tensor  # [tokens], where K/V of each go
    cold: list[Tensor | slice]  # tokens of prompts that begin here: K/V are at hand
    cached: CachedChunks | None  # all others
    unsort: Tensor  # [tokens], from the order of these two back to that of the tokens
    last_rows: Tensor  # [chunks], the last token of each


def attention_over_pages(
    query: Tensor, module: Any, pool: KVPool, layer: int, cached: CachedChunks
) -> Tensor:
    """Hugging Face's attention over K/V that are gathered from pages.

    `query` is [1, heads, tokens, head_dim], those of `cached` one after the other;
    `module` is the layer's attention. Returns [1, tokens, heads × head_dim]. Like
    torch's own functions, it lets a `TorchFunctionMode` answer in its place.
    """
    if has_torch_function((query,)):
        answer: Tensor = handle_torch_function(
            attention_over_pages, (query,), query, module, pool, layer, cached
        )
        return answer
    output = query.new_empty(1, query.shape[2], query.shape[1] * query.shape[3])
    for group in cached.groups:
        q = query[:, :, group.rows]
        n_sequences = len(group.page_tables)
        # one new token each: tokens become the batch that attention runs over
        if n_sequences > 1:
            q = q.permute(2, 1, 0, 3)
        gathered = pool.gather(layer, group.page_tables.flatten())
        by_sequence = gathered.view(n_sequences, -1, *gathered.shape[1:])
        # each [sequences, kv_heads, length, head_dim]
        k, v = by_sequence[:, : group.length].permute(2, 0, 3, 1, 4)
        attended, _ = sdpa_attention_forward(
            module, q, k, v, group.mask, scaling=module.scaling
        )
        output[:, group.rows] = attended.reshape(1, -1, output.shape[2])
    return output


def _consecutive(chunks: Sequence[Chunk]) -> list[Rows]:
    """The rows of each chunk's tokens, where those of all chunks follow each other."""
    ends = np.cumsum([len(chunk.tokens) for chunk in chunks])
    return np.split(np.arange(ends[-1]), ends[:-1])


class AttentionExecutor:
    """Runs a Llama-shaped decoder of transformers on K/V that lie in a `KVPool`."""

    def __init__(self, model: Any, pool: KVPool):
        check_supported(model.config)
        self.model = model
        self.decoder = model.model
        self.pool = pool

    @torch.inference_mode()
    def forward(self, chunks: Sequence[Chunk], *, all_logits: bool = False) -> Tensor:
        """Compute the tokens of `chunks`, write their K/V, and return logits.

        Returns [chunks, vocabulary], those after the last token of each chunk, or with
        `all_logits` [tokens, vocabulary]. Raises ValueError for an empty chunk, or one
        too long for its pages.
        """
        batch = self.pack(chunks)
        self._clear_tails(chunks)
        hidden = self.decoder.embed_tokens(batch.token_ids)
        rotary = self.decoder.rotary_emb(hidden, position_ids=batch.positions)
        for layer in range(len(self.decoder.layers)):
            hidden = self.forward_layer_with_cached_prefix(layer, hidden, rotary, batch)
        hidden = self.decoder.norm(hidden)
        if not all_logits:
            hidden = hidden.index_select(1, batch.last_rows)
        logits: Tensor = self.model.lm_head(hidden)[0]
        return logits

    def forward_layer_with_cached_prefix(
        self, layer: int, hidden: Tensor, rotary: tuple[Tensor, Tensor], batch: Batch
    ) -> Tensor:
        """One decoder layer over the new tokens only.

        `hidden` is [1, tokens, hidden size], and so is the result.
        """
        block = self.decoder.layers[layer]
        attention = block.self_attn
        normed = block.input_layernorm(hidden)
        by_head = *hidden.shape[:-1], -1, attention.head_dim
        q = attention.q_proj(normed).view(by_head)
        k = attention.k_proj(normed).view(by_head)
        v = attention.v_proj(normed).view(by_head)
        if hasattr(attention, "q_norm"):  # Qwen3
            q, k = attention.q_norm(q), attention.k_norm(k)
        q, k = apply_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), *rotary)
        attended = self.compute_attention_with_cached_kv(
            layer, q, k, v.transpose(1, 2), batch
        )
        hidden = hidden + attention.o_proj(attended)
        output: Tensor = hidden + block.mlp(block.post_attention_layernorm(hidden))
        return output

    def compute_attention_with_cached_kv(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, batch: Batch
    ) -> Tensor:
        """Write new K/V into their pages, then attend to old and new.

        `q` is [1, heads, tokens, head_dim], `k` and `v` are [1, kv_heads, tokens,
        head_dim]; returns [1, tokens, heads × head_dim].
        """
        self.pool.write(layer, batch.slots, k[0], v[0])
        return self._attend(layer, q, k, v, batch)

    def _attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, batch: Batch
    ) -> Tensor:
        """Attention of cold prompts, each to itself, and of all others over pages."""
        module = self.decoder.layers[layer].self_attn
        parts = []
        for rows in batch.cold:
            own_q, own_k, own_v = (x[:, :, rows] for x in (q, k, v))
            attended, _ = sdpa_attention_forward(
                module, own_q, own_k, own_v, None, scaling=module.scaling
            )
            parts.append(attended.flatten(2))
        if batch.cached is not None:
            own_q = q[:, :, batch.cached.rows]
            parts.append(
                attention_over_pages(own_q, module, self.pool, layer, batch.cached)
            )
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)[:, batch.unsort]

    def pack(self, chunks: Sequence[Chunk]) -> Batch:
        """Lay chunks out in one row and work out, once for all layers, where all is."""
        self._check(chunks)
        page_size = self.pool.page_size
        positions = [np.arange(c.start, c.start + len(c.tokens)) for c in chunks]
        slots = np.concatenate(
            [
                c.page_table[at // page_size] * page_size + at % page_size
                for c, at in zip(chunks, positions, strict=True)
            ]
        )
        if len(np.unique(slots)) < len(slots):
            raise ValueError(
                "two tokens of this batch would be written to the same slot"
            )
        rows = _consecutive(chunks)
        cold = [own for c, own in zip(chunks, rows, strict=True) if c.start == 0]
        others = [own for c, own in zip(chunks, rows, strict=True) if c.start > 0]
        return Batch(
            token_ids=self._tensor([t for c in chunks for t in c.tokens])[None],
            positions=self._tensor(np.concatenate(positions))[None],
            slots=self._tensor(slots),
            cold=[self._rows(own) for own in cold],
            cached=self._cached(chunks, rows) if others else None,
            unsort=self._tensor(np.argsort(np.concatenate(cold + others))),
            last_rows=self._tensor([own[-1] for own in rows]),
        )

    def _cached(self, chunks: Sequence[Chunk], rows: list[Rows]) -> CachedChunks:
        """The chunks with K/V in pages, and who of them attends in one call.

        Single tokens attend in one group, every longer chunk is a group of its own.
        """
        cached = [(c, own) for c, own in zip(chunks, rows, strict=True) if c.start > 0]
        own_chunks = [chunk for chunk, _ in cached]
        own_rows = np.concatenate([own for _, own in cached])
        members = list(zip(own_chunks, _consecutive(own_chunks), strict=True))
        singles = [member for member in members if len(member[0].tokens) == 1]
        groups = [[member] for member in members if len(member[0].tokens) > 1]
        if singles:
            groups.append(singles)
        return CachedChunks(
            own_chunks, self._rows(own_rows), [self._group(group) for group in groups]
        )

    def _group(self, members: list[tuple[Chunk, Rows]]) -> Group:
        chunks = [chunk for chunk, _ in members]
        rows = np.concatenate([own for _, own in members])
        starts = np.array([chunk.start for chunk in chunks])
        n_new = len(chunks[0].tokens)
        length = int(starts.max()) + n_new
        n_pages = -(-length // self.pool.page_size)
        tables = np.empty((len(chunks), n_pages), np.int64)
        for row, chunk in zip(tables, chunks, strict=True):
            n_own = -(-(chunk.start + n_new) // self.pool.page_size)
            row[:n_own] = chunk.page_table[:n_own]
            # read and masked; another's page may hold NaN, and 0 × NaN is NaN
            row[n_own:] = row[0]
        mask = None
        ragged = bool((starts != starts[0]).any())
        if ragged or n_new > 1:  # else all of it may be looked at
            last = starts[:, None, None, None] + np.arange(n_new)[:, None]
            mask = self._tensor(np.arange(length) <= last)
        return Group(self._rows(rows), self._tensor(tables), length, mask)

    def _rows(self, rows: Rows) -> Tensor | slice:
        """An index for `rows`; in line they are a slice, which copies nothing."""
        first, end = int(rows[0]), int(rows[-1]) + 1
        in_line = len(rows) == end - first
        return slice(first, end) if in_line else self._tensor(rows)

    def _clear_tails(self, chunks: Sequence[Chunk]) -> None:
        """Clear pages that are begun and not filled: no later mask can hide a NaN."""
        page_size = self.pool.page_size
        for chunk in chunks:
            last, n_filled = divmod(chunk.start + len(chunk.tokens), page_size)
            if n_filled and chunk.start <= last * page_size:
                self.pool.clear_page(int(chunk.page_table[last]))

    def _check(self, chunks: Sequence[Chunk]) -> None:
        if not chunks:
            raise ValueError("a batch has at least one chunk")
        n_pages = self.pool.data.shape[1]
        page_size = self.pool.page_size
        vocab_size = self.decoder.embed_tokens.num_embeddings
        for i, (tokens, start, page_table) in enumerate(chunks):
            pack_tokens(tokens)
            start = whole_number(start, f"chunk {i}: position")
            check_pages(page_table)
            room = len(page_table) * page_size
            if not len(tokens) or not 0 <= start <= room - len(tokens):
                raise ValueError(
                    f"chunk {i}: new tokens: {len(tokens)}, from position {start}; "
                    "at least one is needed, and all must fit in "
                    f"{len(page_table)} pages of {page_size}"
                )
            for what, ids, limit in (
                ("token", tokens, vocab_size),
                ("page", page_table, n_pages),
            ):
                wrong = [n for n in (np.min(ids), np.max(ids)) if not 0 <= n < limit]
                if wrong:
                    raise ValueError(
                        f"chunk {i}: {what} {wrong[0]} is not one of the {limit}"
                    )

    def _tensor(self, values: Any) -> Tensor:
        return torch.as_tensor(values, device=self.pool.data.device)
