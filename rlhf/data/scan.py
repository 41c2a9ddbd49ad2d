"""Every row of a source against all checks that need that row alone, as a stream in constant memory."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

from pydantic import ValidationError

from rlhf.data.content import ContentChecks
from rlhf.data.convert import Candidate, convert_rows, detect_shape, source_fault, unknown_shape
from rlhf.data.fault import Fault, make_fault
from rlhf.data.place import Count, Located, Place, Row
from rlhf.data.plain import is_plain
from rlhf.data.rules import faults_of
from rlhf.data.source import find_format, read_rows, source_name
from rlhf.recipe.checks import ChecksSection, Severity
from rlhf.recipe.data import DataSource, FileFormat, RecordKind, Shape
from rlhf_schemas import RECORDS, PreferenceRecord, Record, SFTRecord

_TEXT_FORMATS = ("jsonl", "json", "text")
"""Formats whose rows have columns each of their own; a table has the same ones in every row."""


class Checked(NamedTuple):
    """What one row came to."""

    row: Row | None
    """As it stands in the file; None where it could not be read, and for faults of a whole file."""
    record: Located[Record] | None
    """None where a fault is an error; a row that makes several records is given once for each."""
    faults: list[Fault]
    """Errors and warnings of this row; of a table's columns the first row with each alone."""
    refused: bool = False
    """Whether one of its own faults was an error, told here or before."""
    is_plain: bool = False
    """Whether it is a valid record that was not built, since nobody asked for it."""

    @property
    def place(self) -> Place:
        """Where the row lies, or the fault of reading."""
        if self.row is not None:
            return self.row.place
        return Place(self.faults[0].path, self.faults[0].line, self.faults[0].row)


def scan(
    source: DataSource, kind: RecordKind, *, chat: bool = False, checks: ChecksSection | None = None
) -> Iterator[Located[Record] | Fault]:
    """Each row in order: its faults, and its record unless one of them is an error; constant memory.

    Args:
        source: where the rows come from.
        kind: which record they are.
        chat: text rows will be wrapped as a user's and an assistant's turn; rows that cannot be are faults.
        checks: what is looked for; content is checked only where this is given.
    """
    for checked in scan_rows(source, kind, chat=chat, checks=checks):
        yield from checked.faults
        if checked.record is not None:
            yield checked.record


def scan_rows(
    source: DataSource,
    kind: RecordKind,
    *,
    chat: bool = False,
    checks: ChecksSection | None = None,
    count: Count | None = None,
) -> Iterator[Checked]:
    """As `scan`, with the rows themselves, for those who write them elsewhere.

    Args:
        source, kind, chat, checks: see `scan`.
        count: told the rows that were read; rows that make one record together come here as one.
    """
    rows = read_rows(source) if count is None else count_rows(read_rows(source), count)
    checker, rows = open_checker(source, kind, rows, chat=chat, checks=checks)
    if isinstance(checker, Fault):
        yield Checked(None, None, [checker])
        return
    num_items = 0
    for checked in checker.check(rows):
        num_items += 1
        yield checked
    if num_items == 0:
        yield Checked(None, None, [empty(source)])


def count_rows(rows: Iterable[Row | Fault], count: Count) -> Iterator[Row | Fault]:
    """The same, counted as they pass; a fault beside a row is of that row."""
    last = None
    for item in rows:
        path, row = (item.place.path, item.place.row) if isinstance(item, Row) else (item.path, item.row)
        count.rows += row is not None and (path, row) != last
        last = (path, row)
        yield item


def empty(source: DataSource, num_rows: int = 0) -> Fault:
    """A source without rows, or without any that makes a record."""
    message = "has no row that makes a record" if num_rows else "has no rows"
    return make_fault("empty", Place(source_name(source)), message)


def open_checker(
    source: DataSource,
    kind: RecordKind,
    rows: Iterator[Row | Fault],
    *,
    chat: bool = False,
    checks: ChecksSection | None = None,
) -> tuple["RowChecker | Fault", Iterator[Row | Fault]]:
    """The checker for the shape that the first row shows, or why there is none; and the rows, that one included.

    Args:
        source, kind, chat, checks: see `scan`.
        rows: the source's rows; read up to the first one that is not a fault.
    """
    read: list[Row | Fault] = []
    for item in rows:
        read.append(item)
        if isinstance(item, Row):
            break
    rows = chain(read, rows)
    first = read[-1] if read and isinstance(read[-1], Row) else None
    shape = "records" if first is None else detect_shape(source, kind, first)
    if shape is None:
        assert first is not None, "without a row every shape is possible"
        return unknown_shape(source, kind, first), rows
    if fault := source_fault(source, kind, shape, source_name(source)):
        return fault, rows  # under a wrong mapping every row would be faulty
    return RowChecker(source, kind, shape, chat=chat, checks=checks), rows


