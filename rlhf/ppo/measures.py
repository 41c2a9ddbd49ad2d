"""What is measured of a rollout: the numbers that people watch, under TRL's names."""

import torch

from rlhf.ppo.episodes import Rollout
from rlhf.ppo.kl import kl_estimate


def rollout_metrics(rollout: Rollout, shaped: torch.Tensor, rewards: torch.Tensor) -> dict[str, float]:
    """Means over a step's global batch.

    Args:
        rollout: B rows.
        shaped: [B] float32, shaped scores.
        rewards: [B, T] float32, per token, KL penalty included.
    """
    lengths = rollout.response_mask.sum(dim=1).float()
    surprisal = -(rollout.logprobs * rollout.response_mask).sum(dim=1)
    totals = rewards.sum(dim=1)
    return {
        "objective/kl": float(kl_per_response(rollout).mean()),
        "objective/entropy": float(surprisal.mean()),
        "objective/scores": float(rollout.scores.mean()),
        "objective/scores_std": float(rollout.scores.std(correction=0)),
        "objective/shaped_scores": float(shaped.mean()),
        "objective/rlhf_reward": float(totals.mean()),
        "objective/non_score_reward": float((totals - shaped).mean()),
        "val/num_eos_tokens": float(rollout.ended.sum()),
        "val/share_without_eos": 1.0 - float(rollout.ended.float().mean()),
        "val/response_tokens": float(lengths.mean()),
    }


def kl_per_response(rollout: Rollout) -> torch.Tensor:
    """KL of policy from reference summed over each response, k1, [B] float32, nats."""
    per_token = kl_estimate(rollout.logprobs, rollout.ref_logprobs, "k1")
    return (per_token * rollout.response_mask).sum(dim=1)


def explained_variance(returns: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over kept tokens; 0 where returns do not vary."""
    kept_returns, kept_values = returns[mask], values[mask]
    variance = float(kept_returns.var(correction=0))
    return 1.0 - float((kept_returns - kept_values).var(correction=0)) / variance if variance > 0 else 0.0


def distinct_n(sequences: list[list[int]], n: int) -> float:
    """Share of different n-grams among all n-grams of all sequences (Li et al. 2016)."""
    grams = [tuple(row[start : start + n]) for row in sequences for start in range(len(row) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def evaluation_metrics(rollout: Rollout) -> dict[str, float]:
    """Means over held-out prompts, each response counted once."""
    return {
        "eval/scores": float(rollout.scores.mean()),
        "eval/scores_std": float(rollout.scores.std(correction=0)),
        "eval/kl": float(kl_per_response(rollout).mean()),
        "eval/response_tokens": float(rollout.response_mask.sum(dim=1).float().mean()),
        "eval/share_without_eos": 1.0 - float(rollout.ended.float().mean()),
        "eval/distinct_2": distinct_n([episode.response_ids for episode in rollout.episodes], 2),
    }
