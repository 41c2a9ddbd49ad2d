"""What is wrong with a row beside others, or with all rows together."""

from typing import NamedTuple


class Finding(NamedTuple):
    """One finding; rows are named by their ordinals, from 0, among the records that were added."""

    code: str
    """One of the codes of group `across`."""
    ordinal: int | None
    """The record; None where all rows together are meant."""
    message: str
    """What is wrong; where `other` is given, its place completes the sentence."""
    other: int | None = None
    """The record that this one equals, repeats or contradicts."""
    field: str | None = None
    """The record's field, where one is meant."""
