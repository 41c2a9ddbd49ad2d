"""PPO's trainer over a whole step, four epochs of four minibatches, against float64 NumPy with gradients derived by hand."""

import dataclasses

import numpy as np
import pytest
from whole_step_reference import (
    Settings,
    chosen,
    kl_of,
    log_probabilities,
    minibatch,
    shaped_score,
    targets_of,
    whole_step,
)
from whole_step_trainer import (
    NUM_ROWS,
    SEED,
    STEP,
    StopAfter,
    made_up_task,
    plain_descent,
    trainer_of,
    weights_of,
)

from rlhf.ppo.prompts import permutation

SETTINGS = Settings(
    rate_share=2 / 3 * 0.91
)  # second of three warm-up steps; a tenth of the way from 1 to 0.1
KNOBS = (
    {},
    {"kl_estimator": "k3"},
    {"bootstrap_truncated": True},
    {"kl_place": "loss", "kl_estimator": "k2"},
    {"kl_place": "loss", "kl_estimator": "k3"},
    {"whiten": False},
)


def trained(task, settings):
    """Policy [F, V], critic [F] and metrics after the trainer's second step."""
    sink = StopAfter(STEP + 1)
    trainer = trainer_of(task, settings, sink)
    trainer.step = STEP
    assert not trainer.train(), "told to stop"
    return *weights_of(trainer.model), sink.metrics[0]


def minibatches():
    """Which rows each of the 16 updates sees; their order is the one thing taken from the code under test."""
    orders = [permutation(NUM_ROWS, SEED, STEP, epoch).tolist() for epoch in range(4)]
    return [order[start : start + 4] for order in orders for start in range(0, NUM_ROWS, 4)]


def expected(task, settings):
    return whole_step(task.policy, task.reference, task.critic, task.rows, minibatches(), settings)


@pytest.mark.parametrize("change", KNOBS, ids=lambda change: ",".join(map(str, change.values())) or "plain")
def test_line_20_a_whole_step_moves_every_weight_as_the_numpy_reference_does(change):
    task, settings = made_up_task(), dataclasses.replace(SETTINGS, **change)
    policy, critic, _ = trained(task, settings)
    want_policy, want_critic, _, _ = expected(task, settings)
    for got, want, before in ((policy, want_policy, task.policy), (critic, want_critic, task.critic)):
        change = np.abs(want - before).max()
        assert change > 0.1
        assert np.abs(got - want).max() < 1e-5 * change


def test_line_25_the_steps_statistics_are_those_of_the_numpy_reference():
    task = made_up_task()
    metrics = trained(task, SETTINGS)[2]
    stats = expected(task, SETTINGS)[2]
    names = {
        "loss/policy_avg": "policy_loss",
        "loss/value_avg": "value_loss",
        "policy/approxkl_avg": "approxkl",
        "policy/clipfrac_avg": "clipfrac",
        "policy/entropy_avg": "entropy",
        "policy/grad_norm": "grad_norm",
        "val/clipfrac_avg": "value_clipfrac",
        "val/ratio": "ratio",
    }
    for metric, name in names.items():
        assert metrics[metric] == pytest.approx(stats[name], rel=1e-5, abs=1e-6), metric
    assert metrics["lr"] == pytest.approx(0.06 * 2 / 3 * 0.91, rel=1e-6)


def test_line_19_the_update_is_given_advantages_whitened_over_all_responses_and_returns_from_raw_ones():
    task, given = made_up_task(), []
    trainer = trainer_of(task, SETTINGS, StopAfter(1))
    update = trainer.updater.update

    def spied(rollout, advantages, returns, step, **more):
        given.append((rollout.response_mask, advantages, returns))
        return update(rollout, advantages, returns, step, **more)

    trainer.updater.update = spied
    trainer.train()
    mask, advantages, returns = given[0]
    targets = targets_of(task.policy, task.reference, task.critic, task.rows, SETTINGS)
    for got, want in ((advantages, targets.advantages), (returns, targets.returns)):
        np.testing.assert_allclose(got[mask].numpy(), np.concatenate(want), atol=1e-5)
    assert not advantages[~mask].any()


