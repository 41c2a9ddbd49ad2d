"""Parameter groups of policy and critic: whose they are, and their rates, a function of the step alone, so that a resumed run needs no state."""

import math

import torch
from torch import nn

from rlhf.recipe.ppo import PPOSection, Schedule


def learning_rate(peak: float, schedule: Schedule, section: PPOSection, step: int) -> float:
    """The rate of one role's updates in a step; all updates of a step have the same.

    peak x min(1, (step + 1) / (warmup_fraction x num_steps)) x what is left by the schedule, with
    x = step / num_steps and f = lr_floor_fraction: 1 - (1 - f) x (linear), f + (1 - f) (1 + cos(pi x)) / 2
    (cosine; Loshchilov and Hutter 2017, eq. 5, one cycle), 1 (constant, which leaves f unread).

    Args:
        peak: the rate's maximum.
        schedule: its shape.
        section: the recipe's `ppo`, for the number of steps, the warm-up and the floor.
        step: counts from 0.
    """
    warmup = section.warmup_fraction * section.num_steps
    rising = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return peak * rising * _left(schedule, section, step)


def set_learning_rates(optimizer: torch.optim.Optimizer, section: PPOSection, step: int) -> dict[str, float]:
    """Set the rate of each parameter group by its `role`; the policy's is 0 while only the critic trains.

    Returns:
        The rates of `policy` and `critic`.
    """
    policy = learning_rate(section.learning_rate, section.schedule, section, step)
    critic = learning_rate(
        section.critic_learning_rate or section.learning_rate,
        section.critic_schedule or section.schedule,
        section,
        step,
    )
    rates = {"policy": 0.0 if step < section.critic_warmup_steps else policy, "critic": critic}
    for group in optimizer.param_groups:
        group["lr"] = rates[group["role"]]
    return rates


def _left(schedule: Schedule, section: PPOSection, step: int) -> float:
    floor, num_steps = section.lr_floor_fraction, section.num_steps
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * step / num_steps))
    return 1.0 - (1.0 - floor) * step / num_steps


def hold_frozen_groups(optimizer: torch.optim.Optimizer) -> None:
    """Give AdamW no gradient where the rate is 0: zeros would run its step count while its moments stay empty."""
    for group in optimizer.param_groups:
        if group["lr"] == 0.0:
            for parameter in group["params"]:
                parameter.grad = None


def parameters_of(optimizer: torch.optim.Optimizer, role: str) -> list[nn.Parameter]:
    """The parameters of all groups of a `role`, in their order."""
    groups = (group for group in optimizer.param_groups if group["role"] == role)
    return [parameter for group in groups for parameter in group["params"]]
