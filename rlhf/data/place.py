"""Where a row lies, and what was read there."""

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from rlhf_schemas import Record


class Place(NamedTuple):
    """A row's location, for people to find it."""

    path: str
    """The file, or the hub data set with its split."""
    line: int | None = None
    """Line on which the row starts, from 1; None where the format has no lines."""
    row: int | None = None
    """Row, from 1, broken rows counted; None for a fault of the whole file."""


class Row(NamedTuple):
    """One row as the file has it, before columns are mapped and rules applied."""

    values: dict[str, object]
    place: Place


@dataclass(slots=True)
class Count:
    """What was read of a file so far."""

    lines: int = 0
    rows: int = 0
    """Broken ones included."""
    share: float = 0.0
    """Of the bytes, or of a table's rows; for people who wait."""


R = TypeVar("R", bound=Record, covariant=True)


@dataclass(frozen=True, slots=True)
class Located(Generic[R]):
    """A record that keeps every rule, and where it lies."""

    record: R
    place: Place


def where(place: Place) -> str:
    """A place as messages name it."""
    path = one_line(place.path)
    if place.line is not None:
        return f"{path}:{place.line}"
    return path if place.row is None else f"{path} row {place.row}"


def one_line(text: str) -> str:
    """Escape what a terminal or a UTF-8 file cannot show, such as a line break in the name of a column or a file."""
    return text if text.isprintable() else repr(text)[1:-1]
