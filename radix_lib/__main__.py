"""`python -m radix_lib`: the story in a terminal, each request beside the baseline.

Exit status 1 if a single token differs from Hugging Face's `generate`; with `--exact`,
if a single bit of the logits differs from Hugging Face's forward, in any state of the
cache.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import torch

from radix_lib.batch_invariance import NotInvariant, batch_invariant
from radix_lib.equality import baseline_generate, baseline_logits, compare_logits
from radix_lib.model_loader import load_model
from radix_lib.page_manager import OutOfPages
from radix_lib.radix_model import RadixAttentionModel
from radix_lib.supported_models import ModelError
from radix_lib.teaching.checks.cache_states import FAMILIES, compare_states, tiny_model
from radix_lib.texts import few_shot_prompts


def answer(
    model: RadixAttentionModel, number: int, prompt: str, max_new_tokens: int
) -> bool:
    """Run one request with the cache and without it, print both, and say if they
    agree.
    """
    began = time.perf_counter()
    lease, logits = model.prefill(prompt, max_new_tokens=max_new_tokens)
    with_cache = time.perf_counter() - began
    began = time.perf_counter()
    baseline_logits(model.model, lease.tokens)
    without = time.perf_counter() - began
    theirs, their_logits = baseline_generate(model.model, lease.tokens, max_new_tokens)

    shown = prompt if len(prompt) <= 120 else f"{prompt[:40]!r} … {prompt[-75:]!r}"
    print(f"\nRequest {number}: {shown}")
    print(
        f"  {lease.n_tokens} tokens: {lease.n_cached} cached, "
        f"{lease.n_tokens - lease.n_cached} computed"
    )
    print(
        f"  time to first token: {with_cache:.3f} s; without the cache: {without:.3f} s "
        f"({without / with_cache:.1f} times as long)"
    )
    print("  step  token            id  top logit   baseline's id  top logit")
    ours = []
    with lease:
        for step, (their_token, their_row) in enumerate(
            zip(theirs, their_logits, strict=True)
        ):
            ours.append(token := int(logits.argmax()))
            text = repr(model.tokenizer.decode([token]))
            print(
                f"  {step + 1:4}  {text:<14} {token:>6}  {float(logits.max()):9.4f}"
                f"  {their_token:>14}  {float(their_row.max()):9.4f}"
            )
            if step == 0:
                first = compare_logits(logits, their_row)
            if step + 1 < len(theirs):
                logits = model.decode_step([lease], [token])[0]
    print(f"  answer: {model.tokenizer.decode(ours, skip_special_tokens=True)!r}")
    print(f"  logits after the prompt against the baseline's: {first}")
    print(f"  tokens: {'the same' if ours == theirs else 'DIFFERENT'}")
    return ours == theirs


def is_exact(
    name: str, model: Any, tokens: list[int], page_sizes: tuple[int, ...]
) -> bool:
    """Print the three legs for one model in one dtype, and say if they all hold."""
    print(f"\n{name}, {str(model.dtype).removeprefix('torch.')}, {len(tokens)} tokens")
    ((_, cold),) = compare_states(model, tokens, states=["cold prompt"])
    untouched = baseline_logits(model, tokens, all_logits=True)
    with batch_invariant():
        theirs = compare_logits(
            baseline_logits(model, tokens, all_logits=True), untouched
        )
    good = cold.differing == 0
    print(
        f"  (a) ours, cold, and Hugging Face untouched: {cold.differing} numbers differ"
    )
    top = f"same top token in {theirs.same_argmax} of {theirs.rows} rows"
    print(
        f"  (c) Hugging Face, exact and untouched: max |Δ| {theirs.max_abs_diff:.0e}, {top}"
    )
    if model.dtype != torch.bfloat16:  # its own rounding is coarser than any such limit
        good &= theirs.max_abs_diff <= 1e-3 and theirs.same_argmax == theirs.rows
    print("  (b) ours and Hugging Face in exact arithmetic:")
    print(
        "      page size  state                     numbers compared  differing in a bit"
    )
    for page_size in page_sizes:
        with batch_invariant():
            for state, found in compare_states(model, tokens, page_size=page_size):
                row = f"{page_size:9}  {state:24}  {found.numbers:16,}  {found.differing:18,}"
                print("      " + row, flush=True)
                good &= found.differing == 0
    return good


def exact(name: str | None) -> int:
    """Hold every cache state against Hugging Face's forward, on the model and on tiny
    ones.
    """
    good = True
    for dtype, n_tokens, page_sizes in (
        (torch.float32, 40, (1, 4, 16)),
        (torch.float64, 24, (4,)),
        (torch.bfloat16, 24, (4,)),
    ):
        loaded = load_model(name, dtype=dtype)
        tokens = loaded.tokenizer.encode(few_shot_prompts(1)[0])[:n_tokens]
        good &= is_exact(loaded.name, loaded.model, tokens, page_sizes)
    tokens = [(7 * i * i + i) % 64 for i in range(37)]
    for family, config in FAMILIES.items():
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            good &= is_exact(
                f"a tiny {family}", tiny_model(config, dtype), tokens, (1, 4, 16)
            )
    print("\nNot one bit differs." if good else "\nNOT EQUAL: see the rows above.")
    return 0 if good else 1


def main() -> int:
    """Parse the command line, run the requests in order, return the exit status."""
    parser = argparse.ArgumentParser("python -m radix_lib", description=__doc__)
    parser.add_argument(
        "--prompt",
        action="append",
        help="a request; repeat it (default: a few-shot pair)",
    )
    parser.add_argument(
        "--model", help="a hub id or a local folder (default: SmolLM2-135M)"
    )
    parser.add_argument("--page-size", type=int, help="tokens a page (default: 16)")
    parser.add_argument("--max-new-tokens", type=int, help="(default: 4)")
    parser.add_argument(
        "--exact",
        action="store_true",
        help="compare all logits in all cache states, bit by bit",
    )
    args = parser.parse_args()
    if args.exact and (args.prompt, args.page_size, args.max_new_tokens) != (
        None,
        None,
        None,
    ):
        parser.error(
            "--exact has prompts and sizes of its own: only --model goes with it"
        )
    page_size = 16 if args.page_size is None else args.page_size
    max_new_tokens = 4 if args.max_new_tokens is None else args.max_new_tokens
    if max_new_tokens < 1:
        parser.error(f"--max-new-tokens is at least 1, not {max_new_tokens}")
    try:
        if args.exact:
            return exact(args.model)
        n_pages = -(-8192 // page_size) if page_size > 0 else 1
        model = RadixAttentionModel.from_pretrained(
            args.model, page_size=page_size, n_pages=n_pages
        )
        prompts = args.prompt or few_shot_prompts()
        warm_up = model.encode(prompts[0])[:1]
        if warm_up:  # else the first to compute would pay for what is done once
            baseline_logits(model.model, warm_up)
        same = [
            answer(model, number, prompt, max_new_tokens)
            for number, prompt in enumerate(prompts, 1)
        ]
    except (ModelError, NotInvariant, OutOfPages, ValueError) as error:
        print(f"radix_lib: {error}", file=sys.stderr)
        return 2
    done = model.stats()
    print(
        f"\n{done.cached_tokens} of {done.prompt_tokens} prompt tokens came from the cache. "
        f"Same tokens as Hugging Face's generate in {sum(same)} of {len(same)} requests."
    )
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
