"""Who has ended, as the host sees it without stopping the device: each look shows what the one before asked for."""

from torch import Tensor

from rlhf.models.transfer import OnItsWay

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
        self._asked: tuple[OnItsWay, Held] | None = None

    def look(self, row_of: dict[int, int]) -> Held:
        """Which responses have ended: on a GPU at the look before this one, on a CPU now.

        Args:
            row_of: slot -> row of now. A slot that has been given away since shows nothing.
        """
        now = (OnItsWay(self._ended), set(row_of.items()))
        if not self._on_gpu:
            return _ended(*now)
        before, self._asked = self._asked, now
        return set() if before is None else _ended(*before)


def _ended(flags: OnItsWay, held: Held) -> Held:
    ended = flags.arrived().tolist()
    return {(slot, row) for slot, row in held if ended[slot]}
