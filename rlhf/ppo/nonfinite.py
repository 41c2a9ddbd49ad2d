"""Updates that must not be made: a loss or gradients that are not finite, or that jump; and what they came from."""

from rlhf.errors import TrainingError


class UpdateError(TrainingError):
    """A loss or gradient norm that is not finite or far above the usual, found on every rank before the optimizer's step.

    Args:
        what: what is wrong.
        step: counts from 0.
        rows: the rollout's rows that it came from: those of the micro-batches at fault, or the whole minibatch where
            only the gradients are; empty where the SFT loss of PPO-ptx alone is.
        sft_rows: the rows of the SFT split that went into the same update.
    """

    def __init__(self, what: str, *, step: int, rows: list[int], sft_rows: list[int]) -> None:
        where = f"rollout rows {_shown(rows)}" if rows else f"SFT rows {_shown(sft_rows)}"
        super().__init__(
            f"step {step + 1}: {what} ({where}); the weights were not touched",
            "Lower ppo.learning_rate, then go on from the last checkpoint with --adopt-changes, or anew with --stage ppo --fresh; "
            "or set ppo.on_spike: rollback, which passes over these rows.",
        )
        self.step = step
        self.rows = rows
        self.sft_rows = sft_rows


class NonFiniteError(UpdateError):
    """One that is not finite; `what` says which."""

    def __init__(self, what: str, *, step: int, rows: list[int], sft_rows: list[int]) -> None:
        super().__init__(f"{what}: not finite", step=step, rows=rows, sft_rows=sft_rows)


def _shown(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:8])) + (f", … ({len(rows)} in all)" if len(rows) > 8 else "")
