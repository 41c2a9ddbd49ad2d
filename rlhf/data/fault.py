"""What can be wrong with data: one code for each kind of fault, with its remedy.

docs/records.md lists the same codes; a test holds the two together.
"""

from dataclasses import dataclass

from rlhf.data.place import Place

REMEDIES: dict[str, str] = {
    # the source
    "file_missing": "Check the path; a hub data set has the form owner/name.",
    "not_a_file": "Name one file.",
    "unreadable": "Check the file's permissions and the disk.",
    "unknown_format": "Set `format: jsonl`, json, csv or parquet.",
    "bad_source": "Correct the data source in the recipe or the call.",
    "hub_unavailable": "Check name, split, config and revision, the network and, for private data, `hf auth login`.",
    "empty": "Give at least one row.",
    # bytes and syntax
    "bom": "Save the file as UTF-8 without a byte order mark.",
    "not_utf8": "Save the file as UTF-8.",
    "bad_json": "Correct the JSON; text in it must escape quotes, backslashes and line breaks.",
    "truncated": "Write the file again: it ends in the middle of a row.",
    "duplicate_key": "Keep one of the two.",
    "not_finite": "Give a finite number, or leave the field out.",
    "not_object": "Write each row as a JSON object, {...}; a JSON array of rows needs `format: json`.",
    "not_array": "Write an array of objects, [{...}, ...], or one object a line with `format: jsonl`.",
    "bad_csv": "Quote cells that hold commas, quotes or line breaks, and double the quotes inside them.",
    "column_count": "Give every row as many cells as the header; quote cells that hold commas.",
    "bad_parquet": "Write the file again: pyarrow cannot read it.",
    # fields
    "unknown_field": "Map it with `columns`, keep it with `extra: metadata`, or remove it.",
    "missing_field": "Add it, or name the column that holds it in `columns`.",
    "null_prompt": "Give the prompt; leave the field out only where both answers contain the prompt.",
    "metadata_clash": "Rename the column or the key in metadata.",
    # the record's rules
    "wrong_type": "Give a value of the right type.",
    "out_of_range": "Give a value in the range.",
    "not_a_choice": "Give one of the allowed values.",
    "too_short": "Give at least one entry.",
    "blank": "Give text, or remove the row.",
    "not_unicode": "Replace the broken character; it is often half of an emoji that was cut.",
    "not_json": "Convert it to text, a number, a list or an object.",
    "shape": "Give exactly one of: prompt and completion; messages; text.",
    "mixed": "Write all of the record as text, or all of it as messages.",
    "roles": "Order the turns: system (optional), user, assistant, user, ...; prompts end with the user, answers with the assistant.",
    "equal_pair": "Remove the row: a pair of equals prefers nothing.",
    "no_common_prompt": "Give the prompt in its own field, or start both answers with the same messages up to a user turn.",
    "length_mismatch": "Give one number for each response token.",
    "cannot_chat": "Turn `data.chat` off, or give the prompt in its own field.",
}
"""Fault code -> what to do about it."""

VALUE_LIMIT = 60


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, where it is, and what to do about it."""

    code: str
    """One of REMEDIES."""
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

    def __str__(self) -> str:
        place = self.path
        if self.line is not None:
            place += f":{self.line}"
        elif self.row is not None:
            place += f" row {self.row}"
        field = "" if self.field is None else f" {self.field}:"
        value = "" if self.value is None else f" (value {self.value})"
        return f"{place}:{field} {self.message}{value}. {self.remedy}"


def shorten(value: object) -> str:
    """The value as Python writes it, cut to VALUE_LIMIT characters."""
    cut = value[: VALUE_LIMIT + 1] if isinstance(value, str) else value
    text = repr(cut)
    return text if len(text) <= VALUE_LIMIT else text[: VALUE_LIMIT - 1] + "…"


def _one_line(text: str) -> str:
    """Escape what a terminal or a UTF-8 file cannot show, such as a line break in a column's name."""
    return text if text.isprintable() else repr(text)[1:-1]


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
        field=None if field is None else _one_line(field),
        value=value,
        message=_one_line(message),
        remedy=remedy or REMEDIES[code],
    )
