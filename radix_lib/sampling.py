"""Chapter 07: which token comes next. Chapter 08 adds what a scheduler needs of it.

Left out here: penalties, and whatever else looks at the tokens before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from radix_lib.prompts import as_token_ids
from radix_lib.radix_tree import whole_number


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: greedily, or drawn at random with `seed`.

    Above `temperature` 0 they are drawn, from the smallest set whose probability is at
    least `top_p`. `stop` are token ids that end an answer, or a single one. Raises
    ValueError for what is out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: Sequence[int] = ()  # a tuple, whatever it was given as

    def __post_init__(self) -> None:
        try:
            fits = math.isfinite(self.temperature) and self.temperature >= 0
            fits = fits and 0 < self.top_p <= 1
        except TypeError:  # not a number
            fits = False
        if not fits:
            raise ValueError(
                f"temperature={self.temperature!r}, top_p={self.top_p!r}: the first is "
                "a number from 0, the second above 0 and at most 1"
            )
        seed = whole_number(self.seed, "seed")
        if seed >= 2**63:
            raise ValueError(f"seed={seed} is not below 2**63")
        object.__setattr__(self, "seed", seed)
        object.__setattr__(self, "stop", tuple(as_token_ids(self.stop)))

    def choose(self, logits: Tensor, random: torch.Generator) -> int:
        """The next token, given the `logits` for it, [vocabulary].

        Raises ValueError where the largest is no number, or none is left to choose.
        """
        largest = int(logits.argmax())  # NaN, if there is one
        if not math.isfinite(logits[largest]):
            raise ValueError(
                f"the logit of token {largest} is {logits[largest].item()}: look at the "
                "model's weights and dtype, and whether all tokens were banned"
            )
        if self.temperature == 0:
            return largest
        # Below the largest, so that the smallest temperature makes no infinity of it.
        below = logits.cpu().double() - logits.max().cpu().double()
        scaled = below / self.temperature
        probabilities, order = scaled.softmax(-1).sort(descending=True)
        # A token stays while those before it have less than top_p: the first always.
        before = probabilities.cumsum(-1) - probabilities
        probabilities[before >= self.top_p] = 0
        return int(order[torch.multinomial(probabilities, 1, generator=random)])


class Sampler:
    """Chooses the tokens of one answer; asked for the same one again, it says the same.

    They are those that `RadixAttentionModel.stream` chooses. Built in chapter 08.
    """

    def __init__(self, sampling: Sampling, ends: set[int]):
        self.sampling = sampling
        self.ends = ends  # the answer is over after any of these
        self.random = torch.Generator().manual_seed(sampling.seed)
        self.place = -1  # of the token chosen last
        self.state = self.random.get_state()  # before it was drawn

    def choose(self, row: Tensor, place: int) -> int:
        """Token number `place` of the answer, given the logits for it, [vocabulary]."""
        if place == self.place:  # an interrupt came before anybody heard of it
            self.random.set_state(self.state)
        self.state = self.random.get_state()
        self.place = place
        return self.sampling.choose(row, self.random)
