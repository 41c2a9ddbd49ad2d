"""How the update steps: clipping, rates, early stop, critic warm-up, and what it measures on the way."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from knobs_ppo import ANY_RATIO, knobs, moved_away
from tiny_ppo import TinyPPO, longest_first, made_up_targets, section_of, tiny_lm
from torch import nn

from rlhf.errors import TrainingError
from rlhf.ppo.prompts import permutation

EVERY_TERM = {
    "entropy_coef": 0.1,
    "dual_clip": 1.5,
    "kl": {"place": "loss", "estimator": "k3"},
    "ptx_coef": 0.2,
    "ptx_batch_size": 3,
}


def norm_of(weights, before, role):
    squares = [
        (weights[name] - value).double().square().sum()
        for name, value in before.items()
        if name.startswith(role)
    ]
    return math.sqrt(sum(squares))


def test_line_24_gradients_are_clipped_by_role_or_together():
    steps, stats = {}, {}
    for name, changes in {
        "free": {},
        "joint": {"max_grad_norm": 0.01},
        "per_role": {"max_grad_norm": 0.01, "clip_gradients": "per_role"},
    }.items():
        ppo = knobs(vf_coef=5.0, **changes)
        rollout, before = ppo.collect(), ppo.weights()
        stats[name] = ppo.updater.update(rollout, *made_up_targets(rollout), 0)
        steps[name] = [norm_of(ppo.weights(), before, role) for role in ("policy", "critic")]
    policy, critic = steps["free"]
    assert min(policy, critic) > 0.02
    both = math.hypot(policy, critic)
    assert steps["joint"] == pytest.approx([0.01 * policy / both, 0.01 * critic / both], rel=1e-3)
    assert steps["per_role"] == pytest.approx([0.01, 0.01], rel=1e-3)
    assert stats["joint"]["policy/grad_norm"] == pytest.approx(both, rel=1e-4)
    assert "val/grad_norm" not in stats["joint"]
    assert stats["per_role"]["policy/grad_norm"] == pytest.approx(policy, rel=1e-4)
    assert stats["per_role"]["val/grad_norm"] == pytest.approx(critic, rel=1e-4)


def test_the_critic_moves_by_its_own_rate():
    steps = []
    for changes in ({}, {"critic_learning_rate": 0.25}, {"critic_schedule": "constant"}):
        ppo = knobs(**changes)
        rollout, before = ppo.collect(), ppo.weights()
        stats = ppo.updater.update(rollout, *made_up_targets(rollout), 4)
        steps.append([norm_of(ppo.weights(), before, role) for role in ("policy", "critic")])
    assert steps[1] == pytest.approx([steps[0][0], 0.25 * steps[0][1]], rel=1e-3)
    assert steps[2] == pytest.approx([steps[0][0], steps[0][1] / 0.6], rel=1e-3)  # 6 of 10 steps are left
    assert (stats["lr"], stats["lr_critic"]) == pytest.approx((0.6, 1.0))


def test_line_23_target_kl_leaves_out_the_minibatch_that_exceeds_it_and_what_follows():
    weights, stats = [], []
    for changes in (
        {"num_epochs": 1},
        {"num_epochs": 4, "target_kl": 1e-8},
        {"num_epochs": 4, "target_kl": 1e4},
    ):
        ppo = TinyPPO(section_of(learning_rate=1e-2, **changes))
        rollout = ppo.collect()
        stats.append(ppo.updater.update(rollout, *made_up_targets(rollout), 0))
        weights.append(ppo.weights())
        assert all(parameter.grad is None for parameter in ppo.model.parameters())
    assert [each["policy/num_updates"] for each in stats] == [1.0, 1.0, 4.0]
    assert [each["policy/epochs_stopped_early"] for each in stats] == [0.0, 1.0, 0.0]
    assert all(torch.equal(weights[1][name], value) for name, value in weights[0].items())
    assert stats[1]["policy/approxkl_avg"] > 1e-8 / 2, "the mean counts the minibatch that exceeded it"
    assert stats[1]["policy/grad_norm"] == stats[0]["policy/grad_norm"]


def test_target_kl_may_leave_out_the_whole_step():
    ppo = knobs(target_kl=1e-3, num_epochs=3, **ANY_RATIO)
    rollout, before = moved_away(ppo.collect()), ppo.weights()
    stats = ppo.updater.update(rollout, *made_up_targets(rollout), 0)
    assert (stats["policy/num_updates"], stats["policy/epochs_stopped_early"]) == (0.0, 1.0)
    assert all(torch.equal(ppo.weights()[name], value) for name, value in before.items())


def test_a_ratio_that_is_off_is_found_before_the_weights_change():
    ppo = knobs()
    rollout, before = moved_away(ppo.collect()), ppo.weights()
    with pytest.raises(TrainingError, match="log ratio"):
        ppo.updater.update(rollout, *made_up_targets(rollout), 0)
    assert all(torch.equal(ppo.weights()[name], value) for name, value in before.items())


def test_ratio_max_and_the_variance_of_minibatches():
    ppo = knobs(num_minibatches=2, per_device_batch_size=2, learning_rate=1e-9, **ANY_RATIO)
    rollout = ppo.collect()
    first = permutation(8, 11, 0, 0).tolist()[:4]
    ratios = torch.full(rollout.logprobs.shape, 0.5)
    ratios[first] = 1.5
    spread = ratios.clone()
    spread[first[0], 0] = 3.0
    found = []
    for each in (ratios, spread):
        logprobs = rollout.logprobs - each.log() * rollout.response_mask
        moved = dataclasses.replace(rollout, logprobs=logprobs)
        found.append(ppo.updater.update(moved, *made_up_targets(rollout), 0))
    # means of 1.5 and 0.5: mean 1, variance 1/4
    assert found[0]["val/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert found[0]["val/ratio_var"] == pytest.approx(0.25, abs=1e-5)
    assert found[0]["val/ratio_max"] == pytest.approx(1.5, abs=1e-5)
    assert found[1]["val/ratio_max"] == pytest.approx(3.0, abs=1e-5)


def test_critic_warm_up_leaves_the_policy_alone_under_every_term():
    changes = EVERY_TERM | {"critic_warmup_steps": 1, "weight_decay": 0.1, "num_epochs": 2}
    ppo = knobs(**changes)
    before = ppo.weights()
    for step in range(2):
        rollout = ppo.collect(step)
        stats = ppo.updater.update(rollout, *made_up_targets(rollout), step, kl_coef=0.1)
        still = [
            torch.equal(ppo.weights()[name], value) for name, value in before.items() if "policy" in name
        ]
        assert all(still) if step == 0 else not any(still)
        assert ("loss/ptx_avg" in stats) == (step == 1)
    assert not torch.equal(ppo.weights()["critic.score.weight"], before["critic.score.weight"])


class Spy(nn.Module):
    """Records what the actor-critic is called with."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.calls = []

    def forward(self, *tensors, **named):
        self.calls.append(named)
        return self.model(*tensors)


