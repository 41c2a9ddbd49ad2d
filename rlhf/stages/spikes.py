"""What a spike leads to: a stop, or a rollback, in which the stage starts again from its last checkpoint.

What a rollback took out is written to `<stage>/skipped.jsonl` before, and counts for every later start of the stage.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from accelerate import Accelerator

from rlhf.checkpoint import Checkpoint
from rlhf.durable import write_atomic
from rlhf.errors import TrainingError
from rlhf.ppo.spikes import GradientNorms
from rlhf.recipe.ppo import PPOSection
from rlhf.recipe.training import TrainingSection
from rlhf.stages.agreement import first_rank
from rlhf.stages.context import StageContext

SKIPPED_FILE = "skipped.jsonl"
_NORMS_FILE = "gradient_norms.json"


class Rollback(Exception):  # noqa: N818 - not an error: the stage asks to be started again
    """The stage is to be started again, from its last checkpoint and without the steps that were written down."""


class SpikeError(TrainingError):
    """A gradient norm that is not finite or far above the usual, found before the optimizer's step."""

    def __init__(self, what: str, step: int, rows: Sequence[int] = ()) -> None:
        shown = ", ".join(map(str, rows[:8])) + (f", … ({len(rows)} in all)" if len(rows) > 8 else "")
        super().__init__(
            f"step {step}: {what} (rows {shown}); the weights were not touched",
            "Look at these rows; lower the learning rate, or set on_spike: rollback, which passes over them.",
        )
        self.what = what
        self.step = step

    def told(self, rows: Callable[[int, int], list[int]]) -> "SpikeError":
        """The same with the step's rows, which every rank must ask for together."""
        return SpikeError(self.what, self.step, rows(self.step, self.step))


def passed_over(folder: Path) -> frozenset[int]:
    """The steps, counted from 1, that rollbacks took out of a stage."""
    windows = _windows(folder)
    return frozenset(
        step for window in windows for step in range(window["first_step"], window["last_step"] + 1)
    )


def stop_or_roll_back(
    context: StageContext,
    section: TrainingSection | PPOSection,
    accelerator: Accelerator,
    error: TrainingError,
    *,
    step: int,
    rows: Callable[[int, int], list[int]],
) -> NoReturn:
    """Do what the recipe says about a spike; all ranks together.

    Args:
        context: the stage's.
        section: the stage's, which has `on_spike` and `max_rollbacks`.
        accelerator: Accelerate's handle on the processes.
        error: the spike.
        step: the step that it came in, counted from 1.
        rows: first and last step -> the rows of the training split that they take, on every rank.

    Raises:
        TrainingError: the spike, where it stops the stage.
        Rollback: where it goes back.
    """
    windows = _windows(context.folder)
    if section.on_spike == "stop":
        raise error
    if len(windows) >= section.max_rollbacks:
        raise TrainingError(
            f"{error.message}; {len(windows)} rollbacks were made, max_rollbacks is {section.max_rollbacks}",
            f"Look at {context.folder / SKIPPED_FILE} for a common cause; a lower learning rate is the usual cure.",
        ) from error
    newest = first_rank(accelerator, context.checkpoints.recover)
    restored = 0 if newest is None else newest.step
    window = {
        "first_step": restored + 1,
        "last_step": step,
        "why": error.message,
        "rows": rows(restored + 1, step),
    }
    if accelerator.is_main_process:
        lines = "".join(json.dumps(each) + "\n" for each in [*windows, window])
        write_atomic(context.folder / SKIPPED_FILE, lines.encode())
        print(
            f"{error.message}\nback to step {restored}: steps {restored + 1} to {step} are passed over",
            flush=True,
        )
    accelerator.wait_for_everyone()
    raise Rollback from error


def keep_norms(folder: Path, norms: GradientNorms) -> None:
    """Write the norms into a checkpoint of transformers' Trainer."""
    (folder / _NORMS_FILE).write_text(json.dumps(norms.state_dict()), encoding="utf-8")


def restore_norms(checkpoint: Checkpoint | None, norms: GradientNorms) -> None:
    """Read them from the checkpoint to go on from, where there is one that has them."""
    path = None if checkpoint is None else checkpoint.path / _NORMS_FILE
    if path is not None and path.is_file():
        norms.load_state_dict(json.loads(path.read_text(encoding="utf-8")))


def _windows(folder: Path) -> list[dict[str, Any]]:
    path = folder / SKIPPED_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]
