"""Which entries of a long column of keys are equal, in little memory."""

from array import array
from collections.abc import Iterator

SMALL = 2000
"""Up to so many keys a dictionary is quicker than to import numpy."""


def collisions(keys: "array[int]") -> Iterator[list[int]]:
    """The indices, in rising order, of each group of two or more equal keys.

    Needs 16 bytes a key for a while.
    """
    return _by_dictionary(keys) if len(keys) <= SMALL else _by_sorting(keys)


def _by_dictionary(keys: "array[int]") -> Iterator[list[int]]:
    if len(set(keys)) == len(keys):
        return iter(())
    groups: dict[int, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return (group for group in groups.values() if len(group) > 1)


def _by_sorting(keys: "array[int]") -> Iterator[list[int]]:
    import numpy as np

    column = np.frombuffer(keys, np.uint64)
    order = np.argsort(column)
    ranked = column[order]
    is_equal = ranked[1:] == ranked[:-1]
    del ranked
    # a group lies between a rising edge and the falling one
    edges = np.flatnonzero(np.diff(is_equal, prepend=False, append=False)).reshape(-1, 2)
    for first, last in edges.tolist():
        yield sorted(order[first : last + 1].tolist())
