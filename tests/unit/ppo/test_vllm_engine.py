"""The `vllm` engine over a stand-in for TRL's `VLLMGeneration`: weights, seeds, ends, and what is refused."""

import copy
import inspect
import random
import warnings
from types import SimpleNamespace

import fake_vllm
import numpy as np
import pytest
import torch
import trl.import_utils as trl_imports
from accelerate import Accelerator
from fake_vllm import FakeGeneration
from test_graph_engine import adapted, noise_of, ragged_prompts, responses, same
from test_stop_texts import say, tokenizer
from tiny_ppo import EOS, KINDS, tiny_lm
from trl.generation.vllm_generation import VLLMGeneration

from rlhf.errors import TrainingError, UsageError
from rlhf.ppo.engines import vllm
from rlhf.ppo.engines.hf import HFEngine
from rlhf.ppo.engines.shadow import plain_weights
from rlhf.ppo.engines.stop_texts import StopTexts
from rlhf.ppo.engines.vllm import VLLMEngine, require_vllm, seed_of
from rlhf.ppo.engines.vllm_weights import PlainPolicy
from rlhf.recipe.vllm import VLLMSection

PROMPTS = ragged_prompts(6, 5)
GREEDY = {"temperature": 0, "stop_ids": (0,)}
"""The likeliest tokens, past EOS, so that responses are long."""


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    """The stand-in, in the library's place."""
    kind = type("Fake", (FakeGeneration,), {"decode": staticmethod(say)})
    monkeypatch.setattr(vllm, "require_vllm", lambda: kind)
    return kind


def engine_of(policy, accelerator=None, stop_texts=None, **settings):
    return VLLMEngine(
        policy,
        VLLMSection.model_validate(settings),
        accelerator=accelerator or Accelerator(cpu=True),
        tokenizer=tokenizer(),
        num_slots=5,
        max_length=40,
        stop_texts=stop_texts,
    )


def sampled(engine, policy, noise=None, prompts=PROMPTS, **settings):
    noise = noise_of(len(prompts), 12) if noise is None else noise
    return engine.generate(policy, prompts, noise, **{"temperature": 0.8, "stop_ids": (EOS,)} | settings)


def test_the_stand_in_takes_what_the_real_class_takes_and_no_more():
    with pytest.raises(TypeError, match="another"):
        FakeGeneration(model=None, accelerator=None, processing_class=None, another=1)
    with pytest.raises(TypeError):
        FakeGeneration.generate(SimpleNamespace(), prompts=[[1]])
    source = inspect.getsource(VLLMGeneration.generate)
    for name in ("temperature", "max_completion_length", "generation_kwargs"):
        assert f"self.{name}" in source, "what the engine sets before each call is read in it"


def test_it_is_started_as_the_recipe_says():
    given = engine_of(tiny_lm(), gpu_memory_utilization=0.4, sleep=True)._vllm.given
    expected = {
        "mode": "colocate",
        "server_base_url": None,
        "gpu_memory_utilization": 0.4,
        "enable_sleep_mode": True,
        "max_model_length": 40,
        "max_num_seqs": 5,
        "logprobs": 0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }
    assert {name: given[name] for name in expected} == expected


def test_greedy_responses_are_those_of_hf():
    policy = tiny_lm()
    got = sampled(engine_of(policy), policy, temperature=0)
    expected = HFEngine().generate(policy, PROMPTS, noise_of(6, 12), temperature=0, stop_ids=(EOS,))
    same(got, expected)
    assert got.needs_weights
    assert not expected.needs_weights


def test_weights_are_sent_where_they_have_changed_and_then_alone():
    policy = tiny_lm()
    engine = engine_of(policy)
    assert engine._vllm.num_syncs == 1, "a start that cannot take the weights is none"
    first = sampled(engine, policy)
    assert responses(sampled(engine, policy)) == responses(first)
    assert engine._vllm.num_syncs == 1
    with torch.no_grad():
        policy.model.layers[0].mlp.up_proj.weight[0, 0] += 0.5
    sampled(engine, policy)
    assert engine._vllm.num_syncs == 2
    other = tiny_lm(seed=4)
    same(
        sampled(engine, other, temperature=0),
        HFEngine().generate(other, PROMPTS, noise_of(6, 12), temperature=0, stop_ids=(EOS,)),
    )
    assert engine._vllm.num_syncs == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_weights_go_once_each_under_the_names_of_the_models_own_files(kind, tied):
    policy = tiny_lm(kind, tie_word_embeddings=tied)
    sent = dict(PlainPolicy(policy, torch.device("cpu")).named_parameters())
    assert list(sent) == [name for name, _ in policy.named_parameters()]
    assert all(sent[name].data.equal(weight) for name, weight in policy.named_parameters())


