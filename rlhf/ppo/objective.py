"""What an update minimises on one micro-batch; optional terms stay out of the graph where their coefficient is 0."""

import torch
from torch import Tensor

from rlhf.ppo.kl import kl_estimate
from rlhf.ppo.losses import policy_loss, value_loss
from rlhf.ppo.masks import keep
from rlhf.recipe.ppo import PPOSection


def objective(
    section: PPOSection,
    outputs: dict[str, Tensor],
    batch: dict[str, Tensor],
    *,
    num_tokens: int,
    kl_coef: float,
    trains_policy: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """vf_coef x value loss + policy loss - entropy_coef x entropy + kl_coef x KL (`kl.place: loss`), or one role's part.

    Args:
        section: the recipe's `ppo`.
        outputs: of `ActorCritic.forward`, with gradient; the terms of a role that was not asked are left out.
        batch: of `Rollout.micro_batch` (importance weights where there are any), and `advantages` and `returns`, [B, T] float32.
        num_tokens: response tokens of the global minibatch, the divisor of every term.
        kl_coef: the KL coefficient of now; unread where the penalty is in the reward.
        trains_policy: False: all terms but the value loss have weight 0, and yet a gradient, which FSDP2 waits for.

    Returns:
        loss: 0-dim float32.
        stats: 0-dim float32 without gradient. All add up over roles, micro-batches and ranks, but `ratio_max`, which
            merges by its maximum.
    """
    losses: list[Tensor] = []
    stats: dict[str, Tensor] = {}
    if "values" in outputs:
        vf_loss, vf_stats = value_loss(
            outputs["values"],
            batch["values"],
            batch["returns"],
            batch["response_mask"],
            cliprange_value=section.cliprange_value,
            num_tokens=num_tokens,
        )
        losses.append(section.vf_coef * vf_loss)
        stats |= {"value_loss": vf_loss, "value_clipfrac": vf_stats["clipfrac"]}
    if "logprobs" in outputs:
        of_policy, policy_stats = _of_policy(section, outputs, batch, num_tokens=num_tokens, kl_coef=kl_coef)
        losses.append((1.0 if trains_policy else 0.0) * of_policy)
        stats |= policy_stats
    loss = torch.stack(losses).sum()
    stats["loss"] = loss
    return loss, {name: value.detach() for name, value in stats.items()}


def _of_policy(
    section: PPOSection,
    outputs: dict[str, Tensor],
    batch: dict[str, Tensor],
    *,
    num_tokens: int,
    kl_coef: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    logprobs, mask = outputs["logprobs"], batch["response_mask"]
    pg_loss, stats = policy_loss(
        logprobs,
        batch["logprobs"],
        batch["advantages"],
        mask,
        cliprange=section.cliprange,
        num_tokens=num_tokens,
        weights=batch.get("importance_weights"),
        dual_clip=section.dual_clip,
    )
    mean_entropy = keep(outputs["entropy"], mask).sum() / num_tokens
    stats = stats | {"policy_loss": pg_loss, "entropy": mean_entropy}
    of_policy = pg_loss
    if section.entropy_coef:
        of_policy = of_policy - section.entropy_coef * mean_entropy
    if section.kl.place == "loss":
        stats["kl"] = _mean_kl(section, logprobs, batch["ref_logprobs"], mask, num_tokens)
        of_policy = of_policy + kl_coef * stats["kl"]
    return of_policy, stats


def _mean_kl(
    section: PPOSection, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, num_tokens: int
) -> Tensor:
    """Masked before the estimate, whose gradient at a garbage value is not finite."""
    estimates = kl_estimate(keep(logprobs, mask), keep(ref_logprobs, mask), section.kl.estimator)
    return torch.sum(estimates) / num_tokens
