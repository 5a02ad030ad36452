"""Chapter 07: what a checkpoint's generation config asks for, and what is done of it.

Hugging Face's `generate` obeys the `generation_config.json` that a checkpoint brings.
Here answers end at its end tokens, and nothing else of it is followed: they are greedy,
or drawn as the caller says. Whoever makes a model is told what that leaves out.
"""

from __future__ import annotations

import reprlib
import warnings
from typing import Any

#: Settings that change which tokens are chosen, and the values at which they do not.
NEUTRAL: dict[str, Any] = {
    # drawing
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,  # transformers' own default, where a checkpoint says nothing
    "top_p": 1.0,
    "top_h": None,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    # another search than one token after the other
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "penalty_alpha": None,
    "dola_layers": None,
    "guidance_scale": 1.0,
    "constraints": None,
    "force_words_ids": None,
    "token_healing": False,
    # penalties
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "exponential_decay_length_penalty": None,
    # tokens that must come, or must not
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "bad_words_ids": None,
    "sequence_bias": None,
    "watermarking_config": None,
    # other ends
    "min_length": 0,
    "min_new_tokens": None,
    "max_time": None,
    "stop_strings": None,
}


def end_tokens(model: Any) -> list[int]:
    """The token ids at which a model's own answers end: none, one or several."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        return []
    return [ends] if isinstance(ends, int) else list(ends)


def left_out(model: Any) -> dict[str, Any]:
    """What a checkpoint's generation config asks for and answers here do not follow."""
    asked = {name: getattr(model.generation_config, name, None) for name in NEUTRAL}
    return {
        name: value
        for name, value in asked.items()
        if value is not None and value != [] and value != NEUTRAL[name]
    }


def warn_of_left_out(model: Any) -> None:
    """Warn the caller's caller, by name, of the settings that `left_out` finds."""
    asked = [f"{name}={reprlib.repr(value)}" for name, value in left_out(model).items()]
    if asked:
        warnings.warn(
            "left out of what the checkpoint's generation config asks for: "
            f"{', '.join(asked)}. Answers are greedy, or drawn with the temperature and "
            "top_p of the call",
            stacklevel=3,
        )
