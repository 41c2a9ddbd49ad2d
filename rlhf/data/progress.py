"""How much of a source is read, for people who wait."""

from collections.abc import Callable, Sequence

Progress = Callable[[float], None]
"""Told the share that is done, from 0 to 1."""
TOLD_ROWS = 1024
"""Rows between two words of it."""


class Told:
    """Shares of parts as the share of the whole.

    Args:
        sizes: of the parts, in the order in which they are done.
        progress: told the share of all of them.
    """

    def __init__(self, sizes: Sequence[int], progress: Progress | None) -> None:
        self.total = sum(sizes)
        self._sizes, self._progress = sizes, progress
        self._before = self._num_before = 0

    def tell(self, index: int, shares: Sequence[float]) -> None:
        """The shares of the parts from `index` on; those before it are done, and those behind not begun."""
        if self._progress is None:
            return
        self._before += sum(self._sizes[self._num_before : index])
        self._num_before = index
        begun = self._sizes[index : index + len(shares)]
        done = sum(share * size for share, size in zip(shares, begun, strict=True))
        self._progress(min((self._before + done) / self.total, 1.0))
