"""What an update minimises on one micro-batch; optional terms stay out of the graph where their coefficient is 0."""

import torch
from torch import Tensor

from rlhf.ppo.kl import kl_estimate
from rlhf.ppo.losses import policy_loss, value_loss
from rlhf.ppo.masks import keep
from rlhf.recipe.ppo import PPOSection


def objective(
    section: PPOSection,
    outputs: tuple[Tensor, Tensor, Tensor],
    batch: dict[str, Tensor],
    advantages: Tensor,
    returns: Tensor,
    *,
    num_tokens: int,
    kl_coef: float,
    trains_policy: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Policy loss + vf_coef x value loss - entropy_coef x entropy + kl_coef x KL (`kl.place: loss`).

    Args:
        section: the recipe's `ppo`.
        outputs: logprobs, entropy, values: [B, T] float32 each, with gradient.
        batch: of `Rollout.micro_batch`.
        advantages: [B, T] float32.
        returns: [B, T] float32.
        num_tokens: response tokens of the global minibatch, the divisor of every term.
        kl_coef: the KL coefficient of now; unread where the penalty is in the reward.
        trains_policy: False: all terms but the value loss have weight 0, and yet a gradient, which DDP waits for.

    Returns:
        loss: 0-dim float32.
        stats: 0-dim float32 without gradient. All add up over micro-batches and ranks, but `ratio_max`, which merges
            by its maximum.
    """
    logprobs, entropy, values = outputs
    mask = batch["response_mask"]
    pg_loss, pg_stats = policy_loss(
        logprobs,
        batch["logprobs"],
        advantages,
        mask,
        cliprange=section.cliprange,
        num_tokens=num_tokens,
        dual_clip=section.dual_clip,
    )
    vf_loss, vf_stats = value_loss(
        values,
        batch["values"],
        returns,
        mask,
        cliprange_value=section.cliprange_value,
        num_tokens=num_tokens,
    )
    mean_entropy = keep(entropy, mask).sum() / num_tokens
    stats = pg_stats | {
        "policy_loss": pg_loss,
        "value_loss": vf_loss,
        "value_clipfrac": vf_stats["clipfrac"],
        "entropy": mean_entropy,
    }
    of_policy = pg_loss
    if section.entropy_coef:
        of_policy = of_policy - section.entropy_coef * mean_entropy
    if section.kl.place == "loss":
        stats["kl"] = _mean_kl(section, logprobs, batch["ref_logprobs"], mask, num_tokens)
        of_policy = of_policy + kl_coef * stats["kl"]
    loss = section.vf_coef * vf_loss + (1.0 if trains_policy else 0.0) * of_policy
    stats["loss"] = loss
    return loss, {name: value.detach() for name, value in stats.items()}


def _mean_kl(
    section: PPOSection, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, num_tokens: int
) -> Tensor:
    """Masked before the estimate, whose gradient at a garbage value is not finite."""
    estimates = kl_estimate(keep(logprobs, mask), keep(ref_logprobs, mask), section.kl.estimator)
    return torch.sum(estimates) / num_tokens
