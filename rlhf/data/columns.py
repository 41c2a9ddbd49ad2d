"""From a row's columns to a record's fields: the mapping of the recipe, absent values, cells that hold JSON."""

import re
import types
from collections.abc import Mapping
from typing import Annotated, Any, Union, cast, get_args, get_origin

from rlhf.data.fault import Fault, make_fault, shorten
from rlhf.data.jsontext import BrokenJSONError, parse_json
from rlhf.data.place import Place, Row
from rlhf.recipe.data import DataSource, FileFormat, RecordKind
from rlhf_schemas import RECORDS

_MESSAGES_CELL = re.compile(r'\s*\[\s*\{\s*"(role|content)"')


def _leaves(annotation: Any) -> frozenset[Any]:
    """The types that a field may have, such as {str, list, NoneType} for `Prompt | None`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _leaves(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return frozenset(leaf for part in get_args(annotation) for leaf in _leaves(part))
    return frozenset((origin or annotation,))


class ColumnMap:
    """Turns rows of one source into the fields of one record kind.

    Columns keep their names where `columns` does not name another. Columns that no field takes are faults, or go under
    `metadata` with `extra: metadata`. A null is an absent field. CSV cells become numbers, lists and objects where the
    field is one, and an empty cell of a field that may be absent and is not text is absent; in Parquet, Arrow and hub
    data sets, fields that are objects may be written as JSON text. The lines of plain text are prompts where prompts
    are wanted.
    """

    def __init__(self, source: DataSource, kind: RecordKind, fmt: FileFormat | None) -> None:
        fields = RECORDS[kind].model_fields
        self._kind = kind
        self._keep_extra = source.extra == "metadata"
        self._fields = fields.keys()
        self._required = frozenset(name for name, field in fields.items() if field.is_required())
        self._leaves = {name: _leaves(field.annotation) for name, field in fields.items()}
        self._csv = fmt in ("csv", "tsv")
        self._typed = fmt in ("parquet", "arrow", "hub")
        lines_are_prompts = fmt == "text" and kind == "prompt" and not source.columns
        self._columns = {"prompt": "text"} if lines_are_prompts else source.columns

    def unknown_targets(self) -> list[str]:
        """Keys of `columns` that are no field of the record."""
        return [name for name in self._columns if name not in self._fields]

    def fields(self, row: Row) -> tuple[dict[str, object], list[Fault]]:
        """The record's fields from one row, and what could not be mapped."""
        values, place = row
        if not self._columns and not self._csv and not self._typed and values.keys() <= self._fields:
            if None not in values.values():
                return values, []
            extra: dict[str, object] = {}
            record = dict(values)
        else:
            record, extra = self._split(values)
        faults = [] if self._keep_extra else [self._unknown(name, extra[name], place) for name in extra]
        if self._csv or self._typed:
            faults += self._convert(record, place)
        faults += self._drop_nulls(record, place)
        if self._keep_extra and extra:
            faults += self._keep(extra, record, place)
        return record, faults

    def _split(self, values: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
        record: dict[str, object] = {}
        extra: dict[str, object] = {}
        for name, column in self._columns.items():
            if column in values:
                record[name] = values[column]
        taken = self._columns.values()
        for column, value in values.items():
            if column in taken:
                continue
            if column in self._fields and column not in self._columns:
                record[column] = value
            else:
                extra[column] = value
        return record, extra

    def _unknown(self, column: str, value: object, place: Place) -> Fault:
        message = f"is not a field of {self._kind} records"
        return make_fault("unknown_field", place, message, field=column, value=shorten(value))

    def _drop_nulls(self, record: dict[str, object], place: Place) -> list[Fault]:
        faults: list[Fault] = []
        for name in [name for name, value in record.items() if value is None]:
            if name in self._required:
                continue
            # an absent prompt means that the answers contain it: a null one is more likely a hole in the data
            if name == "prompt" and self._kind == "preference":
                faults.append(make_fault("null_prompt", place, "is null", field=name))
            del record[name]
        return faults

    def _convert(self, record: dict[str, object], place: Place) -> list[Fault]:
        faults: list[Fault] = []
        for name, value in record.items():
            if isinstance(value, str):
                try:
                    record[name] = self._cell(name, value)
                except BrokenJSONError as error:
                    faults.append(
                        make_fault(error.code, place, error.message, field=name, value=shorten(value))
                    )
        return faults

    def _cell(self, name: str, text: str) -> object:
        leaves = self._leaves.get(name, frozenset())
        if str in leaves:
            is_messages = list in leaves and self._csv and _MESSAGES_CELL.match(text)
            return parse_json(text) if is_messages else text
        if self._csv and not text and name not in self._required:
            return None
        if dict in leaves or list in leaves:
            return parse_json(text)
        return (
            read_number(text, whole=int in leaves)
            if self._csv and (float in leaves or int in leaves)
            else text
        )

    def _keep(self, extra: dict[str, object], record: dict[str, object], place: Place) -> list[Fault]:
        metadata = record.get("metadata", {})
        if not isinstance(metadata, dict):
            return []  # the record refuses it
        known = cast(dict[str, object], metadata)
        record["metadata"] = extra | known
        clash = sorted(extra.keys() & known.keys())
        message = "is both a column and a key of metadata"
        return [
            make_fault("metadata_clash", place, message, field=name, value=shorten(extra[name]))
            for name in clash
        ]


def read_number(text: str, *, whole: bool) -> object:
    """The number that a cell spells, or the cell itself for the record to refuse."""
    if "_" in text:
        return text  # Python reads 1_000 as a thousand, CSV does not
    try:
        return int(text) if whole else float(text)
    except ValueError:
        return text
