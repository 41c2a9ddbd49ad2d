"""The `graph` engine beside `hf`: families of models, adapters, weights that change, rows that wait, and what it refuses.

Here nothing is captured: a CPU calls the same steps one by one.
"""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_ppo import lively, tiny_lm
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf.errors import TrainingError
from rlhf.models.load import TESTED_FAMILIES
from rlhf.ppo.engines import prefill
from rlhf.ppo.engines.graph import GraphEngine, _sizes
from rlhf.ppo.engines.hf import HFEngine

VOCAB = 23
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 22,
    "pad_token_id": 0,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 4}
MORE = {
    "gemma": GROUPED,
    "gpt_neox": {"rotary_pct": 0.5},
    "gpt2": {},
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 6},
    "qwen2": {
        "num_key_value_heads": 2,
        "use_sliding_window": True,
        "sliding_window": 6,
        "max_window_layers": 1,
    },
    "qwen3": GROUPED,
}


def family(model_type, seed=0):
    config = AutoConfig.for_model(model_type, **SHAPE, **MORE[model_type])
    return lively(AutoModelForCausalLM.from_config(config, dtype=torch.float32), seed)


def ragged_prompts(count, longest, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, VOCAB, rng.integers(1, longest + 1)).tolist() for _ in range(count)]


def noise_of(rows, tokens, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((rows, tokens), dtype=np.float32))


def responses(out):
    return [row[kept].tolist() for row, kept in zip(out.response_ids, out.response_mask, strict=True)]


def same(first, second):
    assert responses(first) == responses(second)
    assert first.finish_reasons == second.finish_reasons
    assert torch.allclose(first.logprobs, second.logprobs, atol=2e-5, rtol=0)


def both(model, prompts, noise, engine=None, **settings):
    settings = {"temperature": 0.8, "stop_ids": (22,)} | settings
    engine = engine or GraphEngine(num_slots=4, dtype=torch.float32)
    return (
        HFEngine(batch_size=5).generate(model, prompts, noise, **settings),
        engine.generate(model, prompts, noise, **settings),
    )


@pytest.mark.parametrize("model_type", TESTED_FAMILIES)
def test_every_family_samples_the_same_tokens(model_type):
    """Grouped heads, windows shorter than the rows, absolute and rotary positions; prompts of 1 to 20 tokens."""
    hf, graph = both(family(model_type), ragged_prompts(9, 20), noise_of(9, 24), stop_ids=(22, 4, 13))
    same(hf, graph)
    assert len({len(row) for row in responses(hf)}) > 3, "the rows must end at different places"


def test_a_window_matters_in_this_test():
    """Else the one above would pass without masks for windows."""
    model, prompts, noise = family("mistral"), ragged_prompts(9, 20), noise_of(9, 24)
    hf, _ = both(model, prompts, noise)
    model.config.sliding_window = None
    for module in model.modules():
        if hasattr(module, "sliding_window"):
            module.sliding_window = None
    without, _ = both(model, prompts, noise)
    assert responses(hf) != responses(without)


@pytest.mark.parametrize("stop_ids", [(22,), tuple(range(VOCAB)), (), (1, 5, 9, 13, 17, 21)])
@pytest.mark.parametrize("num_slots", [1, 16, 200])
def test_lengths_of_every_kind_waiting_rows_and_shrinking_batches(num_slots, stop_ids):
    """Rows that end at their first token, that never end, and a mixture, through few slots and through many."""
    engine = GraphEngine(num_slots=num_slots, dtype=torch.float32)
    count = 6 if num_slots == 1 else 70
    same(*both(tiny_lm(), ragged_prompts(count, 9), noise_of(count, 19), engine, stop_ids=stop_ids))


@pytest.mark.parametrize("cuts", [{"top_p": 0.7}, {"min_p": 0.1}])
def test_a_vocabulary_that_is_cut_now_and_not_then(cuts):
    """Through slots that are given to waiting rows, and one engine whose calls differ, the last in need of more room."""
    model, engine = tiny_lm(), GraphEngine(num_slots=3, dtype=torch.float32)
    for rows, settings in ((9, {}), (9, cuts), (9, {**cuts, "temperature": 0.0}), (4, cuts), (17, cuts)):
        hf, graph = both(model, ragged_prompts(rows, 9), noise_of(rows, 12), engine, **settings)
        same(hf, graph)
        assert (graph.support is None) == (not settings or "temperature" in settings)
        assert listed(graph) == listed(hf)


def listed(generation):
    return [[ids.tolist() for ids in row] for row in generation.support or []]


@pytest.mark.parametrize("num_slots", [8, 2])
def test_a_prompt_is_computed_once_for_all_its_responses_and_before_its_slot_is_free(monkeypatch, num_slots):
    seen = []
    real = prefill.filled
    monkeypatch.setattr(
        prefill, "filled", lambda model, contexts: seen.append(contexts) or real(model, contexts)
    )
    prompts = [[3, 1, 4]] * 5 + [[2, 7]] * 3
    engine = GraphEngine(num_slots=num_slots, dtype=torch.float32)
    same(*both(tiny_lm(), prompts, noise_of(8, 10), engine))
    assert seen == [[[2], [3, 1]]]


