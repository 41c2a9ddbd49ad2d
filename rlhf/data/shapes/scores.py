"""What an answer scored: a number, or a word for good or bad."""

import math
from typing import Final

from rlhf.data.shapes.layout import MisshapenError, as_list, as_object

LABELS: Final[dict[str, float]] = {
    word: score
    for score, words in {
        1.0: (
            "good",
            "chosen",
            "preferred",
            "accepted",
            "positive",
            "like",
            "thumbs up",
            "up",
            "true",
            "yes",
        ),
        0.0: (
            "bad",
            "rejected",
            "dispreferred",
            "refused",
            "negative",
            "dislike",
            "thumbs down",
            "down",
            "false",
            "no",
        ),
    }.items()
    for word in words
} | {"👍": 1.0, "👎": 0.0}
"""Label in lower case, `_` and `-` as blanks -> score."""
_TEXT_REMEDY = "Write a number, or true and false, or a word that docs/data_shapes.md lists."


def read_score(value: object, field: str) -> float:
    """The score: a finite number, also as text, or a label of LABELS; true is 1.

    Raises:
        MisshapenError: for a null, NaN or an infinity, and anything else.
    """
    if value is None:
        raise MisshapenError("missing_field", "is missing: every answer needs its score", field=field)
    score = _number(value)
    if score is None:
        raise MisshapenError("wrong_type", "is no score", field=field, value=value, remedy=_TEXT_REMEDY)
    if not math.isfinite(score):
        raise MisshapenError("not_finite", "is not a finite number", field=field, value=value)
    return score


def _number(value: object) -> float | None:
    if isinstance(value, str):
        label = " ".join(value.strip().lower().replace("_", " ").replace("-", " ").split())
        if label in LABELS:
            return LABELS[label]
    elif not isinstance(value, int | float):
        return None
    elif isinstance(value, float):
        return value
    try:
        return None if "_" in str(value) else float(value)
    except (OverflowError, ValueError):
        return None


def mean_rating(annotations: object) -> float | None:
    """The mean of UltraFeedback's ratings by aspect, `{"honesty": {"Rating": "4"}}`, those without a number left out."""
    ratings: list[float] = []
    for aspect in (as_object(annotations) or {}).values():
        for one in as_list(aspect) or [aspect]:
            rated = as_object(one)
            rating = _number(one if rated is None else rated.get("Rating"))
            if rating is not None and math.isfinite(rating):
                ratings.append(rating)
    return sum(ratings) / len(ratings) if ratings else None
