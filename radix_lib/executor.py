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
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from radix_lib.page_manager import KVPool
from radix_lib.radix_tree import Pages
from radix_lib.supported_models import check_supported


class Chunk(NamedTuple):
    """New tokens of one sequence. K/V of every token before `start` must lie in its
    pages.
    """

    tokens: Sequence[int]
    start: int  # the position of the first of them
    page_table: Pages


class Group(NamedTuple):
    """Sequences that attend in one call: a single one, or several with one new token
    each.
    """

    rows: Tensor | slice  # which of the packed tokens, [sequences × new tokens]
    page_tables: Tensor  # [sequences, pages]
    cached: bool  # whether K/V must be read from pages; a cold prompt has them at hand
    length: int  # tokens of the longest sequence, old and new
    # [sequences, 1, new tokens, length], True where attention may look
    mask: Tensor | None


class Batch(NamedTuple):
    """Chunks packed into one row, with the indices that every layer needs."""

    token_ids: Tensor  # [1, tokens]
    positions: Tensor  # [1, tokens]
    slots: Tensor  # [tokens], where K/V of each go
    groups: list[Group]
    unsort: Tensor  # [tokens], from the order of the groups back to that of the tokens
    last_rows: Tensor  # [chunks], the last token of each


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
        """One decoder layer over the new tokens only. `hidden` is [1, tokens, hidden
        size].
        """
        block = self.decoder.layers[layer]
        attention = block.self_attn
        normed = block.input_layernorm(hidden)
        q, k, v = (
            projection(normed).view(*normed.shape[:-1], -1, attention.head_dim)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
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
        """Write new K/V into their pages and attend, group by group, to old and new.

        `q` is [1, heads, tokens, head_dim], `k` and `v` are [1, kv_heads, tokens,
        head_dim]; returns [1, tokens, heads × head_dim].
        """
        self.pool.write(layer, batch.slots, k[0], v[0])
        attended = [self._attend(layer, q, k, v, group) for group in batch.groups]
        return (
            attended[0]
            if len(attended) == 1
            else torch.cat(attended, 1)[:, batch.unsort]
        )

    def _attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, group: Group
    ) -> Tensor:
        """Attention of one group's rows, [1, rows, heads × head_dim]; other shapes as
        above.
        """
        n_sequences = len(group.page_tables)
        q, k, v = (x[:, :, group.rows] for x in (q, k, v))
        # one new token each: tokens become the batch that attention runs over
        if n_sequences > 1:
            q = q.permute(2, 1, 0, 3)
        if group.cached:
            gathered = self.pool.gather(layer, group.page_tables.flatten())
            by_sequence = gathered.view(n_sequences, -1, *gathered.shape[1:])[
                :, : group.length
            ]
            # [sequences, kv_heads, length, head_dim]
            k, v = by_sequence.permute(2, 0, 3, 1, 4)
        module = self.decoder.layers[layer].self_attn
        attended, _ = sdpa_attention_forward(
            module, q, k, v, group.mask, scaling=module.scaling
        )
        return attended.reshape(1, -1, q.shape[1] * q.shape[3])

    def pack(self, chunks: Sequence[Chunk]) -> Batch:
        """Lay chunks out in one row and work out, once for all layers, where everything
        is.

        Sequences with one new token form one group; every longer chunk is a group of
        its own.
        """
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
        ends = np.cumsum([len(c.tokens) for c in chunks])
        singles = [i for i, c in enumerate(chunks) if len(c.tokens) == 1]
        members = [[i] for i, c in enumerate(chunks) if len(c.tokens) > 1]
        members += [singles] * bool(singles)
        rows = [
            np.concatenate(
                [np.arange(ends[i] - len(chunks[i].tokens), ends[i]) for i in group]
            )
            for group in members
        ]
        return Batch(
            token_ids=self._tensor([t for c in chunks for t in c.tokens])[None],
            positions=self._tensor(np.concatenate(positions))[None],
            slots=self._tensor(slots),
            groups=[
                self._group([chunks[i] for i in group], at)
                for group, at in zip(members, rows, strict=True)
            ],
            unsort=self._tensor(np.argsort(np.concatenate(rows))),
            last_rows=self._tensor(ends - 1),
        )

    def _group(self, chunks: list[Chunk], rows: NDArray[np.int64]) -> Group:
        starts = np.array([c.start for c in chunks])
        n_new = len(chunks[0].tokens)
        length = int(starts.max()) + n_new
        n_pages = -(-length // self.pool.page_size)
        tables = np.empty((len(chunks), n_pages), np.int64)
        for row, chunk in zip(tables, chunks, strict=True):
            n_own = -(-(chunk.start + n_new) // self.pool.page_size)
            row[:n_own] = chunk.page_table[:n_own]
            # read and masked; another's page may hold NaN, and 0 × NaN is NaN
            row[n_own:] = row[0]
        cached = length > n_new
        ragged = bool((starts != starts[0]).any())
        mask = None
        # else all of it, or what `is_causal` means
        if ragged or (cached and n_new > 1):
            last = starts[:, None, None, None] + np.arange(n_new)[:, None]
            mask = self._tensor(np.arange(length) <= last)
        contiguous = slice(int(rows[0]), int(rows[-1]) + 1)
        return Group(
            rows=contiguous
            if len(rows) == rows[-1] - rows[0] + 1
            else self._tensor(rows),
            page_tables=self._tensor(tables),
            cached=cached or len(chunks) > 1,
            length=length,
            mask=mask,
        )

    def _clear_tails(self, chunks: Sequence[Chunk]) -> None:
        """Clear the pages that chunks begin and do not fill: a later mask cannot hide a
        NaN.
        """
        page_size = self.pool.page_size
        for chunk in chunks:
            last, n_filled = divmod(chunk.start + len(chunk.tokens), page_size)
            if n_filled and chunk.start <= last * page_size:
                self.pool.clear_page(int(chunk.page_table[last]))

    def _check(self, chunks: Sequence[Chunk]) -> None:
        if not chunks:
            raise ValueError("a batch has at least one chunk")
        n_pages, vocab_size = (
            self.pool.data.shape[1],
            self.decoder.embed_tokens.num_embeddings,
        )
        for i, (tokens, start, page_table) in enumerate(chunks):
            room = len(page_table) * self.pool.page_size
            if not len(tokens) or not 0 <= start <= room - len(tokens):
                raise ValueError(
                    f"chunk {i}: new tokens: {len(tokens)}, from position {start}; at least one is "
                    f"needed, and all must fit in {len(page_table)} pages of {self.pool.page_size}"
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