def test_the_support_goes_to_the_model_where_there_is_one():
    ppo = knobs(per_device_batch_size=8, **ANY_RATIO)
    rollout = ppo.collect()
    ppo.updater.passes.model = spy = Spy(ppo.model)
    ppo.updater.update(rollout, *made_up_targets(rollout), 0)
    assert all(call["support"] is None for call in spy.calls)
    episodes = [
        dataclasses.replace(
            episode, support=[np.array([token, 0], dtype=np.int32) for token in episode.response_ids]
        )
        for episode in rollout.episodes
    ]
    rollout = dataclasses.replace(rollout, episodes=episodes)
    ppo.updater.update(rollout, *made_up_targets(rollout), 0)
    given = [call["support"] for call in spy.calls if "policy" in call["roles"]]
    (support,) = [each for each in given if each is not None]
    order = longest_first(rollout)
    for place, row in enumerate(order):
        ids = rollout.episodes[row].response_ids
        assert support[place, : len(ids), 0].tolist() == ids


def test_ptx_without_its_rows_is_refused():
    with pytest.raises(ValueError, match="ptx"):
        TinyPPO(section_of(ptx_coef=0.1), policy=tiny_lm())


def test_the_policy_takes_no_share_of_the_norm_while_only_the_critic_trains():
    ppo = knobs(critic_warmup_steps=1, **EVERY_TERM)
    rollout, before = ppo.collect(), ppo.weights()
    stats = ppo.updater.update(rollout, *made_up_targets(rollout), 0, kl_coef=0.1)
    assert stats["policy/grad_norm"] == pytest.approx(norm_of(ppo.weights(), before, "critic"), rel=1e-4)
