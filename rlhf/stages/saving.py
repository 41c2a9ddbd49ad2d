"""How a checkpoint is saved by all ranks together: it is there whole, or the one before it stays."""

import errno
import os
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from safetensors import SafetensorError

from rlhf.checkpoint import Checkpoints
from rlhf.durable import free_disk_bytes
from rlhf.errors import UsageError

_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


def save(
    accelerator: Accelerator,
    checkpoints: Checkpoints,
    step: int,
    write: Callable[[Path], object],
    *,
    keep_last: int,
    keep_steps: Callable[[], Collection[int]],
    metrics: dict[str, float] | None = None,
) -> None:
    """Save the checkpoint of a step; every rank calls it.

    Args:
        accelerator: Accelerate's handle on the processes.
        checkpoints: where.
        step: which.
        write: writes this rank's part into a folder; may use collectives.
        keep_last: how many of the newest to keep afterwards.
        keep_steps: which others to keep; asked once this one is there.
        metrics: for the marker.

    Raises:
        UsageError: it cannot be written, as on a full disk: its leavings are gone and the checkpoints before it whole.
    """
    folder = checkpoints.folder / f".writing-step-{step}"
    with _explained(checkpoints, step):
        if accelerator.is_main_process:
            checkpoints.begin(step)
        accelerator.wait_for_everyone()
        write(folder)
        # Without this one, the marker could come before another rank's file: save_state has no barrier at its end.
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            checkpoints.commit(step, metrics=metrics)
            checkpoints.prune(keep_last, keep_steps())
    accelerator.wait_for_everyone()


@contextmanager
def _explained(checkpoints: Checkpoints, step: int) -> Generator[None]:
    try:
        yield
    except (OSError, RuntimeError, SafetensorError, UsageError) as error:
        reason = _reason(error)
        if reason is None:
            raise
        checkpoints.abandon(step)
        newest = max((each.step for each in checkpoints.complete()), default=None)
        kept = "there is no checkpoint yet" if newest is None else f"the one of step {newest} is whole"
        free = free_disk_bytes(checkpoints.folder) / 2**20
        raise UsageError(
            f"the checkpoint of step {step} could not be saved to {checkpoints.folder}: {reason}; {kept}. "
            f"{free:,.0f} MiB are free there now that its leavings are gone",
            "Free space on that file system (a save needs room for one checkpoint more than are kept), then go on.",
        ) from error


def _reason(error: Exception) -> str | None:
    """What the disk said, None where the error is another: torch's and safetensors' writers have no OSError of their own."""
    if isinstance(error, UsageError):
        return error.message
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno in _CANNOT_WRITE else None
    text = str(error)
    if isinstance(error, SafetensorError):
        return text if "os error" in text else None
    is_writer = "inline_container.cc" in text or "PytorchStreamWriter" in text
    return "torch.save could not write its file, as on a full disk" if is_writer else None
