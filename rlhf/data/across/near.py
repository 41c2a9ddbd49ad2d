"""Rows that are nearly equal, found by MinHash (Broder 1997) and hashing in bands (Indyk and Motwani 1998).

Rows are near where each of their parts is: a pair's prompt, chosen and rejected answer each resemble the other pair's.
So two answers to one long prompt, or two pairs with one answer in common, are not near.
"""

import sys
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Protocol, cast

from xxhash import xxh3_128_digest

from rlhf.data.across.collisions import SMALL, collisions
from rlhf.data.across.parts import Parts, content_of
from rlhf.data.normalise import normalise

NUM_HASHES = 64
"""MinHash values a text. The similarity estimated from them is off by 0.05 (one standard error) where it is 0.8."""
MIN_WORDS = 16
"""A shorter text is near only to one that is equal once normalised: one other word makes another text of it."""
_LONG_WORD = 20
"""Texts whose words are longer on average are taken as writing without spaces: each character counts as a word."""
_SEED = 20_260
_RECALL = 0.99
_CHUNK = 4096
_FACTOR = 0x9E3779B97F4A7C15
_LOW_HALF = 0 if sys.byteorder == "little" else 1


class Signatures:
    """MinHash signatures of many records: 128 bytes for each of a record's parts.

    Args:
        num_parts: how many parts a record has.
    """

    def __init__(self, num_parts: int) -> None:
        self._num_parts = num_parts
        self._width = NUM_HASHES * num_parts
        self._hashes = array("H")
        """Of each record the first value of each part, then the second of each, ...: a band is a slice."""

    def __len__(self) -> int:
        return len(self._hashes) // self._width

    def add(self, parts: Parts) -> None:
        """Take in the next record."""
        row = array("H", bytes(2 * self._width))
        for index, part in enumerate(parts):
            if part is not None:
                row[index :: self._num_parts] = _sign(part if isinstance(part, str) else content_of(part))
        self._hashes.extend(row)

    def extend(self, other: "Signatures") -> None:
        """Take in the records that follow."""
        self._hashes.extend(other._hashes)

    def pairs(self, similarity: float, skip: bytearray | None = None) -> Iterator[tuple[int, int]]:
        """Each record that is near to an earlier one, and the earlier one.

        Of the records that a band brings together each is compared with the first and the one before it.

        Args:
            similarity: the share of words' 3-grams (Jaccard) that near texts have in common, as estimated.
            skip: nonzero for records to leave out.
        """
        num_rows = len(self)
        skip = skip or bytearray(num_rows)
        near: dict[int, int] = {}
        for keys in self._bands(similarity):
            candidates = (
                (row, earlier)
                for group in collisions(keys)
                for row, earlier in _neighbours([row for row in group if not skip[row]])
                if row not in near
            )
            while chunk := list(islice(candidates, _CHUNK)):
                for (row, earlier), value in zip(chunk, self._similarities(chunk), strict=True):
                    if value >= similarity:
                        near[row] = min(earlier, near.get(row, earlier))
        yield from sorted(near.items())

    def _bands(self, similarity: float) -> Iterator["array[int]"]:
        """A key a record for each band; rows are brought together where a band is equal in all parts."""
        size = self._num_parts * _band_size(similarity, self._num_parts)
        for start in range(0, self._width, size):
            columns = [self._hashes[column :: self._width] for column in range(start, start + size)]
            yield array("q", map(hash, zip(*columns, strict=True))) if len(self) <= SMALL else _mix(columns)

    def _similarities(self, pairs: list[tuple[int, int]]) -> list[float]:
        """The least of the parts' similarities, for each pair of records."""
        if len(self) <= SMALL:
            return [self._similarity(*pair) for pair in pairs]
        import numpy as np

        table = np.frombuffer(self._hashes, np.uint16).reshape(-1, NUM_HASHES, self._num_parts)
        one, other = np.array(pairs).T
        return (table[one] == table[other]).mean(1).min(1).tolist()

    def _similarity(self, one: int, other: int) -> float:
        first = self._hashes[one * self._width : (one + 1) * self._width]
        second = self._hashes[other * self._width : (other + 1) * self._width]
        is_equal = [a == b for a, b in zip(first, second, strict=True)]
        return min(sum(is_equal[part :: self._num_parts]) for part in range(self._num_parts)) / NUM_HASHES


def _mix(columns: list["array[int]"]) -> "array[int]":
    import numpy as np

    keys = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        keys ^= np.frombuffer(column, np.uint16)
        keys *= np.uint64(_FACTOR)
        keys ^= keys >> np.uint64(29)
    return array("Q", keys.tobytes())


def _neighbours(group: list[int]) -> Iterator[tuple[int, int]]:
    for before, row in pairwise(group):
        yield row, group[0]
        if before != group[0]:
            yield row, before


def _band_size(similarity: float, num_parts: int) -> int:
    """Values of each part in a band: as many as still bring rows of this similarity together with _RECALL."""
    for size in (8, 4, 2):
        missed = (1 - similarity ** (size * num_parts)) ** (NUM_HASHES // size)
        if 1 - missed >= _RECALL:
            return size
    return 1


def _sign(text: str) -> "array[int]":
    """The lower 16 bits of each MinHash value."""
    text = normalise(text)
    words = text.split(" ")
    if len(text) > _LONG_WORD * len(words):
        words = list(text)
    if len(words) < MIN_WORDS:
        return array("H", xxh3_128_digest(text.encode()) * (NUM_HASHES // 8))
    sketch = _new_sketch()
    sketch.update(list(map(" ".join, zip(words, words[1:], words[2:], strict=False))))
    return array("H", array("I", sketch.digest()).tobytes())[_LOW_HALF::2]


class _Sketch(Protocol):
    def update(self, items: Sequence[str]) -> None: ...
    def digest(self) -> list[int]: ...


def _new_sketch() -> _Sketch:
    from rensa import RMinHash  # pyright: ignore[reportMissingTypeStubs, reportAttributeAccessIssue, reportUnknownVariableType]

    return cast(_Sketch, RMinHash(NUM_HASHES, _SEED))
