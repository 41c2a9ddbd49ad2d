"""A made-up task, fixed features in place of a network, and PPO's trainer over them with responses that are given."""

import dataclasses

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from whole_step_reference import Row

from rlhf.ppo.actor_critic import ROLES
from rlhf.ppo.episodes import Episode, collate
from rlhf.ppo.prompts import Prompt, PromptStream
from rlhf.ppo.rewards import ScoreShaping
from rlhf.ppo.trainer import PPOTrainer
from rlhf.ppo.update import Updater
from rlhf.recipe.ppo import PPOSection

VOCAB, WIDTH, LONGEST, NUM_ROWS, SEED, STEP = 7, 3, 6, 16, 5, 1
NUM_FEATURES = 2 * WIDTH + 1


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
        rows.append(Row(np.array(features), features_before(text), response, score, ended=number % 3 > 0))
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

    def features(self, input_ids, attention_mask):
        """[B, P + T, F] of what each column and those before it hold."""
        vectors = self.embedding[input_ids]
        seen = attention_mask.unsqueeze(-1).float()
        means = (vectors * seen).cumsum(dim=1) / seen.cumsum(dim=1).clamp(min=1)
        return torch.cat([vectors, means, torch.ones_like(seen)], dim=-1)

    def forward(self, input_ids, attention_mask, response_mask, temperature=None, *, roles=ROLES, **_):
        num_response = response_mask.shape[1]
        features = self.features(input_ids, attention_mask)[:, -num_response - 1 : -1]
        table = (self.policy(features) / (temperature or self.temperature)).log_softmax(dim=-1)
        logprobs = table.gather(-1, input_ids[:, -num_response:, None]).squeeze(-1)
        entropy = -(table.exp() * table).sum(dim=-1)
        values = self.critic(features).squeeze(-1)
        outputs = {"policy": {"logprobs": logprobs, "entropy": entropy}, "critic": {"values": values}}
        asked = {name: x for role in roles for name, x in outputs[role].items()}
        return {name: x.masked_fill(~response_mask, 0.0) for name, x in asked.items()}


class GivenResponses:
    """In place of sampling: the task's responses, each passed alone through the model of now and the reference."""

    def __init__(self, task, reference):
        self.task, self.reference = task, reference
        self.seconds = {}

    @torch.no_grad()
    def collect(self, model, batch, step, *, stream, temperature=None):
        """All of the task's rows, in order, whatever the batch; at the model's temperature if none is given."""
        assert len(batch) == NUM_ROWS
        return collate([self.episode(model, index, temperature) for index in range(NUM_ROWS)])

    def episode(self, model, index, temperature):
        """One row, with the value after it where it was cut."""
        prompt, row = self.task.prompts[index], self.task.rows[index]
        ids = torch.from_numpy(np.concatenate([prompt, row.response]))[None]
        seen = torch.ones_like(ids, dtype=torch.bool)
        mask = torch.ones(1, len(row.response), dtype=torch.bool)
        logprobs, _, values = model(ids, seen, mask, temperature).values()
        after = model.critic(model.features(ids, seen)[:, -1]).item()
        return Episode(
            index=index,
            prompt_id=index,
            sample_index=0,
            prompt_ids=prompt.tolist(),
            response_ids=row.response.tolist(),
            logprobs=logprobs[0].numpy(),
            ref_logprobs=self.reference(ids, seen, mask, temperature)["logprobs"][0].numpy(),
            values=values[0].numpy(),
            engine_logprobs=logprobs[0].numpy(),
            score=row.score,
            finish_reason="eos" if row.ended else "length",
            bootstrap_value=0.0 if row.ended else after,
        )


class StopAfter:
    """A sink that writes nothing and says stop after a step, as a signal would."""

    def __init__(self, last_step):
        self.last_step, self.metrics, self.computed = last_step, [], []

    def log(self, step, metrics):
        self.metrics.append(metrics)

    def record(self, step, rollout, computed, kl_coef):
        self.computed.append(computed)

    def save_if_due(self, step, *, due, keep_steps):
        return step == self.last_step


def section_of(settings, knobs):
    """The recipe's section with the numbers of the reference; `knobs` on top."""
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
            "bootstrap_truncated": settings.bootstrap_truncated,
            "whiten_advantages": settings.whiten,
            "cliprange": settings.cliprange,
            "cliprange_value": settings.cliprange_value,
            "vf_coef": settings.vf_coef,
            "kl": {
                "coef": settings.kl_coef,
                "estimator": settings.kl_estimator,
                "place": settings.kl_place,
            },
            "shaping": {
                "clip": settings.score_clip,
                "normalize": "reference",
                "missing_eos": "subtract",
                "missing_eos_penalty": settings.missing_eos_penalty,
            },
            "sampling": {"max_new_tokens": LONGEST, "temperature": settings.temperature},
        }
        | knobs
    )


def adamw(groups, section):
    """The optimizer of a stage."""
    return torch.optim.AdamW(
        groups,
        lr=section.learning_rate,
        eps=section.adam_eps,
        weight_decay=section.weight_decay,
        fused=True,
    )


def plain_descent(groups, section):
    """Weight less rate x gradient, so that a move is as large as what made it."""
    return torch.optim.SGD(groups, lr=section.learning_rate)


def trainer_of(task, settings, sink, optimizer=adamw, **knobs):
    """The trainer as a stage builds it, but for where responses come from and results go."""
    section = section_of(settings, knobs)
    accelerator = Accelerator(cpu=True)
    model = Linear(task, settings.temperature)
    reference = Linear(dataclasses.replace(task, policy=task.reference), settings.temperature)
    groups = [
        {"params": list(model.policy.parameters()), "role": "policy"},
        {"params": list(model.critic.parameters()), "role": "critic"},
    ]
    return PPOTrainer(
        section,
        accelerator=accelerator,
        model=model,
        collector=GivenResponses(task, reference),
        updater=Updater(
            section,
            accelerator=accelerator,
            model=model,
            optimizer=optimizer(groups, section),
            seed=SEED,
        ),
        prompts=PromptStream(
            [Prompt(number, ids.tolist(), "") for number, ids in enumerate(task.prompts)],
            seed=SEED,
            num_per_step=NUM_ROWS,
        ),
        shaping=ScoreShaping(
            section.shaping, reference_mean=settings.score_mean, reference_std=settings.score_std
        ),
        sink=sink,
    )


def weights_of(model):
    """Policy [F, V] and critic [F] in float64."""
    policy, critic = model.policy.weight.detach(), model.critic.weight.detach()
    return policy.double().numpy().T, critic.double().numpy()[0]
