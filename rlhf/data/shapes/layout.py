"""What one shape is: the columns it reads, how it is told from others, and how a row becomes a record's fields."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

from rlhf.data.fault import shorten
from rlhf.recipe.data import RecordKind

Fields = dict[str, object]
"""Field -> value, of a shape or of a record; a null is absent."""


class MisshapenError(Exception):
    """A row that is not of its shape; carries a fault's parts to the caller that knows the place."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        field: str | None = None,
        value: object = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.value = None if value is None else shorten(value)
        self.remedy = remedy


class Answer(NamedTuple):
    """One answer to a prompt, as people or a model judged it."""

    answer: object
    """Text or messages."""
    score: float
    """Higher is better."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One shape. Either `convert` or `answers` is given."""

    columns: Mapping[str, tuple[str, ...]]
    """The shape's field -> the columns in which it is looked for; the first that is there and not null is taken."""
    fits: Callable[[Fields, RecordKind], bool]
    """Whether a row's fields (JSON text of cells parsed) can be nothing but this shape."""
    convert: Callable[[Fields, RecordKind], Fields] | None = None
    """The record's fields of one row; raises MisshapenError."""
    answers: Callable[[Fields, RecordKind], tuple[object, list[Answer]]] | None = None
    """A row's prompt and its scored answers, of which records are made by the pair rules; raises MisshapenError."""
    lists: frozenset[str] = frozenset()
    """Fields that are lists or objects: the cells of tables hold them as JSON."""
    kept: tuple[str, ...] = ()
    """Fields that are also kept under `metadata`."""
    grouped: bool = False
    """The answers to one prompt stand in several rows."""


def as_list(value: object) -> list[object] | None:
    """The value if it is a list."""
    return cast(list[object], value) if isinstance(value, list) else None


def as_object(value: object) -> Fields | None:
    """The value if it is an object."""
    return cast(Fields, value) if isinstance(value, dict) else None


def need(fields: Fields, name: str) -> object:
    """The field's value.

    Raises:
        MisshapenError: if the row has none.
    """
    if name not in fields:
        raise MisshapenError("missing_field", "is missing", field=name)
    return fields[name]


def need_text(fields: Fields, name: str) -> str:
    """The field's text.

    Raises:
        MisshapenError: if the row has none, or it is not text.
    """
    value = need(fields, name)
    if not isinstance(value, str):
        raise MisshapenError("wrong_type", "should be text", field=name, value=value)
    return value
