"""Importance weights between the engine that sampled and the trainer, where the two do not compute alike.

Tokens are drawn from the engine's distribution and trained on as the trainer's. Where these differ (another
implementation, another precision) the policy gradient is biased, unless each token's loss is multiplied by the ratio of
the two probabilities (Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training"). The
ratio is truncated, which bounds the variance for a little bias (Ionides 2008, "Truncated Importance Sampling", eq. 3).
"""

import numpy as np
import torch

from rlhf.ppo.episodes import Rollout


def importance_weights(logprobs: np.ndarray, engine_logprobs: np.ndarray, cap: float) -> np.ndarray:
    """min(exp(logprobs - engine_logprobs), cap) at each token.

    Args:
        logprobs: [T] float32, of the sampled tokens, from the training forward pass over the weights that sampled.
        engine_logprobs: [T] float32, the engine's own.
        cap: the largest weight.

    Returns:
        [T] float32, constants of the loss.
    """
    return _ratios(logprobs, engine_logprobs).clamp(max=cap).numpy()


def importance_metrics(rollout: Rollout) -> dict[str, float]:
    """Means over a step's tokens, none where its engine needs no weights; the log ratios are `val/engine_log_ratio_abs`."""
    weighed = [
        (torch.from_numpy(each.importance_weights), _ratios(each.logprobs, each.engine_logprobs))
        for each in rollout.episodes
        if each.importance_weights is not None
    ]
    if not weighed:
        return {}
    weights, ratios = (torch.cat(column) for column in zip(*weighed, strict=True))
    return {
        "val/importance_weight": float(weights.mean()),
        "val/importance_truncated": float((ratios > weights).float().mean()),
    }


def _ratios(logprobs: np.ndarray, engine_logprobs: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(logprobs - engine_logprobs).exp()
