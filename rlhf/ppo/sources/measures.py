"""What is measured of the sources of a rollout's scores."""

import torch

from rlhf.ppo.episodes import Rollout
from rlhf.ppo.sources.combine import DISAGREEMENT


def source_metrics(rollout: Rollout) -> dict[str, float]:
    """Mean and spread (the population's) of each source's own scores over the global batch, and their disagreement.

    `objective/score_disagreement` is the mean over responses of the standard deviation over the sources, of their
    normalised, weighted scores; a rise says that the policy went where the ensemble does not know (Coste et al. 2023).
    """
    metrics: dict[str, float] = {}
    for name in rollout.episodes[0].scores:
        scores = torch.tensor([episode.scores[name] for episode in rollout.episodes], dtype=torch.float64)
        if name == DISAGREEMENT:
            metrics["objective/score_disagreement"] = float(scores.mean())
        else:
            metrics[f"objective/scores/{name}"] = float(scores.mean())
            metrics[f"objective/scores/{name}_std"] = float(scores.std(correction=0))
    return metrics
