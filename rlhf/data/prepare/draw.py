"""Draws that depend on what a row says, not on where it stands: rows that are added elsewhere do not reshuffle them.

Every function imports numpy where it runs: whoever only validates should not wait for it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.uint64]
    Mask = NDArray[np.bool_]


def spread(numbers: "Numbers", seed: int, step: str) -> "Numbers":
    """A pseudo-random number of 64 bits for each number: the same one for the same number, seed and step.

    The steps' names keep their draws apart: without them, those whom one step keeps would be those whom the next keeps.
    """
    from xxhash import xxh3_64_intdigest

    salt = xxh3_64_intdigest(f"{seed} {step}".encode())
    return _mix(_mix(numbers) ^ _as_numbers([salt]))


def priorities(keys: "Numbers", seed: int, step: str) -> "Numbers":
    """A pseudo-random number for each row, from its key and how many equal rows came before it."""
    return spread(_mix(keys) + occurrences(keys), seed, step)


def occurrences(keys: "Numbers") -> "Numbers":
    """For each key, how many equal ones stand before it."""
    import numpy as np

    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    is_first = np.ones(len(keys), dtype=np.bool_)
    is_first[1:] = ordered[1:] != ordered[:-1]
    del ordered
    positions = np.arange(len(keys), dtype=np.uint64)
    starts = positions * is_first
    np.maximum.accumulate(starts, out=starts)
    positions -= starts
    starts[order] = positions
    return starts


def first_ones(keys: "Numbers") -> "Mask":
    """True for the first row of each key."""
    return occurrences(keys) == 0


def lowest(drawn: "Numbers", count: int) -> "Mask":
    """True for the `count` rows with the lowest numbers."""
    import numpy as np

    mask = np.zeros(len(drawn), dtype=np.bool_)
    mask[np.argsort(drawn, kind="stable")[:count]] = True
    return mask


def lowest_share(drawn: "Numbers", share: float) -> "Mask":
    """True where the number is below this share of all numbers: each row is decided by itself."""
    return drawn < _as_numbers([int(share * 2**64)])


def lowest_of_each(drawn: "Numbers", groups: "Numbers", max_ratio: float) -> "Mask":
    """True for the lowest rows of each group, at most `max_ratio` times as many as the smallest group has."""
    import numpy as np

    _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) == 0:
        return np.zeros(0, dtype=np.bool_)
    limit = int(sizes.min() * max_ratio)
    order = np.lexsort((drawn, index))
    ends = np.cumsum(sizes)
    rank = np.arange(len(groups)) - (ends - sizes)[index[order]]
    mask = np.zeros(len(groups), dtype=np.bool_)
    mask[order] = rank < limit
    return mask


def within(keep: "Mask", inner: "Mask") -> "Mask":
    """Of the rows that `keep` marks, those that `inner` marks, which has one entry for each of them."""
    import numpy as np

    mask = np.zeros(len(keep), dtype=np.bool_)
    mask[np.flatnonzero(keep)[inner]] = True
    return mask


def _as_numbers(values: list[int]) -> "Numbers":
    import numpy as np

    return np.array(values, dtype=np.uint64)


def _mix(numbers: "Numbers") -> "Numbers":
    """The output function of SplitMix64 (Steele, Lea and Flood, 2014): every bit of the result hangs on every bit."""
    mixed = numbers + _as_numbers([0x9E3779B97F4A7C15])
    mixed = (mixed ^ (mixed >> _as_numbers([30]))) * _as_numbers([0xBF58476D1CE4E5B9])
    mixed = (mixed ^ (mixed >> _as_numbers([27]))) * _as_numbers([0x94D049BB133111EB])
    return mixed ^ (mixed >> _as_numbers([31]))
