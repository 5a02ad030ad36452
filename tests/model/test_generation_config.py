"""What a checkpoint's generation config asks for is followed, or named as left out."""

from __future__ import annotations

import copy
import warnings

import pytest
from transformers import GenerationConfig, LlamaForCausalLM

from radix_lib.generation_config import NEUTRAL, end_tokens, left_out
from radix_lib.model_loader import LoadedModel
from radix_lib.radix_model import RadixAttentionModel
from tests.support.answers import Characters, Models

#: Settings that do not change which tokens are chosen, greedily and one after another,
#: or that a call here says for itself.
WITHOUT_EFFECT = """
    _from_model_config transformers_version
    eos_token_id bos_token_id pad_token_id decoder_start_token_id
    max_length max_new_tokens num_return_sequences
    early_stopping length_penalty
    renormalize_logits remove_invalid_values
    output_attentions output_hidden_states output_logits output_scores
    return_dict_in_generate
    use_cache cache_config cache_implementation max_cache_len prefill_chunk_size
    compile_config disable_compile continuous_batching_config low_memory
    is_assistant assistant_confidence_threshold assistant_early_exit
    assistant_ensemble_weight assistant_lookbehind target_lookbehind
    max_matching_ngram_size num_assistant_tokens num_assistant_tokens_schedule
    prompt_lookup_num_tokens speculation_type use_mtp
"""


@pytest.fixture
def tiny(tiny_model: Models) -> LlamaForCausalLM:
    """A tiny model with a generation config of its own, which a test may change."""
    model = copy.copy(tiny_model())
    model.generation_config = copy.deepcopy(model.generation_config)
    return model


def test_every_setting_of_transformers_is_known() -> None:
    known = [*NEUTRAL, *WITHOUT_EFFECT.split()]
    assert sorted(known) == sorted(GenerationConfig().to_dict())


def test_transformers_own_defaults_are_neutral(tiny: LlamaForCausalLM) -> None:
    assert left_out(tiny) == {}
    defaults = GenerationConfig._get_default_generation_params()
    tiny.generation_config.update(**defaults)
    assert left_out(tiny) == {}
    tiny.generation_config.update(bad_words_ids=[], guidance_scale=1.0)
    assert left_out(tiny) == {}


def test_a_token_id_of_0_is_asked_for(tiny: LlamaForCausalLM) -> None:
    tiny.generation_config.update(forced_eos_token_id=0)
    assert left_out(tiny) == {"forced_eos_token_id": 0}


def test_end_tokens_are_none_one_or_several(tiny: LlamaForCausalLM) -> None:
    for written, ends in ((None, []), (0, [0]), (7, [7]), ([7, 3], [7, 3])):
        tiny.generation_config.eos_token_id = written
        assert end_tokens(tiny) == ends


def test_a_model_says_which_settings_it_leaves_out(tiny: LlamaForCausalLM) -> None:
    tiny.generation_config.update(
        repetition_penalty=1.1, top_k=20, do_sample=True, suppress_tokens=[*range(99)]
    )
    said = (
        r"do_sample=True, top_k=20, repetition_penalty=1.1, "
        r"suppress_tokens=\[0, 1, 2, 3, 4, 5, \.\.\.\]\. Answers are greedy"
    )
    with pytest.warns(UserWarning, match=said) as caught:
        RadixAttentionModel(tiny, Characters(), n_pages=1)
    assert [warning.filename for warning in caught] == [__file__]


def test_a_model_that_leaves_nothing_out_says_nothing(tiny: LlamaForCausalLM) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RadixAttentionModel(tiny, Characters(), n_pages=1)


def test_the_default_model_asks_for_nothing_else(real: LoadedModel) -> None:
    assert left_out(real.model) == {}
