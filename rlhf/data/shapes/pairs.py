"""From the scored answers to one prompt to pairs: which are compared, how ties and lone answers are told."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

PairRule = Literal["best_worst", "best_rest", "all"]


class Outcome(NamedTuple):
    """What the answers to one prompt come to."""

    code: Literal["single_answer", "tie"]
    message: str


class Pair(NamedTuple):
    """Indices of two answers, and how far apart their scores are."""

    chosen: int
    rejected: int
    margin: float


def make_pairs(scores: Sequence[float], rule: PairRule, min_margin: float) -> Iterator[Pair | Outcome]:
    """The pairs of one prompt's answers, and at the end what made none.

    Of equal scores the first counts as best, and as worst. A pair needs scores that differ, by `min_margin` or more.

    Args:
        scores: of each answer; higher is better.
        rule: the best with the worst, the best with each other one, or every two.
        min_margin: see `DataSource.min_margin`.
    """
    if len(scores) < 2:
        yield Outcome("single_answer", "has one answer alone to its prompt, which makes no pair")
        return
    num_pairs = num_ties = 0
    for chosen, rejected in _compared(scores, rule):
        margin = scores[chosen] - scores[rejected]
        if margin > 0 and margin >= min_margin:
            num_pairs += 1
            yield Pair(chosen, rejected, margin)
        else:
            num_ties += 1
    if num_ties:
        apart = f"less than {min_margin:g} apart" if min_margin > 0 else "equal"
        made = f"; {num_pairs} make one" if num_pairs else ""
        yield Outcome("tie", f"has {num_ties} of its prompt's pairs of answers scored {apart}{made}")


def _compared(scores: Sequence[float], rule: PairRule) -> Iterator[tuple[int, int]]:
    best = max(range(len(scores)), key=scores.__getitem__)
    if rule == "best_worst":
        worst = min(range(len(scores)), key=scores.__getitem__)
        # all equal: the first is best and worst at once
        yield best, worst if worst != best else 1
    elif rule == "best_rest":
        yield from ((best, other) for other in range(len(scores)) if other != best)
    else:
        for one, other in combinations(range(len(scores)), 2):
            yield (one, other) if scores[one] >= scores[other] else (other, one)
