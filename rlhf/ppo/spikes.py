"""Gradient norms that jump: what training looks at before each of the optimizer's steps."""

import math
from collections.abc import Mapping
from statistics import median

WINDOW = 64
"""Norms that the median is taken over."""
NEEDED = 8
"""Norms before the first that can be a spike: the median of fewer says little."""


class GradientNorms:
    """The latest norms, before clipping; part of a checkpoint, so that a resumed run decides alike.

    Args:
        factor: a norm above this many times the median is a spike; None: only one that is not finite.
    """

    def __init__(self, factor: float | None) -> None:
        self.factor = factor
        self.recent: dict[str, list[float]] = {}

    def spike(self, norms: Mapping[str, float]) -> str | None:
        """What is wrong with the norms of an update, which then must not be made; None takes them in.

        Args:
            norms: by the part of the model that they belong to; equal on all ranks.
        """
        found = [text for name, norm in norms.items() if (text := self._spike(name, norm)) is not None]
        if found:
            return ", ".join(found)
        for name, norm in norms.items():
            self.recent[name] = [*self.recent.get(name, []), norm][-WINDOW:]
        return None

    def state_dict(self) -> dict[str, list[float]]:
        """Plain values."""
        return {name: list(norms) for name, norms in self.recent.items()}

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """Restore `state_dict`."""
        self.recent = {name: list(norms) for name, norms in state.items()}

    def limit(self, name: str) -> float:
        """The largest norm that is no spike; infinity as long as there is no bound."""
        before = self.recent.get(name, [])
        return math.inf if self.factor is None or len(before) < NEEDED else self.factor * median(before)

    def _spike(self, name: str, norm: float) -> str | None:
        if not math.isfinite(norm):
            return f"gradient norm ({name}) {norm}: not finite"
        if norm <= self.limit(name):
            return None
        before = self.recent[name]
        return (
            f"gradient norm ({name}) {norm:.4g}: above {self.factor:g} times the median {median(before):.4g} "
            f"of the last {len(before)}"
        )
