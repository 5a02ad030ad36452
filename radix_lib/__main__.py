"""`python -m radix_lib`: the story in a terminal, each request beside the baseline.

Exit status 1 if a single token differs from Hugging Face's `generate`; with `--exact`,
if a single bit of the logits differs from Hugging Face's forward, in any state of the
cache.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from io import TextIOWrapper
from typing import Any

from radix_lib._openmp import waiting_briefly

if __name__ == "__main__":  # before torch is imported, which reads it once
    os.environ |= waiting_briefly(os.environ)

import torch
from torch import Tensor

from radix_lib.batch_invariance import batch_invariant
from radix_lib.equality import baseline_generate, baseline_logits, compare_logits
from radix_lib.invariant_rows import NotInvariant
from radix_lib.model_loader import load_model
from radix_lib.page_manager import OutOfPages
from radix_lib.radix_model import RadixAttentionModel
from radix_lib.router import Lease
from radix_lib.supported_models import ModelError
from radix_lib.teaching.checks.cache_states import FAMILIES, compare_states, tiny_model
from radix_lib.texts import few_shot_prompts

POOL_TOKENS = 8192  # what all pages together have room for


# ── The story: a few requests, one after the other ────────────────────────────────────


def answer(
    model: RadixAttentionModel, number: int, prompt: str, max_new_tokens: int
) -> bool:
    """Run one request with the cache and without, print both, and say if they agree."""
    began = time.perf_counter()
    lease, logits = model.prefill(prompt, max_new_tokens=max_new_tokens)
    with_cache = time.perf_counter() - began
    with lease:
        began = time.perf_counter()
        baseline_logits(model.model, lease.tokens)
        without = time.perf_counter() - began
        print_request(number, prompt, lease, with_cache, without)
        theirs, their_logits = baseline_generate(
            model.model, lease.tokens, max_new_tokens
        )
        first = compare_logits(logits, their_logits[0])
        ours = print_steps(model, lease, logits, theirs, their_logits)
    print(f"  answer: {model.tokenizer.decode(ours, skip_special_tokens=True)!r}")
    print(f"  logits after the prompt against the baseline's: {first}")
    print(f"  tokens: {'the same' if ours == theirs else 'DIFFERENT'}")
    return ours == theirs


def print_request(
    number: int, prompt: str, lease: Lease, with_cache: float, without: float
) -> None:
    """Print a request, what the cache had of it, and the seconds to its first token."""
    shown = prompt
    if len(prompt) > 120:
        shown = f"{prompt[:40]!r} … {prompt[-75:]!r}"
    n_computed = lease.n_tokens - lease.n_cached
    print(f"\nRequest {number}: {shown}")
    print(
        f"  {lease.n_tokens} tokens: {lease.n_cached} cached, {n_computed} computed\n"
        f"  time to first token: {with_cache:.3f} s; without the cache: {without:.3f} s "
        f"({without / with_cache:.1f} times as long)"
    )


def print_steps(
    model: RadixAttentionModel,
    lease: Lease,
    logits: Tensor,
    theirs: list[int],
    their_logits: Tensor,
) -> list[int]:
    """Decode greedily, as many steps as the baseline; print both, return our tokens."""
    ours: list[int] = []
    print("  step  token            id  top logit   baseline's id  top logit")
    for their_token, their_row in zip(theirs, their_logits, strict=True):
        if ours:
            logits = model.decode_step([lease], ours[-1:])[0]
        token = int(logits.argmax())
        ours.append(token)
        text = repr(model.tokenizer.decode([token]))
        print(
            f"  {len(ours):4}  {text:<14} {token:>6}  {float(logits.max()):9.4f}"
            f"  {their_token:>14}  {float(their_row.max()):9.4f}"
        )
    return ours


def tell(args: argparse.Namespace) -> int:
    """Answer the prompts in order and return the exit status."""
    n_pages = 1
    if args.page_size > 0:  # else the page manager refuses it, in its own words
        n_pages = -(-POOL_TOKENS // args.page_size)
    model = RadixAttentionModel.from_pretrained(
        args.model, page_size=args.page_size, n_pages=n_pages
    )
    prompts = args.prompt or few_shot_prompts()
    warm_up = model.encode(prompts[0])[:1]
    if warm_up:  # else the first to compute would pay for what is done once
        baseline_logits(model.model, warm_up)
    same = [
        answer(model, number, prompt, args.max_new_tokens)
        for number, prompt in enumerate(prompts, 1)
    ]
    done = model.stats()
    print(
        f"\n{done.cached_tokens} of {done.prompt_tokens} prompt tokens came from the "
        f"cache. Same tokens as Hugging Face's generate in {sum(same)} of {len(same)} "
        "requests."
    )
    return 0 if all(same) else 1


# ── --exact: every state of the cache, bit by bit ─────────────────────────────────────


def is_exact(
    name: str, model: Any, tokens: list[int], page_sizes: tuple[int, ...]
) -> bool:
    """Print the three legs for one model in one dtype, and say if they all hold."""
    print(f"\n{name}, {str(model.dtype).removeprefix('torch.')}, {len(tokens)} tokens")

    ((_, cold),) = compare_states(model, tokens, states=["cold prompt"])
    good = cold.differing == 0
    print(
        f"  (a) ours, cold, and Hugging Face untouched: {cold.differing} numbers differ"
    )

    untouched = baseline_logits(model, tokens, all_logits=True)
    with batch_invariant():
        exact = baseline_logits(model, tokens, all_logits=True)
    theirs = compare_logits(exact, untouched)
    if model.dtype != torch.bfloat16:  # its own rounding is coarser than any such limit
        good &= theirs.max_abs_diff <= 1e-3 and theirs.same_argmax == theirs.rows
    print(
        "  (c) Hugging Face, exact and untouched: "
        f"max |Δ| {theirs.max_abs_diff:.0e}, "
        f"same top token in {theirs.same_argmax} of {theirs.rows} rows"
    )

    print("  (b) ours and Hugging Face in exact arithmetic:")
    print(f"      page size  {'state':24}  numbers compared  differing in a bit")
    for page_size in page_sizes:
        with batch_invariant():
            for state, found in compare_states(model, tokens, page_size=page_size):
                good &= found.differing == 0
                print(
                    f"      {page_size:9}  {state:24}  {found.numbers:16,}"
                    f"  {found.differing:18,}",
                    flush=True,
                )
    return good


def compare_exactly(name: str | None) -> int:
    """Hold every cache state against Hugging Face, on the model and on tiny ones."""
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
            model = tiny_model(config, dtype)
            good &= is_exact(f"a tiny {family}", model, tokens, (1, 4, 16))
    print("\nNot one bit differs." if good else "\nNOT EQUAL: see the rows above.")
    return 0 if good else 1


# ── The command line ──────────────────────────────────────────────────────────────────


def parse_arguments() -> argparse.Namespace:
    """Read the command line; what cannot be meant ends with exit status 2."""
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
    given = [args.prompt, args.page_size, args.max_new_tokens]
    if args.exact and given != [None, None, None]:
        parser.error(
            "--exact has prompts and sizes of its own: only --model goes with it"
        )
    if args.page_size is None:
        args.page_size = 16
    if args.max_new_tokens is None:
        args.max_new_tokens = 4
    if args.max_new_tokens < 1:
        parser.error(f"--max-new-tokens is at least 1, not {args.max_new_tokens}")
    return args


def main() -> int:
    """Do what the command line asks for and return the exit status."""
    # An answer may hold any character, and a terminal or a pipe may know few of them.
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    args = parse_arguments()
    try:
        return compare_exactly(args.model) if args.exact else tell(args)
    except (ModelError, NotInvariant, OutOfPages, ValueError) as error:
        print(f"radix_lib: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