class RowChecker:
    """Rows of one source to records and faults; where it starts in a file makes no difference.

    Args:
        source, kind, chat, checks: see `scan`.
        shape: how the rows are laid out.
        with_records: False: records may be left out where that is quicker, see `Checked.is_plain`.
    """

    def __init__(
        self,
        source: DataSource,
        kind: RecordKind,
        shape: Shape,
        *,
        chat: bool = False,
        checks: ChecksSection | None = None,
        with_records: bool = True,
    ) -> None:
        self.shape: Shape = shape
        self._source, self._chat = source, chat
        self._kind: RecordKind = kind
        self._format: FileFormat | None = find_format(source)
        self._record = RECORDS[kind]
        self._skips_plain = not with_records and not chat and checks is None
        # What a policy sampled is what it is: nobody mends it.
        self._content = None if checks is None or kind == "rollout" else ContentChecks(checks, kind)
        self._severity: Mapping[str, Severity] = {} if checks is None else checks.severity
        # one fault a column and file, not one a row
        self._told: set[tuple[str, str, str | None]] | None = None if self._format in _TEXT_FORMATS else set()

    def check(self, rows: Iterable[Row | Fault]) -> Iterator[Checked]:
        """The rows in order; a fault of reading passes through."""
        for item in convert_rows(rows, self._source, self._kind, self._format, self.shape):
            if isinstance(item, Fault):
                if faults := self._graded([item]):
                    yield Checked(None, None, faults, item.row is not None and faults[0].severity == "error")
            else:
                yield self._check(item)

    def _check(self, candidate: Candidate) -> Checked:
        fields, row, faults = candidate
        if self._skips_plain and fields is not None and not faults and is_plain(fields, self._kind):
            return Checked(row, None, faults, is_plain=True)
        record = None
        if fields is not None:
            try:
                record = self._record.model_validate(fields)
            except ValidationError as error:
                # what the mapping could not read, the record's rules would only call missing
                unread = {fault.field for fault in faults}
                broken = faults_of(error, fields, row, self._source.columns)
                faults = [*faults, *(fault for fault in broken if fault.field not in unread)]
        if record is not None:
            if self._chat and (message := _unwrappable(record)):
                faults = [*faults, make_fault("cannot_chat", row.place, message)]
            if self._content is not None:
                faults = [*faults, *self._content.find(record, row.place)]
        if not faults:
            return Checked(row, None if record is None else Located(record, row.place), faults)
        graded = self._graded(faults)
        refused = any(fault.severity == "error" for fault in graded)
        kept = None if record is None or refused else Located(record, row.place)
        return Checked(row, kept, graded if self._told is None else self._untold(graded), refused)

    def _graded(self, faults: list[Fault]) -> list[Fault]:
        """The faults with the severities that the recipe gives them."""
        return (
            faults
            if not self._severity
            else [one for fault in faults if (one := grade(fault, self._severity))]
        )

    def _untold(self, faults: list[Fault]) -> list[Fault]:
        """Without what was said of the same file's column before."""
        assert self._told is not None, "only tables"
        left: list[Fault] = []
        for fault in faults:
            key = (fault.path, fault.code, fault.field)
            if not _is_column(fault):
                left.append(fault)
            elif key not in self._told:
                self._told.add(key)
                is_lined = self._format in ("csv", "tsv")
                left.append(replace(fault, line=1 if is_lined else None, row=None, value=None))
        return left


def grade(fault: Fault, severities: Mapping[str, Severity]) -> Fault | None:
    """The fault with the severity that the recipe gives its code; None where that is off."""
    severity = severities.get(fault.code)
    if severity is None or severity == fault.severity:
        return fault
    if severity == "off":
        return None
    return replace(fault, severity="error" if severity == "error" else "warning")


def _is_column(fault: Fault) -> bool:
    """Whether the fault is about a whole column, not about a message inside a cell."""
    return fault.code in ("unknown_field", "missing_field") and "[" not in (fault.field or "")


def _unwrappable(record: Record) -> str | None:
    if isinstance(record, SFTRecord) and record.text is not None:
        return "is plain text, which has no turns to put in a chat"
    if isinstance(record, PreferenceRecord) and record.prompt is None and isinstance(record.chosen, str):
        return "is a pair of texts whose prompt has no marked end, so it has no turns to put in a chat"
    return None
