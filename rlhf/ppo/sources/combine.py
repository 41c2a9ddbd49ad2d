"""Several sources' scores become one: normalised, weighted, then summed, averaged, or the lowest."""

import math
from dataclasses import dataclass
from typing import Literal

from rlhf.ppo.scoring import Answer, Score
from rlhf.ppo.sources.base import Source

DISAGREEMENT = "disagreement"
"""The spread over the sources, kept beside their scores where there are several."""


@dataclass(frozen=True)
class Part:
    """One source's part of the whole.

    Attributes:
        name: what its scores are called.
        source: gives them.
        weight: factor, after normalising.
        mean, std: subtracted and divided by; 0 and 1 leave the score as it is.
    """

    name: str
    source: Source
    weight: float = 1.0
    mean: float = 0.0
    std: float = 1.0


class CombinedScorer:
    """A `Scorer` of one or more parts; an ensemble's lowest score is the cautious one (Coste et al. 2023).

    Where there are several parts, `by_source` also has `disagreement`: the standard deviation (the population's) over
    the sources' normalised, weighted scores. It is measured, and not optimised.
    """

    def __init__(self, parts: list[Part], combine: Literal["sum", "mean", "min"] = "sum") -> None:
        self.parts = parts
        self.combine = combine

    def score(self, answers: list[Answer]) -> list[Score]:
        """See `Scorer`; every source is asked once."""
        columns = [part.source.score(answers) for part in self.parts]
        return [self._one([column[row] for column in columns]) for row in range(len(answers))]

    def _one(self, raw: list[float]) -> Score:
        parts = self.parts
        used = [p.weight * (score - p.mean) / p.std for p, score in zip(parts, raw, strict=True)]
        by_source = {part.name: score for part, score in zip(parts, raw, strict=True)}
        mean = sum(used) / len(used)
        if len(used) > 1:
            by_source[DISAGREEMENT] = math.sqrt(sum((score - mean) ** 2 for score in used) / len(used))
        value = {"sum": sum(used), "mean": mean, "min": min(used)}[self.combine]
        return Score(value, by_source)
