"""Which evaluation's weights are published, and when evaluations say stop; decided from metrics that every rank has."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rlhf.errors import CheckpointError, TrainingError, UsageError
from rlhf.recipe.evaluation import EvaluationSection


@dataclass(frozen=True)
class Evaluated:
    """One evaluation's numbers.

    Attributes:
        step: steps that the policy had been trained for.
        metrics: `eval/...`.
    """

    step: int
    metrics: dict[str, float]


class Selection:
    """Looks at each evaluation; its state is in the checkpoint, so a resumed run decides alike.

    Attributes:
        best: the one with the highest `select_best`, the earliest of equals; the one before training counts too. One
            beyond `kl_budget` cannot be it. None without `select_best`.
        last: the latest one.
        num_stale: evaluations since the best one.
        stop_reason: why training ends early, or None.
    """

    def __init__(self, section: EvaluationSection) -> None:
        self.section = section
        self.best: Evaluated | None = None
        self.last: Evaluated | None = None
        self.num_stale = 0
        self.stop_reason: str | None = None

    @property
    def published(self) -> Evaluated | None:
        """The best one where one is selected, else the last one."""
        return self.best or self.last

    def observe(self, step: int, metrics: dict[str, float]) -> bool:
        """Take an evaluation in.

        Returns:
            Whether it is the best so far, so that its weights must be kept.

        Raises:
            UsageError: `select_best` is not among the metrics.
            TrainingError: its value is not finite.
        """
        self.last = Evaluated(step, dict(metrics))
        kl, budget = metrics["eval/kl"], self.section.kl_budget
        over_budget = budget is not None and kl > budget
        is_best = self.section.select_best is not None and self._is_best(self.last, over_budget)
        if over_budget:
            self.stop_reason = f"eval/kl is {kl:.4g}, above kl_budget={budget:.4g}"
        elif self.section.patience is not None and self.num_stale >= self.section.patience:
            self.stop_reason = f"{self.num_stale} evaluations without a higher {self.section.select_best}"
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "best": None if self.best is None else asdict(self.best),
            "last": None if self.last is None else asdict(self.last),
            "num_stale": self.num_stale,
            "stop_reason": self.stop_reason,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            CheckpointError: a missing piece.
        """
        missing = self.state_dict().keys() - state.keys()
        if missing:
            raise CheckpointError(f"the checkpoint's selection lacks {sorted(missing)}")
        self.best, self.last = (
            None if state[name] is None else Evaluated(**state[name]) for name in ("best", "last")
        )
        self.num_stale = int(state["num_stale"])
        self.stop_reason = state["stop_reason"]

    def _is_best(self, seen: Evaluated, over_budget: bool) -> bool:
        value, highest = self._value(seen), -math.inf if self.best is None else self._value(self.best)
        # A run that was stopped before its first step evaluates step 0 again: the same evaluation, not a stale one.
        again = self.best is not None and self.best.step == seen.step
        if (value > highest or again) and not over_budget:
            self.best, self.num_stale = seen, 0
            return True
        self.num_stale += 1
        return False

    def _value(self, seen: Evaluated) -> float:
        name = self.section.select_best
        assert name is not None
        if name not in seen.metrics:
            raise UsageError(
                f"ppo.evaluation.select_best: {name} is not measured", f"One of: {', '.join(seen.metrics)}."
            )
        value = seen.metrics[name]
        if not math.isfinite(value):
            raise TrainingError(
                f"step {seen.step}: {name}, which selects the checkpoint, is {value}",
                "Look for the first non-finite metric, and for a source of scores that gave it.",
            )
        return value
