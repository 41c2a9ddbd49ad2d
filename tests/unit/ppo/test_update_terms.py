"""The terms of the update's loss against plain autograd in float64, one unpadded row at a time."""

import copy
import dataclasses
import math

import pytest
import torch
from knobs_ppo import ANY_RATIO, NUM_SFT_LABELS, SFT_ROWS, knobs, moved_away
from tiny_ppo import made_up_targets, section_of
from torch import nn


def reference_means(policy, critic, rollout, advantages, returns, section):
    """Means over response tokens of surrogate, value error, entropy, k2 and k3: one row at a time, unpadded, float64."""
    names = ("surrogate", "value", "entropy", "k2", "k3")
    sums = {name: torch.zeros((), dtype=torch.float64) for name in names}
    num_tokens = 0
    for row, episode in enumerate(rollout.episodes):
        start = len(episode.prompt_ids)
        ids = torch.tensor([episode.prompt_ids + episode.response_ids])
        logits = policy(input_ids=ids).logits[0] / section.sampling.temperature
        hidden = critic.transformer(input_ids=ids).last_hidden_state[0]
        for t, token in enumerate(episode.response_ids):
            distribution = torch.softmax(logits[start + t - 1], dim=-1)
            probability, old = distribution[token], math.exp(float(rollout.logprobs[row, t]))
            ratio, advantage = probability / old, float(advantages[row, t])
            gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            if section.dual_clip is not None and advantage < 0:
                gain = gain.clamp(min=section.dual_clip * advantage)
            value, old_value = critic.score(hidden[start + t - 1])[0], float(rollout.values[row, t])
            moved = value.clamp(old_value - 0.2, old_value + 0.2)
            target = float(returns[row, t])
            log_r = float(rollout.ref_logprobs[row, t]) - probability.log()
            sums["surrogate"] = sums["surrogate"] - gain
            sums["value"] = sums["value"] + torch.maximum((value - target) ** 2, (moved - target) ** 2) / 2
            sums["entropy"] = sums["entropy"] - (distribution * distribution.log()).sum()
            sums["k2"] = sums["k2"] + log_r**2 / 2
            sums["k3"] = sums["k3"] + log_r.exp() - 1 - log_r
            num_tokens += 1
    return {name: value / num_tokens for name, value in sums.items()}


def reference_ptx(policy):
    """Mean cross-entropy of the SFT rows' labels, weighted."""
    total = torch.zeros((), dtype=torch.float64)
    for row in SFT_ROWS:
        logits = policy(input_ids=torch.tensor([row.input_ids])).logits[0]
        for place in range(1, len(row.input_ids)):
            if row.labels_mask[place]:
                total = (
                    total - row.weight * torch.log_softmax(logits[place - 1], dim=-1)[row.input_ids[place]]
                )
    return total / NUM_SFT_LABELS


CASES = {
    "entropy": ({"entropy_coef": 0.3}, {"entropy": -0.3}),
    "dual_clip": ({"dual_clip": 2.0}, {}),
    "k2": ({"kl": {"place": "loss", "estimator": "k2", "coef": 0.9}}, {"k2": 0.25}),
    "k3": ({"kl": {"place": "loss", "estimator": "k3", "coef": 0.9}}, {"k3": 0.25}),
    "ptx": ({"ptx_coef": 0.7, "ptx_batch_size": 3}, {"ptx": 0.7}),
    "all": (
        {
            "entropy_coef": 0.1,
            "dual_clip": 1.5,
            "kl": {"place": "loss", "estimator": "k3"},
            "ptx_coef": 0.2,
            "ptx_batch_size": 3,
        },
        {"entropy": -0.1, "k3": 0.25, "ptx": 0.2},
    ),
}


@pytest.mark.parametrize("per_device", [2, 8])
@pytest.mark.parametrize("case", CASES)
def test_line_23_a_step_is_the_gradient_of_the_terms_in_the_recipe(case, per_device):
    changes, coefs = CASES[case]
    ppo = knobs(per_device_batch_size=per_device, vf_coef=0.5, **ANY_RATIO, **changes)
    rollout = moved_away(ppo.collect())
    advantages, returns = made_up_targets(rollout)
    double = nn.ModuleDict(
        {"policy": copy.deepcopy(ppo.policy), "critic": copy.deepcopy(ppo.critic)}
    ).double()
    means = reference_means(double["policy"], double["critic"], rollout, advantages, returns, ppo.section)
    means["ptx"] = reference_ptx(double["policy"])
    weights = {"surrogate": 1.0, "value": 0.5} | coefs
    sum(weight * means[name] for name, weight in weights.items()).backward()
    before = ppo.weights()
    stats = ppo.updater.update(rollout, advantages, returns, 0, kl_coef=0.25)
    after = ppo.weights()
    for name, parameter in double.named_parameters():
        # Weights near 0.35 hold a difference to 3e-8; ratios of 8 magnify the forward pass's own rounding.
        assert torch.allclose((before[name] - after[name]).double(), parameter.grad, atol=1e-5, rtol=1e-5), (
            name
        )
    assert stats["loss/policy_avg"] == pytest.approx(means["surrogate"].item(), abs=1e-5)
    assert stats["policy/entropy_avg"] == pytest.approx(means["entropy"].item(), abs=1e-5)
    logged = {"ptx": "loss/ptx_avg", "k2": "loss/kl_avg", "k3": "loss/kl_avg"}
    for name in coefs.keys() & logged.keys():
        assert stats[logged[name]] == pytest.approx(means[name].item(), abs=1e-5), name
    assert stats.keys() & set(logged.values()) == {logged[name] for name in coefs.keys() & logged.keys()}


def test_dual_clip_is_reached_in_these_tests():
    ppo = knobs(**ANY_RATIO)
    rollout = moved_away(ppo.collect())
    advantages, returns = made_up_targets(rollout)
    means = [
        reference_means(ppo.policy, ppo.critic, rollout, advantages, returns, section_of(dual_clip=bound))
        for bound in (None, 2.0, 1.5)
    ]
    losses = [each["surrogate"].item() for each in means]
    assert losses[0] > losses[1] + 0.05 > losses[2] + 0.1


def test_the_kl_in_the_loss_needs_the_coefficient_of_now():
    ppo = knobs(kl={"place": "loss", "estimator": "k3"})
    rollout = ppo.collect()
    with pytest.raises(ValueError, match="kl_coef"):
        ppo.updater.update(rollout, *made_up_targets(rollout), 0)


def test_garbage_of_the_reference_outside_the_mask_does_not_reach_the_loss():
    weights = []
    for value in (0.0, float("nan")):
        ppo = knobs(kl={"place": "loss", "estimator": "k3"})
        rollout = ppo.collect()
        ref = rollout.ref_logprobs.masked_fill(~rollout.response_mask, value)
        targets = made_up_targets(rollout)
        ppo.updater.update(dataclasses.replace(rollout, ref_logprobs=ref), *targets, 0, kl_coef=1.0)
        weights.append(ppo.weights())
    assert all(torch.equal(weights[1][name], value) for name, value in weights[0].items())
