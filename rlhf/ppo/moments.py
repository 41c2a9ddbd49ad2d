"""Running mean and variance of a stream of batches."""

import math

import torch
from torch import Tensor

from rlhf.errors import CheckpointError

EPSILON = 1e-8
"""Added to the variance, so that equal numbers become 0."""


class Moments:
    """Count, mean and sum of squared deviations, merged batch by batch (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.squares = 0.0

    def add(self, values: Tensor) -> None:
        """Take in values [N], in float64."""
        values = values.to(torch.float64)
        count = values.numel()
        if count == 0:
            return
        mean = float(values.mean())
        total, delta = self.count + count, mean - self.mean
        self.squares += float(((values - mean) ** 2).sum()) + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total

    def normalise(self, values: Tensor) -> Tensor:
        """Values less the mean, divided by the root of the population's variance + 1e-8; dtype as given."""
        deviation = math.sqrt(self.squares / self.count + EPSILON)
        return ((values.to(torch.float64) - self.mean) / deviation).to(values.dtype)

    def state_dict(self) -> dict[str, float]:
        """All of it."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore `state_dict`.

        Raises:
            CheckpointError: a piece is missing.
        """
        missing = {"count", "mean", "squares"} - set(state)
        if missing:
            raise CheckpointError(
                f"the checkpoint's score moments lack {sorted(missing)}", "Start anew with --fresh."
            )
        self.count, self.mean, self.squares = int(state["count"]), state["mean"], state["squares"]