def two_steps(task, settings, coefs, rate):
    """The policy after one update of plain descent under each coefficient, all rows in each."""
    policy, critic = task.policy, task.critic
    for coef in coefs:
        now = dataclasses.replace(settings, kl_coef=coef)
        targets = targets_of(policy, task.reference, critic, task.rows, now)
        gradients = minibatch(policy, critic, task.rows, targets, range(NUM_ROWS), now)
        policy, critic = policy - rate * gradients[0], critic - rate * gradients[1]
    return policy


def mean_kl(task, settings):
    """Nats a response, summed over its tokens, before the first update."""
    sums = []
    for row in task.rows:
        of_policy = chosen(log_probabilities(task.policy, row, settings.temperature), row)
        of_reference = chosen(log_probabilities(task.reference, row, settings.temperature), row)
        sums.append(kl_of(of_policy, of_reference, "k1").sum())
    return np.mean(sums)


def test_with_the_kl_in_the_loss_the_coefficient_of_now_weighs_it_and_no_reward_has_it():
    settings = dataclasses.replace(SETTINGS, kl_place="loss", kl_estimator="k2", max_grad_norm=1e9)
    task, rate, first, target = made_up_task(), 0.2, 0.3, 0.05
    # eq. 2.2 with a horizon of one batch: the coefficient moves by the clipped error itself
    moved = first * (1 + np.clip(mean_kl(task, settings) / target - 1, -0.2, 0.2))
    sink = StopAfter(2)
    trainer = trainer_of(
        task,
        settings,
        sink,
        plain_descent,
        learning_rate=rate,
        kl={"coef": first, "estimator": "k2", "place": "loss", "target": target, "horizon": NUM_ROWS},
        schedule="constant",
        warmup_fraction=0.0,
        num_minibatches=1,
        num_epochs=1,
    )
    trainer.train()
    policy = weights_of(trainer.model)[0]
    assert np.abs(policy - two_steps(task, settings, (first, moved), rate)).max() < 1e-6
    for wrong in ((first, first), (moved, moved), (0.0, 0.0)):
        assert np.abs(policy - two_steps(task, settings, wrong, rate)).max() > 1e-4
    for computed in sink.computed:
        for rewards, row in zip(computed["rewards"].numpy(), task.rows, strict=True):
            last = len(row.response) - 1
            assert rewards[last] == pytest.approx(shaped_score(row, settings), abs=1e-5)
            assert not np.delete(rewards, last).any()


def test_the_task_exercises_clipping_of_ratios_values_gradients_and_scores():
    task = made_up_task()
    _, _, stats, norms = expected(task, SETTINGS)
    assert stats["clipfrac"] > 0.05
    assert stats["value_clipfrac"] > 0.05
    assert stats["approxkl"] > 0.01
    assert min(norms) < SETTINGS.max_grad_norm < max(norms)
    assert any(abs(row.score) > SETTINGS.score_clip for row in task.rows)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 1.0},
        {"kl_coef": 0.0},
        {"kl_estimator": "k3"},
        {"kl_place": "loss", "kl_estimator": "k2"},
        {"bootstrap_truncated": True},
        {"score_clip": 9.0},
        {"score_mean": 0.0},
        {"missing_eos_penalty": 0.0},
        {"gamma": 1.0},
        {"lam": 1.0},
        {"gamma": 0.95, "lam": 0.9},
        {"whiten": False},
        {"cliprange": 9.0},
        {"cliprange_value": 9.0},
        {"vf_coef": 0.5},
        {"max_grad_norm": 9.0},
        {"rate_share": 2 / 3},
        {"adam_eps": 1e-8},
        {"weight_decay": 0.0},
    ],
    ids=lambda change: ",".join(change),
)
def test_each_setting_changes_the_reference_far_more_than_the_tolerance(change):
    task = made_up_task()
    policy, critic, _, _ = expected(task, SETTINGS)
    other_policy, other_critic, _, _ = expected(task, dataclasses.replace(SETTINGS, **change))
    moved = max(np.abs(policy - other_policy).max(), np.abs(critic - other_critic).max())
    assert moved > 2e-4
