"""What is measured of a rollout: the numbers that people watch, under TRL's names."""

import math

import numpy as np
import torch

from rlhf.ppo.episodes import Rollout
from rlhf.ppo.importance import importance_metrics
from rlhf.ppo.kl import kl_estimate
from rlhf.ppo.sources.combine import DISAGREEMENT


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
        "objective/shaped_scores_std": float(shaped.std(correction=0)),
        "objective/rlhf_reward": float(totals.mean()),
        "objective/non_score_reward": float((totals - shaped).mean()),
        "val/num_eos_tokens": float(rollout.ended.sum()),
        "val/share_without_eos": 1.0 - float(rollout.ended.float().mean()),
        "val/response_tokens": float(lengths.mean()),
        "val/engine_log_ratio_abs": engine_log_ratio_abs(rollout),
        **importance_metrics(rollout),
    }


def engine_log_ratio_abs(rollout: Rollout) -> float:
    """Mean |log ratio| a token between the engine that sampled and the training pass over the same weights."""
    apart = [np.abs(episode.engine_logprobs - episode.logprobs) for episode in rollout.episodes]
    return float(np.concatenate(apart).mean())


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
    """Means over held-out prompts, each response counted once.

    `eval/entropy` is the mean surprisal of the sampled tokens, which estimates the policy's entropy a token;
    `eval/kl_sqrt` is the distance of Gao et al. 2022, the root of the KL, 0 where the estimate is negative.
    """
    kl = float(kl_per_response(rollout).mean())
    responses = [episode.response_ids for episode in rollout.episodes]
    surprisal = -(rollout.logprobs * rollout.response_mask).sum()
    return {
        "eval/scores": float(rollout.scores.mean()),
        "eval/scores_std": float(rollout.scores.std(correction=0)),
        **_scores_by_source(rollout),
        "eval/kl": kl,
        "eval/kl_sqrt": math.sqrt(max(kl, 0.0)),
        "eval/entropy": float(surprisal / rollout.response_mask.sum()),
        "eval/response_tokens": float(rollout.response_mask.sum(dim=1).float().mean()),
        "eval/share_without_eos": 1.0 - float(rollout.ended.float().mean()),
        "eval/distinct_1": distinct_n(responses, 1),
        "eval/distinct_2": distinct_n(responses, 2),
    }


def paired_metrics(
    scores: torch.Tensor,
    lengths: torch.Tensor,
    sft_scores: torch.Tensor,
    sft_lengths: torch.Tensor,
    same: torch.Tensor,
) -> dict[str, float]:
    """The policy against the SFT model on the same prompts and noise, pair by pair.

    With d the difference of a pair's scores in standard deviations of the SFT model's scores (as it is where these do
    not vary), and l that of its lengths: `eval/gain` is the mean of d, `eval/win_rate` the share of pairs with d > 0,
    and half of those with d = 0 or the same response. `eval/gain_length_controlled` is a in the least-squares line
    d = a + b l, so the gain that is expected at equal length: a = mean(d) - b mean(l), b = cov(d, l) / var(l), and
    b = 0 where l does not vary. Dubois et al. 2024 ("Length-Controlled AlpacaEval") regress preferences, with a
    logistic model; scores allow a line.

    Args:
        scores, sft_scores: [B] float32.
        lengths, sft_lengths: [B], response tokens.
        same: [B] bool, where both gave the same response, whose scores may differ by rounding alone.
    """
    std = float(sft_scores.double().std(correction=0))
    difference = (scores.double() - sft_scores.double()) / (std if std > 0 else 1.0)
    longer = lengths.double() - sft_lengths.double()
    centred = longer - longer.mean()
    spread = float(centred.square().sum())
    slope = float((centred * difference).sum()) / spread if spread > 0 else 0.0
    won = torch.where(same, 0.5, (difference.sign() + 1) / 2)
    return {
        "eval/gain": float(difference.mean()),
        "eval/win_rate": float(won.mean()),
        "eval/gain_length_controlled": float(difference.mean() - slope * longer.mean()),
    }


def _scores_by_source(rollout: Rollout) -> dict[str, float]:
    """Means of what each source said, and of how far they disagree; named as at training steps."""
    metrics: dict[str, float] = {}
    for name in rollout.episodes[0].scores:
        mean = sum(episode.scores[name] for episode in rollout.episodes) / rollout.num_episodes
        if name == DISAGREEMENT:
            metrics["eval/score_disagreement"] = mean
        else:
            metrics[f"eval/scores/{name}"] = mean
    return metrics
