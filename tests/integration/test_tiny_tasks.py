"""Tasks with a known answer, three seeds each: PPO finds it, and does not where what it needs is taken away."""

import itertools

import numpy as np
import pytest
from tiny_tasks import TinyTask, distribution

SEEDS = (0, 1, 2)
LONGEST = 6


@pytest.mark.parametrize("seed", SEEDS)
def test_line_31_counting_a_token_reaches_95_percent_of_the_optimum(seed):
    """One point for each 3 among eight tokens of a vocabulary of eight: chance is 1, the optimum 8."""
    task = TinyTask(
        lambda _, response: response.count(3),
        prompts=[[1], [2, 4]],
        vocab=8,
        num_tokens=8,
        seed=seed,
        num_steps=15,
    )
    assert task.mean_score(32) < 2.0
    assert task.trained().mean_score(32) >= 0.95 * 8


def delayed_task(seed, **knobs):
    """The score comes after six tokens and depends on the first alone: chance is 1/4, the optimum 1."""
    return TinyTask(
        lambda _, response: response[0] == 2,
        prompts=[[1]],
        vocab=4,
        num_tokens=LONGEST,
        seed=seed,
        num_steps=16,
        **knobs,
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_line_31_a_delayed_reward_is_learnt_with_critic_and_gae_and_not_without(seed):
    assert delayed_task(seed, lam=0.95, vf_coef=0.5).trained().mean_score(128) >= 0.95
    without = delayed_task(seed, lam=0.0, vf_coef=0.0)
    without.silence_critic()
    assert without.trained().mean_score(128) < 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_line_31_with_a_kl_penalty_the_policy_is_the_closed_form(seed):
    """The optimum of E[score] - beta x KL is reference x exp(score / beta), here over all 16 responses."""
    beta, vocab = 0.6, 4
    table = np.random.default_rng(seed).uniform(-1, 1, size=(vocab, vocab))
    task = TinyTask(
        lambda _, response: table[tuple(response)],
        prompts=[[1]],
        vocab=vocab,
        num_tokens=2,
        seed=seed,
        num_steps=40,
        global_batch_size=128,
        per_device_batch_size=128,
        learning_rate=5e-3,
        lr_floor_fraction=0.0,
        kl={"coef": beta},
        lam=1.0,
        vf_coef=0.5,
        cliprange_value=None,
        whiten_advantages=False,
    ).trained()
    responses = list(itertools.product(range(vocab), repeat=2))
    reference = distribution(task.reference, [1], responses)
    learnt = distribution(task.model.policy, [1], responses)
    closed = reference * np.exp(np.array([table[response] for response in responses]) / beta)
    closed /= closed.sum()
    assert learnt.sum() == pytest.approx(1.0)
    assert 0.5 * np.abs(reference - closed).sum() > 0.2
    assert 0.5 * np.abs(learnt - closed).sum() < 0.05
