"""Where the trainer's results go; the stage decides about files and trackers."""

from collections.abc import Collection
from typing import Protocol

from torch import Tensor

from rlhf.ppo.episodes import Rollout
from rlhf.ppo.evaluation import Evaluation


class StepSink(Protocol):
    """What becomes of a finished step: metrics, rollout records, tables, checkpoints. Called on every rank."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Write the step's metrics."""
        ...

    def record(self, step: int, rollout: Rollout, computed: dict[str, Tensor], kl_coef: float) -> None:
        """Write the step's rollouts; `computed` has shaped [B], rewards, advantages and returns [B, T]."""
        ...

    def record_offending(self, step: int, rollout: Rollout, rows: list[int]) -> None:
        """Write the rows of a minibatch whose loss or gradient was not finite."""
        ...

    def table(self, step: int, evaluation: Evaluation) -> None:
        """Write held-out prompts with the answers to them."""
        ...

    def save_if_due(self, step: int, *, due: bool, keep_steps: Collection[int]) -> bool:
        """Save a checkpoint where one is due, by its own rules or the caller's; True: stop here, a signal asked for it.

        Args:
            step: steps done.
            due: save at this step in any case.
            keep_steps: checkpoints to keep besides the newest.
        """
        ...

    def restore(self, step: int) -> None:
        """Load the checkpoint of a step."""
        ...
