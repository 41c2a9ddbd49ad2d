"""Proof that what user code or a service returned is one finite number a response."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import cast

from rlhf.errors import TrainingError


def checked_scores(result: object, num_answers: int, source: str) -> list[float]:
    """The scores as floats.

    Args:
        result: a sequence of numbers, or an array or tensor of one dimension.
        num_answers: how many there must be.
        source: what gave them, for the message.

    Raises:
        TrainingError: no sequence, another length, or something that is not a finite number (the first is named).
    """
    remedy = f"Let it return one finite number for each of the {num_answers} responses that it was given."
    to_list = getattr(result, "tolist", None)
    values = to_list() if callable(to_list) else result
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise TrainingError(f"{source} returned {type(result).__name__}, not a list of scores", remedy)
    items = cast(Sequence[object], values)
    if len(items) != num_answers:
        raise TrainingError(f"{source} returned {len(items)} scores for {num_answers} responses", remedy)
    scores: list[float] = []
    for index, value in enumerate(items):
        if not isinstance(value, Real) or not math.isfinite(value):
            raise TrainingError(
                f"{source}: score {index} is {value!r} ({type(value).__name__}), not a finite number", remedy
            )
        scores.append(float(value))
    return scores
