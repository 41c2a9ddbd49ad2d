"""Which shape a source's rows have, told from the first of them; docs/data_shapes.md states the rules."""

from rlhf.data.columns import ColumnMap
from rlhf.data.fault import Fault, make_fault
from rlhf.data.place import Place, Row
from rlhf.data.shapes import LAYOUTS
from rlhf.data.shapes.layout import MisshapenError, as_list
from rlhf.data.shapes.reading import OWN_FIELDS, RowReader
from rlhf.data.texts import TEXT_FIELDS
from rlhf.recipe.data import DataSource, RecordKind, Shape

_BY_CONTENT = ("sharegpt", "binarized", "openai", "transcript")
"""Shapes whose columns can have our own names: what stands in them tells."""
_COMPLETE: dict[RecordKind, tuple[frozenset[str], ...]] = {
    "sft": (frozenset(("prompt", "completion")), frozenset(("messages",))),
    "preference": (frozenset(("prompt", "chosen", "rejected")),),
}


def detect_shape(source: DataSource, kind: RecordKind, first: Row) -> Shape | None:
    """The shape: as the source names it, else by the first row; None if that is of no known shape.

    Args:
        source: with `columns` and no `shape`, its rows are our own records.
        kind: which record is wanted.
        first: the first row that could be read.
    """
    if source.shape is not None:
        return source.shape
    names = first.values.keys()
    if source.columns or kind == "rollout" or not names:
        return "records"
    is_complete = any(columns <= names for columns in _COMPLETE.get(kind, ()))
    for shape in LAYOUTS:
        if (shape in _BY_CONTENT or not is_complete) and _fits(shape, source, kind, first):
            return shape
    # the lines of a plain text file are prompts where prompts are wanted
    is_lines = kind == "prompt" and names == {"text"}
    return "records" if is_lines or any(name in names for name in TEXT_FIELDS[kind]) else None


def _fits(shape: Shape, source: DataSource, kind: RecordKind, first: Row) -> bool:
    # as if from a CSV file: whether cells hold JSON is seen from their text
    layout = LAYOUTS[shape]
    try:
        fields, _, _ = RowReader(source, kind, "csv", shape, layout).read(first)
    except (MisshapenError, RecursionError):
        return False
    return layout.fits(fields, kind)


def unknown_shape(source: DataSource, kind: RecordKind, first: Row) -> Fault:
    """The fault of a source whose first row is of no known shape: its columns, and how to go on."""
    columns = ", ".join(first.values) or "none"
    fields, column = ", ".join(TEXT_FIELDS[kind]), next(iter(first.values), "question")
    remedy = (
        f"Map the columns to the fields of {kind} records ({fields}) with `columns`, such as "
        f"`columns: {{{TEXT_FIELDS[kind][0]}: {column}}}` (--column {TEXT_FIELDS[kind][0]}={column}), or name the "
        f"`shape` (--shape): {', '.join(['records', *LAYOUTS])} (docs/data_shapes.md shows each)."
    )
    if nested := next((name for name, value in first.values.items() if _is_rows(value)), None):
        remedy = f"If {nested!r} holds the rows, save that list alone as the file."
    elif source.format in ("csv", "tsv") or first.place.path.lower().endswith((".csv", ".tsv")):
        remedy = f"If these are no names of columns, give the table a header. {remedy}"
    message = f"has columns that are no known shape of {kind} records: {columns}"
    if len(first.values) == 1 and (mark := next((mark for mark in ";\t|" if mark in columns), None)):
        message = f"has one column, whose name holds {mark!r}: {columns}"
        remedy = "Save the table with commas, or with tabs as .tsv (`format: tsv`)."
    return make_fault("unknown_shape", first.place, message, remedy=remedy)


def _is_rows(value: object) -> bool:
    rows = as_list(value)
    return bool(rows) and all(isinstance(row, dict) for row in rows)


def source_fault(source: DataSource, kind: RecordKind, shape: Shape, path: str) -> Fault | None:
    """What is wrong with a source that names this shape: it makes no such records, or `columns` has fields that it has not.

    Args:
        source, kind, shape: see `detect_shape`.
        path: the source's name, for the fault's place.
    """
    place = Place(path)
    if shape != "records" and kind == "rollout":
        remedy = "Leave `shape` out: rollouts are read as PPO here writes them, and as nothing else."
        message = f"has the shape {shape}, which makes sft, preference and prompt records"
        return make_fault("bad_source", place, message, field="shape", remedy=remedy)
    if shape == "records":
        wrong = ColumnMap(source, kind, None).unknown_targets()
        what = f"{kind} records"
    else:
        wrong = [name for name in source.columns if name not in (*LAYOUTS[shape].columns, *OWN_FIELDS)]
        what = f"the shape {shape}, which has {', '.join(LAYOUTS[shape].columns)}"
    if not wrong:
        return None
    message = f"has `columns` for what is not a field of {what}: {', '.join(wrong)}"
    return make_fault("bad_source", place, message, field="columns")
