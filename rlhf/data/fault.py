"""One thing that is wrong with data: where it is, what stands there and what to do about it."""

from dataclasses import dataclass
from typing import Literal

from rlhf.data.place import Place, one_line, where
from rlhf.recipe.check_codes import CHECKS

VALUE_LIMIT = 60


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, where it is, and what to do about it."""

    code: str
    """One of CHECKS."""
    path: str
    line: int | None
    row: int | None
    field: str | None
    """Path of the field in the record, such as `prompt[1].content`."""
    value: str | None
    """What stands there, shortened."""
    message: str
    """What is wrong, in plain words."""
    remedy: str
    severity: Literal["error", "warning"] = "error"
    """An error refuses the row; a warning is told."""

    def __str__(self) -> str:
        place = where(Place(self.path, self.line, self.row))
        if self.line is not None and self.row is not None and self.row > self.line:
            place += f" row {self.row}"  # several on one line, as in a JSON array that is written without line breaks
        field = "" if self.field is None else f" {self.field}:"
        value = "" if self.value is None else f" (value {self.value})"
        return f"{place}:{field} {self.message}{value}. {self.remedy}"


def shorten(value: object) -> str:
    """The value as Python writes it, cut to VALUE_LIMIT characters."""
    cut = value[: VALUE_LIMIT + 1] if isinstance(value, str) else value
    try:
        text = repr(cut)
    except RecursionError:
        text = f"a {type(value).__name__}, nested too deeply to be shown"
    return text if len(text) <= VALUE_LIMIT else text[: VALUE_LIMIT - 1] + "…"


def make_fault(
    code: str,
    place: Place,
    message: str,
    *,
    field: str | None = None,
    value: str | None = None,
    remedy: str | None = None,
) -> Fault:
    """A fault with its code's remedy, or a more exact one where given."""
    return Fault(
        code=code,
        path=place.path,
        line=place.line,
        row=place.row,
        field=None if field is None else one_line(field),
        value=value,
        message=one_line(message),
        remedy=one_line(remedy or CHECKS[code].remedy),
        severity=CHECKS[code].severity,
    )
