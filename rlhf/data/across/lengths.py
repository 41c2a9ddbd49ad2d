"""Whether the chosen answers are mostly the longer ones."""

from collections.abc import Iterator
from math import sqrt

from rlhf.data.across.finding import Finding
from rlhf.data.across.parts import Parts, Turns, content_of

MIN_PAIRS = 50
"""Fewer pairs say nothing about a bias."""
_Z = 1.96


class LengthCount:
    """How often the chosen answer is the longer one, in characters; equal lengths count half."""

    def __init__(self) -> None:
        self.num_pairs = 0
        self.num_longer = 0.0

    def add(self, parts: Parts) -> None:
        """Take in the next pair."""
        chosen, rejected = map(_length, parts[1:])
        self.num_pairs += 1
        if chosen >= rejected:
            self.num_longer += 1 if chosen > rejected else 0.5

    def extend(self, other: "LengthCount") -> None:
        """Take in the pairs that follow."""
        self.num_pairs += other.num_pairs
        self.num_longer += other.num_longer

    def facts(self) -> dict[str, float]:
        """The share of pairs whose chosen answer is the longer one."""
        return {"chosen_longer_share": self.num_longer / self.num_pairs} if self.num_pairs else {}

    def findings(self, max_share: float) -> Iterator[Finding]:
        """A finding where the share lies above `max_share` with confidence: its whole 95% interval does."""
        if self.num_pairs < MIN_PAIRS:
            return
        share = self.num_longer / self.num_pairs
        low = lower_bound(share, self.num_pairs)
        if low > max_share:
            message = (
                f"has the longer answer chosen in {share:.1%} of {self.num_pairs} pairs (at least {low:.1%} with "
                f"95% confidence; `data.checks.max_length_bias` is {max_share:.1%})"
            )
            yield Finding("length_bias", None, message)


def lower_bound(share: float, number: int) -> float:
    """The lower end of Wilson's 95% interval for a share (Wilson 1927)."""
    z2 = _Z * _Z / number
    spread = _Z * sqrt(share * (1 - share) / number + z2 / (4 * number))
    return (share + z2 / 2 - spread) / (1 + z2)


def _length(turns: Turns | None) -> int:
    return len(content_of(turns))
