"""Loss or gradients that are not finite: what a person needs to find out why."""

from rlhf.errors import TrainingError


class NonFiniteError(TrainingError):
    """A loss or gradient norm that is not finite, found on every rank before the optimizer's step.

    Args:
        what: what was not finite.
        step: counts from 0.
        rows: the rollout's rows that it came from: those of the micro-batches at fault, or the whole minibatch where
            only the gradients are; empty where the SFT loss of PPO-ptx alone is.
        sft_rows: the rows of the SFT split that went into the same update.
    """

    def __init__(self, what: str, *, step: int, rows: list[int], sft_rows: list[int]) -> None:
        where = f"rollout rows {_shown(rows)}" if rows else f"SFT rows {_shown(sft_rows)}"
        super().__init__(
            f"step {step + 1}: {what}: not finite ({where}); the weights were not touched",
            "Lower ppo.learning_rate, then go on from the last checkpoint with --adopt-changes, or anew with --stage ppo --fresh.",
        )
        self.step = step
        self.rows = rows
        self.sft_rows = sft_rows


def _shown(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:8])) + (f", … ({len(rows)} in all)" if len(rows) > 8 else "")
