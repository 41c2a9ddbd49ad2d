"""Importance weights between engine and trainer: numbers and gradients worked by hand, and their way through a step."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from fake_vllm import FakeGeneration
from test_replay import collect, record, replay_of
from test_trainer_decisions import MemorySink, assert_same, trainer_of
from tiny_ppo import TinyPPO, made_up_targets, section_of, tiny_lm

from rlhf.ppo.engines import vllm
from rlhf.ppo.engines.vllm import VLLMEngine
from rlhf.ppo.episodes import collate
from rlhf.ppo.importance import importance_metrics, importance_weights
from rlhf.ppo.objective import objective
from rlhf.recipe.vllm import VLLMSection

BY_VLLM = {"sampling": {"max_new_tokens": 7, "temperature": 0.7, "engine": "vllm"}}


def logs(*probabilities):
    return np.log(np.array(probabilities, dtype=np.float32))


def with_fake(tiny, monkeypatch, dtype=torch.bfloat16):
    """Let the stand-in sample for these parts; from rounded weights, so that it is no exact trainer."""
    kind = type("Rounding", (FakeGeneration,), {"dtype": dtype})
    monkeypatch.setattr(vllm, "require_vllm", lambda: kind)
    tiny.collector.engine = VLLMEngine(
        tiny.policy,
        VLLMSection(),
        accelerator=tiny.accelerator,
        tokenizer=None,
        num_slots=8,
        max_length=40,
    )
    return tiny


def weighed(rollout, weights):
    """The rollout with these weights of its first rows' first tokens, 1 elsewhere; None: without any."""
    episodes = []
    for place, episode in enumerate(rollout.episodes):
        numbers = np.ones(len(episode.response_ids), dtype=np.float32)
        if weights is not None and place < len(weights):
            numbers[0] = weights[place]
        given = None if weights is None else numbers
        episodes.append(dataclasses.replace(episode, importance_weights=given))
    return collate(episodes)


def test_line_11_weights_are_the_trainers_probability_over_the_engines_truncated():
    trainer, engine = logs(0.5, 0.9, 0.2, 0.3), logs(0.25, 0.3, 0.4, 0.3)
    weights = importance_weights(trainer, engine, 2.5)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, [2.0, 2.5, 0.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose(importance_weights(trainer, engine, 1.0), [1.0, 1.0, 0.5, 1.0], rtol=1e-6)
    assert importance_weights(logs(1.0), np.array([-1e4], dtype=np.float32), 2.0).tolist() == [2.0]


def test_line_11_the_gradient_of_a_token_is_its_advantage_times_its_weight():
    # ratio 1 at each token, so d loss / d logprob = -advantage x weight / tokens
    logprobs = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, -1.0, 0.0]], requires_grad=True)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    batch = {
        "logprobs": logprobs.detach(),
        "advantages": torch.tensor([[1.0, -2.0, 0.5], [3.0, -1.0, 9.0]]),
        "response_mask": mask,
        "importance_weights": torch.tensor([[2.0, 0.5, 1.0], [0.25, 2.0, 7.0]]),
    }
    outputs = {"logprobs": logprobs, "entropy": torch.zeros(2, 3)}
    settings = {"num_tokens": 5, "kl_coef": 0.0, "trains_policy": True}
    loss, stats = objective(section_of(), outputs, batch, **settings)
    loss.backward()
    expected = torch.tensor([[-2.0, 1.0, -0.5], [-0.75, 2.0, 0.0]]) / 5
    torch.testing.assert_close(logprobs.grad, expected)
    assert loss.item() == pytest.approx((-2.0 + 1.0 - 0.5 - 0.75 + 2.0) / 5)
    assert stats["ratio"].item() == pytest.approx(1.0), "the ratio that is checked has no weights in it"


def test_metrics_are_means_over_tokens():
    tiny = TinyPPO(section_of())
    rollout = tiny.collect()
    assert importance_metrics(rollout) == {}
    first, second = (
        dataclasses.replace(
            episode,
            response_ids=[1] * len(trainer),
            logprobs=trainer,
            ref_logprobs=trainer,
            values=trainer,
            engine_logprobs=engine,
            importance_weights=importance_weights(trainer, engine, 2.0),
        )
        for episode, trainer, engine in zip(
            rollout.episodes,
            [logs(0.5, 0.9, 0.3), logs(0.1)],
            [logs(0.25, 0.3, 0.3), logs(0.2)],
            strict=False,
        )
    )
    # weights 2, 2 (of 3), 1 and 0.5
    measured = importance_metrics(collate([first, second]))
    assert measured == pytest.approx({"val/importance_weight": 5.5 / 4, "val/importance_truncated": 0.25})


def test_an_engine_that_computes_as_the_trainer_brings_no_tensor_into_the_loss():
    rollout = TinyPPO(section_of()).collect()
    assert rollout.importance_weights is None
    assert {episode.importance_weights for episode in rollout.episodes} == {None}
    assert "importance_weights" not in rollout.micro_batch([0, 1], torch.device("cpu"))


