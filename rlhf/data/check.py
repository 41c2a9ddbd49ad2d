"""Every row of a source against its record's rules: as a stream, as a report, or as records to train on."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, overload

from pydantic import ValidationError

from rlhf.data.columns import ColumnMap
from rlhf.data.fault import Fault, make_fault
from rlhf.data.place import Located, Place, Row
from rlhf.data.report import Report, describe_counts
from rlhf.data.rules import faults_of
from rlhf.data.source import digest_source, find_format, read_rows, source_name
from rlhf.errors import DataError
from rlhf.recipe.data import DataSource, RecordKind
from rlhf_schemas import RECORDS, PreferenceRecord, PromptRecord, Record, RolloutRecord, SFTRecord

MAX_FAULTS = 1000
"""Faults that a report keeps in detail."""
SHOWN_FAULTS = 20
"""Faults that `load` lists in its error."""
_KEPT_PER_CODE = 10


def scan(source: DataSource, kind: RecordKind, *, chat: bool = False) -> Iterator[Located[Record] | Fault]:
    """Each row in order as a record, or as all its faults; constant memory.

    Args:
        source: where the rows come from.
        kind: which record they are.
        chat: text rows will be wrapped as a user's and an assistant's turn; rows that cannot be are faults.
    """
    fmt = find_format(source)
    mapping = ColumnMap(source, kind, fmt)
    if wrong := mapping.unknown_targets():
        names = ", ".join(wrong)
        message = f"has `columns` for what is not a field of {kind} records: {names}"
        yield make_fault("bad_source", Place(source_name(source)), message, field="columns")
        return  # under a wrong mapping every row would be faulty
    # a table has the same columns in every row: one fault for the file, not one a row
    told: set[tuple[str, str | None]] | None = None if fmt in ("jsonl", "json") else set()
    num_items = 0
    for item in read_rows(source):
        num_items += 1
        results = [item] if isinstance(item, Fault) else _check_row(item, mapping, kind, source, chat)
        for result in results:
            if told is None or isinstance(result, Located) or not _is_column(result):
                yield result
            elif (result.code, result.field) not in told:
                told.add((result.code, result.field))
                yield replace(result, line=1 if fmt == "csv" else None, row=None, value=None)
    if num_items == 0:
        yield make_fault("empty", Place(source_name(source)), "has no rows")


def _is_column(fault: Fault) -> bool:
    """Whether the fault is about a whole column, not about a message inside a cell."""
    return fault.code in ("unknown_field", "missing_field") and "[" not in (fault.field or "")


def _check_row(
    row: Row, mapping: ColumnMap, kind: RecordKind, source: DataSource, chat: bool
) -> list[Located[Record] | Fault]:
    fields, faults = mapping.fields(row)
    if any(fault.code == "null_prompt" for fault in faults):
        return [*faults]  # without its prompt, the pair's other rules would say what is not so
    unread = {fault.field for fault in faults}
    try:
        record = RECORDS[kind].model_validate(fields)
    except ValidationError as error:
        broken = faults_of(error, fields, row, source.columns)
        return [*faults, *(fault for fault in broken if fault.field not in unread)]
    if chat and (message := _unwrappable(record)):
        faults.append(make_fault("cannot_chat", row.place, message))
    return [*faults] if faults else [Located(record, row.place)]


def _unwrappable(record: Record) -> str | None:
    if isinstance(record, SFTRecord) and record.text is not None:
        return "is plain text, which has no turns to put in a chat"
    if isinstance(record, PreferenceRecord) and record.prompt is None and isinstance(record.chosen, str):
        return "is a pair of texts whose prompt has no marked end, so it has no turns to put in a chat"
    return None


class _Tally:
    """Counts every fault and keeps some in detail: the first `limit`, and a few of each code that comes later."""

    def __init__(self, limit: int) -> None:
        self.counts: Counter[str] = Counter()
        self.kept: list[Fault] = []
        self._limit = limit

    def add(self, fault: Fault) -> None:
        self.counts[fault.code] += 1
        if len(self.kept) < self._limit or self.counts[fault.code] <= _KEPT_PER_CODE:
            self.kept.append(fault)


def check(
    source: DataSource, kind: RecordKind, *, chat: bool = False, max_faults: int = MAX_FAULTS
) -> Report:
    """Read all of a source and report every fault; constant memory.

    Args:
        source: where the rows come from.
        kind: which record they are.
        chat: text rows will be wrapped as chat turns; rows that cannot be are faults.
        max_faults: how many faults to keep in detail; of each further code the first 10 are kept besides.
    """
    tally, num_rows = _Tally(max_faults), 0
    for item in scan(source, kind, chat=chat):
        row = item.row if isinstance(item, Fault) else item.place.row
        num_rows = max(num_rows, row or 0)
        if isinstance(item, Fault):
            tally.add(item)
    return Report(
        path=source_name(source),
        kind=kind,
        format=find_format(source),
        num_rows=num_rows,
        num_faults=tally.counts.total(),
        counts=dict(tally.counts),
        faults=tally.kept,
        # a hub data set that did not load would be asked for a second time, with all its retries
        sha256=None if "hub_unavailable" in tally.counts else digest_source(source),
    )


@overload
def load(source: DataSource, kind: Literal["sft"], *, chat: bool = ...) -> list[Located[SFTRecord]]: ...
@overload
def load(
    source: DataSource, kind: Literal["preference"], *, chat: bool = ...
) -> list[Located[PreferenceRecord]]: ...
@overload
def load(source: DataSource, kind: Literal["prompt"], *, chat: bool = ...) -> list[Located[PromptRecord]]: ...
@overload
def load(
    source: DataSource, kind: Literal["rollout"], *, chat: bool = ...
) -> list[Located[RolloutRecord]]: ...
def load(source: DataSource, kind: RecordKind, *, chat: bool = False) -> list[Any]:
    """All of a source's records with their places.

    Raises:
        DataError: if a single row is faulty; lists the first faults and counts all.
    """
    tally, records = _Tally(SHOWN_FAULTS), list[Located[Record]]()
    for item in scan(source, kind, chat=chat):
        if isinstance(item, Fault):
            tally.add(item)
        elif not tally.kept:
            records.append(item)
    if tally.kept:
        shown = "\n".join(f"  {fault}" for fault in tally.kept[:SHOWN_FAULTS])
        total = tally.counts.total()
        raise DataError(
            f"{source_name(source)}: {describe_counts(tally.counts)}\n{shown}"
            + (f"\n  … and {total - SHOWN_FAULTS} more" if total > SHOWN_FAULTS else ""),
            f"See them all with `rlhf validate {source.path} --as {kind}`.",
        )
    return records
