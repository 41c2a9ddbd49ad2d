"""Who has ended, as the host sees it without stopping the device: each look shows what the one before asked for."""

import torch
from torch import Tensor

Held = set[tuple[int, int]]
"""(slot, row) of responses."""


class Lookout:
    """Copies the flags of ended slots to the host while the device goes on.

    Args:
        ended: [S] bool, on the device.
    """

    def __init__(self, ended: Tensor) -> None:
        self._ended = ended
        self._on_gpu = ended.device.type == "cuda"
        self._asked: tuple[Tensor, torch.cuda.Event, Held] | None = None

    def look(self, row_of: dict[int, int]) -> Held:
        """Which responses have ended: on a GPU at the look before this one, on a CPU now.

        Args:
            row_of: slot -> row of now. A slot that has been given away since shows nothing.
        """
        held = set(row_of.items())
        if not self._on_gpu:
            return _ended(self._ended, held)
        flags = torch.empty(self._ended.shape, dtype=torch.bool, pin_memory=True)
        flags.copy_(self._ended, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        before, self._asked = self._asked, (flags, event, held)
        if before is None:
            return set()
        before[1].synchronize()
        return _ended(before[0], before[2])


def _ended(flags: Tensor, held: Held) -> Held:
    ended = flags.tolist()
    return {(slot, row) for slot, row in held if ended[slot]}