@pytest.mark.parametrize("num_slots", [16, 3])
def test_prompts_beyond_what_one_pass_computes(monkeypatch, num_slots):
    monkeypatch.setattr(prefill, "PREFILL_TOKENS", 12)
    prompts = [*ragged_prompts(20, 9), *[[5]] * 3]
    engine = GraphEngine(num_slots=num_slots, dtype=torch.float32)
    same(*both(tiny_lm(), prompts, noise_of(23, 12), engine))


def test_one_engine_serves_calls_of_other_sizes_temperatures_and_stop_tokens():
    model, engine = tiny_lm(), GraphEngine(num_slots=4, dtype=torch.float32)
    for rows, longest, tokens, settings in [
        (9, 12, 15, {}),
        (3, 4, 5, {"temperature": 0.0}),
        (20, 30, 25, {"stop_ids": (4, 5)}),
        (9, 12, 15, {"temperature": 1.7, "stop_ids": ()}),
    ]:
        same(*both(model, ragged_prompts(rows, longest), noise_of(rows, tokens), engine, **settings))


def test_it_samples_from_the_weights_of_now():
    model, engine = tiny_lm(), GraphEngine(num_slots=4, dtype=torch.float32)
    prompts, noise = ragged_prompts(6, 5), noise_of(6, 12)
    hf, _ = both(model, prompts, noise, engine)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.2)
    moved, moved_graph = both(model, prompts, noise, engine)
    same(moved, moved_graph)
    assert responses(moved) != responses(hf)
    same(*both(tiny_lm(seed=9), prompts, noise, engine))


def adapted(seed=3):
    model = get_peft_model(
        tiny_lm(), LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3, generator=generator)
    return model.eval()


def test_an_adapter_is_merged_into_the_copy_and_never_into_the_base():
    model, engine = adapted(), GraphEngine(num_slots=4, dtype=torch.float32)
    before = {name: each.clone() for name, each in model.named_parameters()}
    prompts, noise = ragged_prompts(6, 5), noise_of(6, 12)
    hf, graph = both(model, prompts, noise, engine)
    same(hf, graph)
    plain, _ = both(tiny_lm(), prompts, noise)
    assert responses(plain) != responses(hf), "the adapter must matter"
    assert all(torch.equal(before[name], each) for name, each in model.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(-1)
    same(*both(model, prompts, noise, engine))
    with model.disable_adapter():
        same(*both(model, prompts, noise, engine))


def test_a_bfloat16_copy_is_as_near_to_the_float32_weights_as_a_bfloat16_model():
    """Log-probabilities of the same tokens; the trained weights stay float32."""
    model, prompts, noise = tiny_lm(), ragged_prompts(200, 9), noise_of(200, 1)
    settings = {"temperature": 1.0, "stop_ids": ()}
    exact = HFEngine().generate(model, prompts, noise, **settings)
    rounded = HFEngine().generate(tiny_lm().to(torch.bfloat16), prompts, noise, **settings)
    copied = GraphEngine(num_slots=200, dtype=torch.bfloat16).generate(model, prompts, noise, **settings)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    equal = (copied.response_ids == exact.response_ids) & (rounded.response_ids == exact.response_ids)
    assert equal.float().mean() > 0.9
    of_copy, of_model = (
        float((out.logprobs - exact.logprobs)[equal].abs().mean()) for out in (copied, rounded)
    )
    assert 0 < of_copy < 1.3 * of_model


def test_sizes_shrink_by_a_quarter_or_a_third_down_to_eight():
    assert _sizes(256, 256) == [8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    assert _sizes(20, 256) == [8, 12, 16, 24]
    assert _sizes(3, 3) == [3]
    assert _sizes(1, 16) == [8]


def test_what_it_cannot_do_is_refused_in_words():
    engine = GraphEngine(num_slots=4, dtype=torch.float32)
    with pytest.raises(ValueError, match="no token"):
        engine.generate(tiny_lm(), [[1], []], noise_of(2, 3), temperature=1.0, stop_ids=())


@pytest.mark.parametrize("engine", [HFEngine(), GraphEngine(num_slots=4, dtype=torch.float32)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_numbers_are_an_error_and_no_index_out_of_range(engine, bad):
    model = tiny_lm()
    with torch.no_grad():
        model.lm_head.weight[3] = bad
    with pytest.raises(TrainingError, match="not numbers"):
        engine.generate(model, ragged_prompts(3, 4), noise_of(3, 5), temperature=1.0, stop_ids=())


def test_a_copy_is_one_whatever_the_dtype_and_follows_the_policy_s_weights():
    """As where weights are gathered for a call: between two calls they lie elsewhere, and what was theirs is reused."""
    policy, engine = tiny_lm(), GraphEngine(num_slots=4, dtype=torch.float32, copied=True)
    prompts, noise = ragged_prompts(6, 9), noise_of(6, 12)
    shadows = set()
    for scale in (1.0, 1.5):
        same(*both(policy, prompts, noise, engine))
        shadows.add(engine._shadow)
        with torch.no_grad():
            for parameter in policy.parameters():
                old = parameter.data
                parameter.data = old * scale
                old.fill_(float("nan"))
    same(*both(policy, prompts, noise, engine))
    assert shadows == {engine._shadow}, "nothing is made anew, so that captured steps stay good"