def test_adapters_are_merged_into_what_is_sent_and_never_into_the_base():
    policy = adapted()
    before = {name: each.clone() for name, each in policy.named_parameters()}
    merged = dict(copy.deepcopy(policy).merge_and_unload().named_parameters())
    sent = dict(plain_weights(policy))
    assert sent.keys() == merged.keys()
    for name, weight in merged.items():
        torch.testing.assert_close(sent[name], weight.detach(), rtol=0, atol=1e-6)
    got = sampled(engine_of(policy), policy, temperature=0)
    same(got, HFEngine().generate(policy, PROMPTS, noise_of(6, 12), temperature=0, stop_ids=(EOS,)))
    assert all(torch.equal(before[name], each) for name, each in policy.named_parameters())


def test_equal_noise_samples_equally_other_noise_does_not_and_no_generator_moves():
    policy = tiny_lm()
    engine = engine_of(policy)
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first = responses(sampled(engine, policy))
    torch.rand(3), random.random(), np.random.rand()
    assert responses(sampled(engine, policy)) == first
    assert responses(sampled(engine, policy, noise_of(6, 12, seed=1))) != first
    torch.set_rng_state(state[0])
    random.setstate(state[1])
    sampled(engine, policy)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]


def test_the_seed_is_no_requests_own():
    """vLLM gives each request of a call the generator of its seed: responses to one prompt would be copies."""
    policy = tiny_lm()
    engine = engine_of(policy)
    out = sampled(engine, policy, prompts=[PROMPTS[0]] * 8)
    assert len({tuple(row) for row in responses(out)}) > 1
    assert "seed" not in engine._vllm.calls[0]
    assert seed_of(torch.tensor([[0.5, 0.25]])) != seed_of(torch.tensor([[0.25, 0.5]]))


def test_a_server_is_not_seeded():
    policy = tiny_lm()
    engine = engine_of(policy, mode="server", server_url="http://localhost:8000")
    assert engine._vllm.given["server_base_url"] == "http://localhost:8000"
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        drawn.append(responses(sampled(engine, policy)))
    assert drawn[0] != drawn[1]


def test_a_defect_of_a_colocated_engine_stays_what_it_is():
    policy = tiny_lm()
    engine = engine_of(policy)
    engine._vllm.generate = None
    with pytest.raises(TypeError):
        sampled(engine, policy)


def test_ends_are_our_stop_tokens_and_the_limit():
    policy = tiny_lm()
    engine = engine_of(policy)
    stops = (EOS, 4, 13)
    out = sampled(engine, policy, noise_of(6, 3), stop_ids=stops)
    assert engine._vllm.calls[0]["stop_token_ids"] == list(stops)
    assert engine._vllm.calls[0]["max_completion_length"] == 3
    assert {"eos", "length"} == set(out.finish_reasons)
    for row, reason in zip(responses(out), out.finish_reasons, strict=True):
        assert (row[-1] in stops) == (reason == "eos")
        assert reason == "eos" or len(row) == 3
        assert not set(row[:-1]) & set(stops)
    assert (out.response_ids[~out.response_mask] == 0).all()
    assert (out.logprobs[~out.response_mask] == 0).all()


def texts_of(policy):
    """Two that occur in its likeliest responses, and these responses as `hf` ends them."""
    plain = HFEngine().generate(policy, PROMPTS, noise_of(6, 12), **GREEDY)
    texts = StopTexts(tokenizer(), [say(row[3:5]) for row in responses(plain)[:2]])
    return texts, HFEngine(stop_texts=texts).generate(policy, PROMPTS, noise_of(6, 12), **GREEDY)


