"""A whole PPO step, four epochs of four minibatches, against float64 NumPy with gradients derived by hand."""

import dataclasses

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn
from whole_step_reference import Row, Settings, whole_step

from rlhf.ppo.advantages import gae, masked_moments, token_rewards, whiten
from rlhf.ppo.episodes import Episode, collate
from rlhf.ppo.prompts import permutation
from rlhf.ppo.rewards import ScoreShaping
from rlhf.ppo.update import Updater
from rlhf.recipe.ppo import PPOSection

VOCAB, WIDTH, LONGEST, NUM_ROWS, SEED, STEP = 7, 3, 6, 16, 5, 1
NUM_FEATURES = 2 * WIDTH + 1
SETTINGS = Settings(
    rate_share=2 / 3 * 0.91
)  # second of three warm-up steps; a tenth of the way from 1 to 0.1


def embedding():
    return np.random.default_rng(1).normal(size=(VOCAB, WIDTH)).astype(np.float32).astype(np.float64)


def features_before(tokens):
    """[F]: the last token, the mean of all, and a constant; so what padding would add is seen."""
    vectors = embedding()[tokens]
    return np.concatenate([vectors[-1], vectors.mean(axis=0), [1.0]])


@dataclasses.dataclass
class Task:
    """Sixteen made-up responses and three weights, all of them exact in float32."""

    rows: list
    prompts: list
    policy: np.ndarray
    reference: np.ndarray
    critic: np.ndarray


def made_up_task():
    rng = np.random.default_rng(3)

    def exact(*shape, scale):
        return (scale * rng.normal(size=shape)).astype(np.float32).astype(np.float64)

    prompts, rows = [], []
    for number in range(NUM_ROWS):
        prompt = rng.integers(VOCAB, size=1 + number % 4)
        response = rng.integers(VOCAB, size=1 + (5 * number) % LONGEST)
        text = np.concatenate([prompt, response])
        features = [features_before(text[: len(prompt) + t]) for t in range(len(response))]
        score = float(np.float32(1.3 * rng.normal()))
        rows.append(Row(np.array(features), response, score, ended=number % 3 > 0))
        prompts.append(prompt)
    policy = exact(NUM_FEATURES, VOCAB, scale=0.5)
    moved = exact(NUM_FEATURES, VOCAB, scale=0.3)
    return Task(rows, prompts, policy, policy + moved, exact(NUM_FEATURES, scale=0.5))


class Linear(nn.Module):
    """The face of an actor-critic over padded rows, with fixed features in place of a network."""

    def __init__(self, task, temperature):
        super().__init__()
        self.register_buffer("embedding", torch.from_numpy(embedding()).float())
        self.policy = nn.Linear(NUM_FEATURES, VOCAB, bias=False)
        self.critic = nn.Linear(NUM_FEATURES, 1, bias=False)
        with torch.no_grad():
            self.policy.weight.copy_(torch.from_numpy(task.policy.T))
            self.critic.weight.copy_(torch.from_numpy(task.critic[None]))
        self.temperature = temperature

    def features(self, input_ids, attention_mask, num_response):
        """[B, T, F] of the columns before each response token."""
        vectors = self.embedding[input_ids]
        seen = attention_mask.unsqueeze(-1).float()
        means = (vectors * seen).cumsum(dim=1) / seen.cumsum(dim=1).clamp(min=1)
        every = torch.cat([vectors, means, torch.ones_like(seen)], dim=-1)
        return every[:, -num_response - 1 : -1]

    def forward(self, input_ids, attention_mask, response_mask):
        num_response = response_mask.shape[1]
        features = self.features(input_ids, attention_mask, num_response)
        table = (self.policy(features) / self.temperature).log_softmax(dim=-1)
        logprobs = table.gather(-1, input_ids[:, -num_response:, None]).squeeze(-1)
        entropy = -(table.exp() * table).sum(dim=-1)
        values = self.critic(features).squeeze(-1)
        return tuple(x.masked_fill(~response_mask, 0.0) for x in (logprobs, entropy, values))