def test_weights_of_some_responses_alone_are_refused():
    rollout = TinyPPO(section_of()).collect()
    first = dataclasses.replace(
        rollout.episodes[0], importance_weights=np.ones_like(rollout.episodes[0].logprobs)
    )
    with pytest.raises(ValueError, match="some responses have importance weights"):
        collate([first, *rollout.episodes[1:]])


def test_a_rollout_of_vllm_is_weighed_up_to_the_recipes_cap(monkeypatch):
    sampling = BY_VLLM["sampling"] | {"vllm": {"max_importance_weight": 1.01}}
    tiny = with_fake(TinyPPO(section_of(sampling=sampling)), monkeypatch)
    rollout = tiny.collect()
    for episode in rollout.episodes:
        ratios = np.exp(episode.logprobs.astype(np.float64) - episode.engine_logprobs)
        np.testing.assert_allclose(episode.importance_weights, np.minimum(ratios, 1.01), rtol=1e-5)
    weights = rollout.importance_weights[rollout.response_mask]
    assert (weights == np.float32(1.01)).any()
    assert (weights < 1).any()
    assert (rollout.importance_weights[~rollout.response_mask] == 0).all()
    batch = rollout.micro_batch([2, 0], torch.device("cpu"))
    width = batch["response_mask"].shape[1]
    assert torch.equal(batch["importance_weights"], rollout.importance_weights[[2, 0], :width])


def test_in_an_update_weights_scale_what_their_tokens_do_to_the_policy_and_nothing_of_the_critic():
    moved = {}
    for name, weights in {"none": None, "ones": [], "first": [0.0] * 8}.items():
        tiny = TinyPPO(section_of(max_grad_norm=1e6))
        rollout = weighed(tiny.collect(), weights)
        before = tiny.weights()
        tiny.updater.update(rollout, *made_up_targets(rollout), 0)
        moved[name] = {key: each - before[key] for key, each in tiny.weights().items()}
    for key, step in moved["none"].items():
        assert torch.equal(step, moved["ones"][key])
        if key.startswith("critic"):
            torch.testing.assert_close(step, moved["first"][key])
    assert any(not torch.equal(step, moved["first"][key]) for key, step in moved["none"].items())


def test_a_recording_keeps_the_weights_and_gives_the_same_update(tmp_path, monkeypatch):
    sampled = with_fake(TinyPPO(section_of(**BY_VLLM)), monkeypatch)
    rollout = sampled.collect()
    folder = record(tmp_path, rollout)
    replayed = TinyPPO(section_of())  # any engine
    again = collect(replay_of(replayed, folder), replayed)
    assert torch.equal(again.importance_weights, rollout.importance_weights)
    assert importance_metrics(again) == importance_metrics(rollout)
    for tiny, rows in ((sampled, rollout), (replayed, again)):
        tiny.updater.update(rows, *made_up_targets(rows), 0)
    assert all(torch.equal(each, replayed.weights()[name]) for name, each in sampled.weights().items())


def run_of(monkeypatch, stop_at=None):
    trainer, sink = trainer_of(stop_at, num_steps=4, **BY_VLLM)
    assert isinstance(sink, MemorySink)
    with_fake(sink.tiny, monkeypatch)
    return trainer, sink


def test_line_11_a_run_is_weighed_at_every_step_and_sends_weights_once_a_change(monkeypatch):
    trainer, sink = run_of(monkeypatch)
    assert trainer.train()
    steps = [line for _, line in sink.lines if "val/importance_weight" in line]
    assert len(steps) == 4
    for line in steps:
        assert 0.9 < line["val/importance_weight"] < 1.1
        assert line["val/importance_truncated"] == 0.0
        assert 0 < line["val/engine_log_ratio_abs"] < 0.1
        assert line["val/first_log_ratio_abs"] < 1e-5
        assert math.isfinite(line["loss/policy_avg"])
    # at the start, for the reference's answers and again for the policy's, and after each update, for the evaluation
    # that follows; the next rollout has the same ones
    assert sink.tiny.collector.engine._vllm.num_syncs == 3 + 4


def test_where_the_library_is_deterministic_a_stopped_run_goes_on_as_the_whole_one(monkeypatch):
    whole, seen = run_of(monkeypatch)
    assert whole.train()
    first, sink = run_of(monkeypatch, stop_at=2)
    assert not first.train()
    second, again = run_of(monkeypatch)
    again.saved = sink.saved
    again.restore(2)
    assert second.train()
    assert sink.lines + again.lines == seen.lines
    parts = [
        ({}, {name: each.clone() for name, each in run.model.state_dict().items()}) for run in (second, whole)
    ]
    assert_same(*parts)
    assert not torch.equal(second.model.policy.lm_head.weight, tiny_lm().lm_head.weight)
