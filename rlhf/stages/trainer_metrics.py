"""`metrics.jsonl` of the SFT and reward stages, from what transformers' Trainer logs."""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.training_args import TrainingArguments

from rlhf.metrics import MetricsLog
from rlhf.stages.trainer_sums import Sums, give_sums, load_sums, save_sums, sums_of, total_loss


class TrainerMetrics(TrainerCallback):
    """Writes the lines, and keeps what they are made from in the checkpoints.

    Args:
        path: the file.
        trainer: a CheckpointingTrainer mixed with TRL's.
    """

    def __init__(self, path: Path, trainer: Any) -> None:
        self.path = path
        self.trainer = trainer
        self.log: MetricsLog | None = None
        self.first_step = 0
        self.last_logged = 0
        self.before_step: Sums | None = None

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on with sums and lines as the checkpoint left them."""
        # A checkpoint of an older version has no sums: they begin anew, and all lines of its steps are kept.
        self.first_step, num_lines = state.global_step, None
        resumed_from = self.trainer.resumed_from
        loaded = None if resumed_from is None else load_sums(self.trainer.accelerator, resumed_from)
        if loaded is not None:
            sums, further = loaded
            give_sums(self.trainer, sums)
            self.first_step, num_lines = further["first_step"], further["num_lines"]
        self.last_logged = self.trainer._globalstep_last_logged
        self.log = MetricsLog(
            self.path,
            total_steps=state.max_steps,
            resume_step=state.global_step,
            num_lines=num_lines,
            enabled=state.is_world_process_zero,
        )

    def on_step_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Remember the sums, for a step that turns out not to be made."""
        self.before_step = sums_of(self.trainer)

    def on_log(
        self, args: TrainingArguments, state: Any, control: Any, logs: Any = None, **kwargs: Any
    ) -> None:
        """Write numbers; text is Trainer's own chatter."""
        numbers = {
            name: float(value) for name, value in (logs or {}).items() if isinstance(value, (int, float))
        }
        passed_over = self.trainer.passed_over
        if "loss" in numbers:
            window = range(self.last_logged + 1, state.global_step + 1)
            self.last_logged = state.global_step
            if passed_over.intersection(window):
                del numbers["loss"], numbers["grad_norm"]  # means over steps that were not made
        if "train_loss" in numbers:
            made = set(range(self.first_step + 1, state.global_step + 1)) - passed_over
            if not made:
                return
            # Trainer divides by the steps of this process alone.
            numbers["train_loss"] = total_loss(self.trainer) / len(made)
        if self.log is not None and numbers:
            self.log.write(state.global_step, numbers)

    def take_back_step(self) -> None:
        """Forget what a step has added that was begun and is not made."""
        if self.before_step is not None:
            give_sums(self.trainer, self.before_step)

    def save(self, folder: Path) -> None:
        """Write the sums into a checkpoint; every rank calls it."""
        assert self.log is not None
        further = {"first_step": self.first_step, "num_lines": self.log.num_lines}
        save_sums(self.trainer.accelerator, sums_of(self.trainer), folder, **further)