def collected(task, model, reference):
    """The rollout that sampling would have left: each row passed through the padded model before any update."""
    episodes = []
    for index, (prompt, row) in enumerate(zip(task.prompts, task.rows, strict=True)):
        ids = torch.from_numpy(np.concatenate([prompt, row.response]))[None]
        mask = torch.ones(1, len(row.response), dtype=torch.bool)
        with torch.no_grad():
            logprobs, _, values = model(ids, torch.ones_like(ids, dtype=torch.bool), mask)
            ref_logprobs = reference(ids, torch.ones_like(ids, dtype=torch.bool), mask)[0]
        episodes.append(
            Episode(
                index=index,
                prompt_id=index,
                sample_index=0,
                prompt_ids=prompt.tolist(),
                response_ids=row.response.tolist(),
                logprobs=logprobs[0].numpy(),
                ref_logprobs=ref_logprobs[0].numpy(),
                values=values[0].numpy(),
                engine_logprobs=logprobs[0].numpy(),
                score=row.score,
                finish_reason="eos" if row.ended else "length",
            )
        )
    return collate(episodes)


def section_of(settings):
    return PPOSection.model_validate(
        {
            "num_steps": 10,
            "global_batch_size": NUM_ROWS,
            "per_device_batch_size": 3,
            "num_minibatches": 4,
            "num_epochs": 4,
            "learning_rate": settings.learning_rate,
            "warmup_fraction": 0.3,
            "lr_floor_fraction": 0.1,
            "adam_eps": settings.adam_eps,
            "weight_decay": settings.weight_decay,
            "max_grad_norm": settings.max_grad_norm,
            "gamma": settings.gamma,
            "lam": settings.lam,
            "cliprange": settings.cliprange,
            "cliprange_value": settings.cliprange_value,
            "vf_coef": settings.vf_coef,
            "kl": {"coef": settings.kl_coef},
            "shaping": {
                "clip": settings.score_clip,
                "normalize": "reference",
                "missing_eos": "subtract",
                "missing_eos_penalty": settings.missing_eos_penalty,
            },
            "sampling": {"max_new_tokens": LONGEST, "temperature": settings.temperature},
        }
    )


def trained(task, settings):
    """Policy [F, V], critic [F] and metrics after the step, as the trainer takes it."""
    section = section_of(settings)
    model = Linear(task, settings.temperature)
    reference = Linear(dataclasses.replace(task, policy=task.reference), settings.temperature)
    optimizer = torch.optim.AdamW(
        [
            {"params": list(model.policy.parameters()), "role": "policy"},
            {"params": list(model.critic.parameters()), "role": "critic"},
        ],
        lr=section.learning_rate,
        eps=section.adam_eps,
        weight_decay=section.weight_decay,
    )
    updater = Updater(section, accelerator=Accelerator(cpu=True), model=model, optimizer=optimizer, seed=SEED)
    rollout = collected(task, model, reference)
    mask = rollout.response_mask
    shaping = ScoreShaping(
        section.shaping, reference_mean=settings.score_mean, reference_std=settings.score_std
    )
    rewards = token_rewards(
        shaping(rollout.scores, rollout.ended, mask.sum(dim=1)),
        rollout.logprobs,
        rollout.ref_logprobs,
        mask,
        kl_coef=section.kl.coef,
    )
    advantages, returns = gae(rewards, rollout.values, mask, gamma=section.gamma, lam=section.lam)
    whitened = whiten(advantages, mask, moments=masked_moments(advantages, mask))
    metrics = updater.update(rollout, whitened, returns, STEP, kl_coef=section.kl.coef)
    policy, critic = model.policy.weight.detach(), model.critic.weight.detach()
    return policy.double().numpy().T, critic.double().numpy()[0], metrics


def minibatches():
    """Which rows each of the 16 updates sees; their order is the one thing taken from the code under test."""
    orders = [permutation(NUM_ROWS, SEED, STEP, epoch).tolist() for epoch in range(4)]
    return [order[start : start + 4] for order in orders for start in range(0, NUM_ROWS, 4)]


def expected(task, settings):
    return whole_step(task.policy, task.reference, task.critic, task.rows, minibatches(), settings)


def test_line_20_a_whole_step_moves_every_weight_as_the_numpy_reference_does():
    task = made_up_task()
    policy, critic, _ = trained(task, SETTINGS)
    want_policy, want_critic, _, _ = expected(task, SETTINGS)
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
