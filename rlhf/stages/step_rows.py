"""Which rows a step of transformers' Trainer takes: a function of the seed and the step, asked of its own sampler again."""

from typing import Any, cast

from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import Trainer


def rows_of_steps(trainer: Trainer, first: int, last: int) -> list[int]:
    """The rows of the training split that some steps take on all ranks together; for the end of a run.

    It moves the sampler, so that no training may follow.

    Args:
        trainer: one that has begun to train; every rank calls it.
        first: counted from 1.
        last: likewise, included.
    """
    loader = cast(Any, trainer.callback_handler.train_dataloader)
    size = trainer.args.gradient_accumulation_steps
    per_epoch = -(-len(loader) // size)
    rows: list[int] = []
    for epoch in range((first - 1) // per_epoch, (last - 1) // per_epoch + 1):
        loader.set_epoch(epoch)
        batches = list(loader.batch_sampler)
        before = epoch * per_epoch
        taken = batches[max(0, first - 1 - before) * size : (last - before) * size]
        rows += [row for batch in taken for row in batch]
    return sorted(set(gather_object(rows)))


def can_save_before(accelerator: Accelerator) -> bool:
    """Whether the weights are those before the step when its gradient norm is known: DeepSpeed's are those after it."""
    return str(accelerator.distributed_type.value) != "DEEPSPEED"
