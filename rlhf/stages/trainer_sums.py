"""What Trainer and TRL add up over the steps and do not save: kept in each checkpoint, so that a resumed run's metrics are
those of an uninterrupted one.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

SUMS_FILE = "sums.json"


@dataclass(frozen=True)
class Sums:
    """The sums after some step.

    Attributes:
        loss: of this rank, over the steps since the last line of metrics with a loss; a scalar.
        logged_loss: of the steps up to that line, over all ranks.
        logged_step: the step of that line.
        means: name -> a value for each batch since then, over all ranks.
        num_tokens: read so far.
        is_training: the model's mode, by which TRL tells the metrics of training from those of an evaluation.
    """

    loss: torch.Tensor
    logged_loss: float
    logged_step: int
    means: dict[str, list[float]]
    num_tokens: int
    is_training: bool


def sums_of(trainer: Any) -> Sums:
    """Those of a trainer by now."""
    return Sums(
        loss=trainer._tr_loss.clone(),
        logged_loss=trainer._total_loss_scalar,
        logged_step=trainer._globalstep_last_logged,
        means={name: list(values) for name, values in trainer._metrics["train"].items()},
        num_tokens=trainer._total_train_tokens,
        is_training=trainer.model.training,
    )


def give_sums(trainer: Any, sums: Sums) -> None:
    """Put them in the place of a trainer's own, once it has begun to train."""
    trainer._tr_loss = sums.loss
    trainer._total_loss_scalar = sums.logged_loss
    trainer._globalstep_last_logged = sums.logged_step
    trainer._metrics["train"].clear()
    trainer._metrics["train"].update(sums.means)
    trainer._total_train_tokens = sums.num_tokens
    trainer.model.train(sums.is_training)


def total_loss(trainer: Any) -> float:
    """The loss of all steps, over all ranks, where training has ended; every rank calls it.

    For the steps since the last line of metrics Trainer adds what its own process has, and so logs that of rank 0.
    """
    mine = trainer._tr_loss.reshape(1)
    everybodys = torch.as_tensor(trainer.accelerator.gather(mine)).mean()
    return trainer._total_loss_scalar + float(everybodys - mine)


def save_sums(accelerator: Accelerator, sums: Sums, folder: Path, **further: int) -> None:
    """Write them, and further numbers, into a checkpoint; every rank calls it, the first one writes."""
    losses = accelerator.gather(sums.loss.reshape(1))
    content = {**vars(sums), "loss": torch.as_tensor(losses).tolist(), **further}
    if accelerator.is_main_process:
        (folder / SUMS_FILE).write_text(json.dumps(content), encoding="utf-8")


def load_sums(accelerator: Accelerator, checkpoint: Path) -> tuple[Sums, dict[str, int]] | None:
    """What `save_sums` wrote; with another number of processes, each gets the mean of their losses.

    Returns:
        The sums and the further numbers; None where an older version saved the checkpoint: the sums begin anew.
    """
    path = checkpoint / SUMS_FILE
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    losses = content.pop("loss")
    same = len(losses) == accelerator.num_processes
    loss = losses[accelerator.process_index] if same else sum(losses) / len(losses)
    own = {name: content.pop(name) for name in list(content) if name in Sums.__dataclass_fields__}
    return Sums(loss=torch.tensor(loss, device=accelerator.device), **own), content