def test_stop_texts_end_a_response_as_with_hf():
    policy = tiny_lm()
    texts, expected = texts_of(policy)
    engine = engine_of(policy, stop_texts=texts)
    same(sampled(engine, policy, **GREEDY), expected)
    assert "stop" in expected.finish_reasons
    assert engine._vllm.calls[0]["stop"] == list(texts.texts)
    assert engine._vllm.calls[0]["skip_special_tokens"] is False


def test_a_text_that_vllm_overlooks_is_cut_and_one_that_it_alone_sees_ends_the_response(fake):
    policy = tiny_lm()
    texts, expected = texts_of(policy)
    fake.decode = staticmethod(lambda ids: "")
    same(sampled(engine_of(policy, stop_texts=texts), policy, **GREEDY), expected)
    fake.decode = staticmethod(lambda ids: "abcdef" if len(ids) == 2 else "")
    out = sampled(engine_of(policy, stop_texts=StopTexts(tokenizer(), ["abcdef"])), policy, **GREEDY)
    assert [len(row) for row in responses(out)] == [2] * 6
    assert out.finish_reasons == ["stop"] * 6


def test_of_a_server_each_process_asks_for_as_many_as_the_others():
    policy = tiny_lm()
    others = SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=2,
        is_main_process=True,
        gather=lambda mine: torch.cat([mine, torch.tensor([9])]),
    )
    engine = engine_of(policy, others, mode="server", server_url="http://localhost:8000")
    out = sampled(engine, policy)
    asked = engine._vllm.calls[0]["prompts"]
    assert asked == [*PROMPTS, *[PROMPTS[-1]] * 3]
    assert len(responses(out)) == 6
    engine = engine_of(policy, others)
    sampled(engine, policy)
    assert engine._vllm.calls[0]["prompts"] == PROMPTS


@pytest.mark.parametrize("cut", [{"top_p": 0.9}, {"min_p": 0.1}])
def test_a_cut_vocabulary_is_refused(cut):
    policy = tiny_lm()
    with pytest.raises(UsageError, match=r"does not say which tokens(.|\n)*engine: hf or graph"):
        sampled(engine_of(policy), policy, **cut)


def test_weights_that_are_not_numbers_are_named(fake, monkeypatch):
    policy = tiny_lm()
    engine = engine_of(policy)
    answers = ([[1]], [[7, EOS]], [[[-0.5], [None]]], [[[7], [EOS]]])
    monkeypatch.setattr(engine._vllm, "generate", lambda **_: answers)
    with pytest.raises(TrainingError, match="not numbers"):
        sampled(engine, policy, prompts=[[1]])


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({}, "gpu_memory_utilization"),
        ({"mode": "server", "server_url": "http://localhost:1"}, "vllm serve MODEL"),
    ],
)
@pytest.mark.parametrize(
    "error", [ValueError("no room\nmore"), ConnectionError("no room"), ImportError("no room")]
)
def test_one_that_does_not_start_is_one_error_with_what_to_do(fake, monkeypatch, settings, remedy, error):
    def broken(self, *_, **__):
        raise error

    monkeypatch.setattr(fake, "__init__", broken)
    with pytest.raises(UsageError, match=rf"vllm \(.*\) does not start: no room\n(.|\n)*{remedy}") as caught:
        engine_of(tiny_lm(), **settings)
    assert "more\n" not in str(caught.value)


def test_vllm_that_is_missing_or_of_another_version_is_named_with_what_to_install(monkeypatch):
    monkeypatch.undo()  # the real look-up
    monkeypatch.setattr(trl_imports, "is_vllm_available", lambda: False)
    with pytest.raises(UsageError, match=r"needs vLLM, which is not installed\n.*trl\[vllm\]"):
        require_vllm()

    def old():
        warnings.warn("TRL currently supports vLLM versions from 1 to 2. You have version 0.1", stacklevel=2)
        return True

    monkeypatch.setattr(trl_imports, "is_vllm_available", old)
    with pytest.raises(UsageError, match=r"You have version 0\.1\n.*trl\[vllm\]"):
        require_vllm()
    monkeypatch.setattr(trl_imports, "is_vllm_available", lambda: True)
    assert require_vllm() is VLLMGeneration
    assert fake_vllm.VLLMGeneration is VLLMGeneration
