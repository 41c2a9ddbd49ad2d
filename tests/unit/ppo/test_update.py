"""The update: what the first minibatch says, what the masks hide, and a step against plain autograd on single rows."""

import dataclasses

import pytest
import torch
from tiny_ppo import KINDS, TinyPPO, made_up_targets, section_of, tiny_lm

from rlhf.errors import TrainingError
from rlhf.models.load import disable_dropout

EPS = 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_line_11_the_ratio_is_1_on_the_first_minibatch(kind):
    ppo = TinyPPO(section_of(per_device_batch_size=2, num_minibatches=2), kind=kind)
    rollout = ppo.collect()
    assert len(set(rollout.response_mask.sum(dim=1).tolist())) > 2
    stats = ppo.updater.update(rollout, *made_up_targets(rollout), 0)
    assert stats["val/first_log_ratio_abs"] < 1e-5


def test_line_11_dropout_that_was_left_on_is_found():
    ppo = TinyPPO(section_of(), kind="gpt2", policy=tiny_lm("gpt2", dropout=0.2))
    rollout = ppo.collect()
    with pytest.raises(TrainingError, match="dropout"):
        ppo.updater.update(rollout, *made_up_targets(rollout), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_that_was_disabled_is_off(kind):
    policy = tiny_lm(kind, dropout=0.2)
    disable_dropout(policy)
    ppo = TinyPPO(section_of(), kind=kind, policy=policy)
    rollout = ppo.collect()
    assert ppo.updater.update(rollout, *made_up_targets(rollout), 0)["val/first_log_ratio_abs"] < 1e-5


def test_what_lies_outside_the_masks_does_not_count():
    results = []
    for garbage in (False, True):
        ppo = TinyPPO(section_of(num_minibatches=2, num_epochs=2))
        rollout = ppo.collect()
        advantages, returns = made_up_targets(rollout)
        if garbage:
            hidden = ~rollout.response_mask
            assert hidden.any()
            nan = {
                name: getattr(rollout, name).masked_fill(hidden, torch.nan) for name in ("logprobs", "values")
            }
            rollout = dataclasses.replace(
                rollout,
                prompt_ids=rollout.prompt_ids.masked_fill(~rollout.prompt_mask, 9),
                response_ids=rollout.response_ids.masked_fill(hidden, 7),
                **nan,
            )
            advantages, returns = (x.masked_fill(hidden, torch.nan) for x in (advantages, returns))
        stats = ppo.updater.update(rollout, advantages, returns, 0)
        results.append((stats, ppo.weights()))
    (clean, clean_weights), (dirty, dirty_weights) = results
    assert dirty == pytest.approx(clean, abs=1e-7)
    for name, value in clean_weights.items():
        assert torch.allclose(dirty_weights[name], value, atol=1e-7, rtol=0), name


def reference_step(ppo, rollout, advantages, returns):
    """One update by plain autograd, each response on its own and without padding (Schulman et al. 2017, eq. 7)."""
    section = ppo.section
    total, num_tokens = torch.zeros(()), 0
    for row, episode in enumerate(rollout.episodes):
        start, length = len(episode.prompt_ids), len(episode.response_ids)
        ids = torch.tensor([episode.prompt_ids + episode.response_ids])
        logits = ppo.policy(input_ids=ids).logits[0] / section.sampling.temperature
        hidden = ppo.critic.model(input_ids=ids).last_hidden_state[0]
        for t in range(length):
            logprob = torch.log_softmax(logits[start + t - 1], dim=-1)[episode.response_ids[t]]
            ratio = torch.exp(logprob - float(episode.logprobs[t]))
            advantage = advantages[row, t]
            clipped = ratio.clamp(1 - section.cliprange, 1 + section.cliprange)
            total = total - torch.minimum(ratio * advantage, clipped * advantage)
            value, old = ppo.critic.score(hidden[start + t - 1])[0], float(episode.values[t])
            moved = value.clamp(old - section.cliprange_value, old + section.cliprange_value)
            error = torch.maximum((value - returns[row, t]) ** 2, (moved - returns[row, t]) ** 2)
            total = total + section.vf_coef * 0.5 * error
            num_tokens += 1
    (total / num_tokens).backward()
    parameters = [p for p in ppo.model.parameters() if p.requires_grad]
    torch.nn.utils.clip_grad_norm_(parameters, section.max_grad_norm)
    torch.optim.AdamW(
        parameters, lr=section.learning_rate, eps=section.adam_eps, weight_decay=section.weight_decay
    ).step()
    return ppo.weights()


@pytest.mark.parametrize("per_device", [1, 3, 8])
def test_line_20_a_step_is_that_of_the_whole_batch_whatever_the_micro_batch(per_device):
    # A larger eps than the default's: else AdamW makes a step as long as any of a gradient that is nothing but rounding.
    section = section_of(per_device_batch_size=per_device, vf_coef=0.5, weight_decay=0.01, adam_eps=EPS)
    ppo, other = TinyPPO(section), TinyPPO(section)
    rollout = ppo.collect()
    advantages, returns = made_up_targets(rollout)
    before = ppo.weights()
    expected = reference_step(other, rollout, advantages, returns)
    ppo.updater.update(rollout, advantages, returns, 0)
    after = ppo.weights()
    assert max(float((after[name] - value).abs().max()) for name, value in before.items()) > 5e-4
    for name, value in expected.items():
        assert torch.allclose(after[name], value, atol=1e-6, rtol=0), name


def test_gradient_checkpointing_is_on_in_the_update_and_gives_the_same_step():
    weights = []
    for checkpointing in (False, True):
        ppo = TinyPPO(section_of(adam_eps=EPS))
        rollout = ppo.collect()
        calls = []
        if checkpointing:
            ppo.policy.gradient_checkpointing_enable()
            layer = ppo.policy.model.layers[0].self_attn
            layer.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        stats = ppo.updater.update(rollout, *made_up_targets(rollout), 0)
        assert stats["val/first_log_ratio_abs"] < 1e-5
        weights.append(ppo.weights())
        assert len(calls) == 2 * checkpointing, "once forward, once more for the backward pass"
    for name, value in weights[0].items():
        assert torch.allclose(weights[1][name], value, atol=1e-6, rtol=0), name


def test_line_21_critic_warm_up_leaves_the_policy_bit_for_bit():
    ppo = TinyPPO(section_of(critic_warmup_steps=2, weight_decay=0.1, num_epochs=2))
    before = ppo.weights()
    for step in range(2):
        rollout = ppo.collect(step)
        ppo.updater.update(rollout, *made_up_targets(rollout), step)
    warm = ppo.weights()
    for name, value in before.items():
        if name.startswith("policy."):
            assert torch.equal(warm[name], value), name
    assert not torch.equal(warm["critic.score.weight"], before["critic.score.weight"])
    # nor does its optimizer remember a gradient of these steps
    assert not any(ppo.optimizer.state[p] for p in ppo.policy.parameters())
    rollout = ppo.collect(2)
    ppo.updater.update(rollout, *made_up_targets(rollout), 2)
    name = "policy.lm_head.weight"
    assert not torch.equal(ppo.weights()[name], before[name])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(value):
    ppo = TinyPPO(section_of())
    rollout = ppo.collect()
    advantages, returns = made_up_targets(rollout)
    returns[2, 0] = value
    before = ppo.weights()
    with pytest.raises(TrainingError, match="not finite"):
        ppo.updater.update(rollout, advantages, returns, 0)
    for name, weight in ppo.weights().items():
        assert torch.equal(weight, before[name]), name
