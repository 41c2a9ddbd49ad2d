"""From a reward model's score to the score that PPO optimises, in one fixed order: clip, normalise, missing-EOS penalty.

The KL penalty comes after all of these, token by token (`token_rewards`).
"""

import torch
from torch import Tensor

from rlhf.errors import UsageError
from rlhf.recipe.ppo import ShapingSection


class ScoreShaping:
    """Shapes scores as the recipe says.

    Args:
        section: the recipe's `ppo.shaping`.
        reference_mean, reference_std: of the reward model's scores on the SFT model's samples, from its manifest.

    Raises:
        UsageError: `normalize: reference` without these two, or with a standard deviation of 0.
    """

    def __init__(
        self,
        section: ShapingSection,
        *,
        reference_mean: float | None = None,
        reference_std: float | None = None,
    ) -> None:
        if section.normalize == "reference" and (reference_mean is None or not reference_std):
            raise UsageError(
                f"ppo.shaping.normalize: reference needs the reward model's mean and standard deviation; its manifest has {reference_mean}, {reference_std}",
                "Train the reward model with reward.num_reference_samples > 1, or set ppo.shaping.normalize: none.",
            )
        self.section = section
        self.reference_mean = reference_mean
        self.reference_std = reference_std

    def __call__(self, scores: Tensor, ended: Tensor) -> Tensor:
        """Shaped scores.

        Args:
            scores: [B] float32, as the reward model gives them.
            ended: [B] bool, whether the response ended with a stop token.

        Returns:
            [B] float32.
        """
        section = self.section
        if section.clip is not None:
            scores = scores.clamp(-section.clip, section.clip)
        if section.normalize == "reference":
            assert self.reference_mean is not None
            assert self.reference_std is not None
            scores = (scores - self.reference_mean) / self.reference_std
        penalty = section.missing_eos_penalty
        if section.missing_eos == "subtract":
            scores = torch.where(ended, scores, scores - penalty)
        elif section.missing_eos == "replace":
            scores = torch.where(ended, scores, torch.full_like(scores, -penalty))
        return scores
