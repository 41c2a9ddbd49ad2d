"""From pydantic's errors to faults: one fault for each rule that a row breaks."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from rlhf.data.fault import Fault, make_fault, shorten
from rlhf.data.place import Row
from rlhf.recipe.check_codes import CHECKS

_CODES = {
    "missing": "missing_field",
    "extra_forbidden": "unknown_field",
    "finite_number": "not_finite",
    "greater_than": "out_of_range",
    "greater_than_equal": "out_of_range",
    "literal_error": "not_a_choice",
    "too_short": "too_short",
}
_TAGS = ("as_text", "as_messages")
_TOOL_ROLES = ("tool", "function")
_TOOL_KEYS = ("tool_calls", "function_call", "tool_call_id")


def faults_of(
    error: ValidationError, fields: Mapping[str, object], row: Row, columns: Mapping[str, str]
) -> list[Fault]:
    """The faults in one row.

    Args:
        error: what the record's rules say.
        fields: the record's fields that were checked.
        row: the row as the file has it; messages about missing fields list its columns.
        columns: the source's mapping, record field -> column.
    """
    faults = [_fault(dict(detail), fields, row, columns) for detail in error.errors(include_url=False)]
    calling = {str(fault.field).rpartition(".")[0] for fault in faults if fault.code == "tool_calls"}
    # a turn that calls a tool has no content, and needs none
    return [one for one in faults if one.code != "wrong_type" or not _is_content_of(one.field, calling)]


def _is_content_of(field: str | None, turns: set[str]) -> bool:
    turn, _, name = str(field).rpartition(".")
    return name == "content" and turn in turns


def _fault(
    detail: dict[str, Any], fields: Mapping[str, object], row: Row, columns: Mapping[str, str]
) -> Fault:
    kind: str = detail["type"]
    code = kind if kind in CHECKS else _CODES.get(kind, "wrong_type")
    location = detail["loc"] or (detail.get("ctx", {}).get("field"),)
    field = _path(location)
    message = str(detail["msg"]).replace("Input should", "should")
    if code == "missing_field" and field in columns:
        message = f"is missing: `columns` takes it from {columns[field]!r}"
    elif code == "missing_field":
        message = "is missing"
    elif kind == "model_type":
        message = "should be a message: an object with role and content"
    if code in ("missing_field", "shape"):
        names = f"; the row has {', '.join(row.values) or 'no columns'}" if len(location) == 1 else ""
        return make_fault(code, row.place, message + names, field=field)
    value = detail["input"] if detail["loc"] else fields.get(field)
    if (location[-1] == "role" and value in _TOOL_ROLES) or location[-1] in _TOOL_KEYS:
        code, message = "tool_calls", "belongs to a tool call, which is not supported"
    if code == "unknown_field" and len(location) > 1:
        message, remedy = (
            "is not a key of a message",
            "Remove it, or name the `shape` that has it, such as openai.",
        )
        return make_fault(code, row.place, message, field=field, value=shorten(value), remedy=remedy)
    return make_fault(code, row.place, message, field=field, value=shorten(value))


def _path(location: tuple[str | int, ...]) -> str:
    """`("prompt", "as_messages", 1, "content")` -> `prompt[1].content`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part not in _TAGS:
            path += f".{part}" if path else part
    return path
