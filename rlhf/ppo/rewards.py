"""From a score to the score that PPO optimises, in one fixed order: clip, normalise, missing EOS, length.

The KL penalty comes after all of these, token by token (`token_rewards`).
"""

from typing import Any

import torch
from torch import Tensor

from rlhf.errors import CheckpointError, UsageError
from rlhf.ppo.moments import Moments
from rlhf.recipe.rewards import ShapingSection


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
        self.running = Moments()

    def __call__(self, scores: Tensor, ended: Tensor, lengths: Tensor) -> Tensor:
        """Shaped scores of one training step; `normalize: running` takes this step's scores in.

        Args:
            scores: [B] float32, the global batch's, as its sources give them.
            ended: [B] bool, whether the response came to an end of its own.
            lengths: [B] int64, tokens of each response.

        Returns:
            [B] float32.
        """
        section = self.section
        if section.clip is not None:
            scores = scores.clamp(-section.clip, section.clip)
        scores = self._normalised(scores, ended)
        penalty = section.missing_eos_penalty
        if section.missing_eos == "subtract":
            scores = torch.where(ended, scores, scores - penalty)
        elif section.missing_eos == "replace":
            scores = torch.where(ended, scores, torch.full_like(scores, -penalty))
        if section.length_penalty:
            excess = (lengths - section.length_free_tokens).clamp(min=0)
            scores = scores - section.length_penalty * excess.to(scores.dtype)
        return scores

    def state_dict(self) -> dict[str, Any]:
        """The running moments."""
        return {"running": self.running.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            CheckpointError: the moments are missing or incomplete.
        """
        if "running" not in state:
            raise CheckpointError(
                "the checkpoint's score shaping lacks its running moments", "Start anew with --fresh."
            )
        self.running.load_state_dict(state["running"])

    def _normalised(self, scores: Tensor, ended: Tensor) -> Tensor:
        """Moments come from responses that ended; where these are fewer than two, from all of this step's.

        A cut response must not pollute the moments (AReaL#1351); but one response has no spread, and a step in which
        nothing ended still has to be put on the scale.
        """
        how = self.section.normalize
        if how == "reference":
            assert self.reference_mean is not None
            assert self.reference_std is not None
            return (scores - self.reference_mean) / self.reference_std
        if how == "none":
            return scores
        moments = self.running if how == "running" else Moments()
        moments.add(scores[ended])
        if moments.count < 2:
            moments = Moments()
            moments.add(scores)
        return moments.normalise(scores)
