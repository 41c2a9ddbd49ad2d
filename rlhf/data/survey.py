"""A whole source against every check, on all cores: blocks of its files are read apart and put together in order.

Memory: a block a process, and for the checks across rows 24 bytes a record (near-duplicates need more: see
`rlhf.data.across`).
"""

import gc
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from rlhf.data.across import Across, Finding, Tally
from rlhf.data.blocks import Block, BlockReader, list_blocks, move
from rlhf.data.convert import is_grouped
from rlhf.data.cores import on_all_cores
from rlhf.data.fault import Fault, make_fault
from rlhf.data.place import Count, Place, Row, where
from rlhf.data.places import Places
from rlhf.data.progress import TOLD_ROWS, Progress
from rlhf.data.report import Offender
from rlhf.data.scan import Checked, RowChecker, count_rows, empty, grade, open_checker
from rlhf.data.source import digest_source, read_rows, source_name
from rlhf.data.tally import MAX_FAULTS, FaultTally, Worst
from rlhf.data.texts import TEXT_FIELDS
from rlhf.recipe.check_codes import BEYOND_ROWS
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.data import DataSource, RecordKind, Shape


@dataclass(frozen=True)
class Job:
    """What every process needs to know; `shape` is found out by the first row and then fixed."""

    source: DataSource
    kind: RecordKind
    chat: bool = False
    checks: ChecksSection | None = None
    max_faults: int = MAX_FAULTS
    shape: Shape = "records"

    def checker(self) -> RowChecker:
        """One for a block, since what was told of a table's columns is told once a file."""
        return RowChecker(
            self.source,
            self.kind,
            self.shape,
            chat=self.chat,
            checks=self.checks,
            with_records=self.checks is not None,
        )


@dataclass
class Survey:
    """What was found in a source, or in a block of it."""

    job: Job
    num_rows: int = 0
    num_lines: int = 0
    num_records: int = 0
    num_faulty_rows: int = 0
    num_lasting: int = 0
    """Errors that leaving rows out does not mend."""
    found: FaultTally = field(default_factory=FaultTally)
    worst: Worst = field(default_factory=Worst)
    lengths: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """Field -> counts by the number of bits of the length in characters."""
    places: Places = field(default_factory=Places)
    """Of the records, for findings across them."""
    tally: Tally | None = None
    """Of a block."""
    across: Across | None = None
    """Of the whole source."""
    refused: dict[int, list[Fault]] = field(default_factory=dict[int, list[Fault]])
    """Record -> its errors that only show beside other rows."""
    refused_rows: set[Place] = field(default_factory=set[Place])
    """The rows of these."""
    last_faulty: Place | None = None
    """A row that makes several faulty records is one faulty row."""
    sha256: str | None = None
    """Digest of the source; None where it cannot be read."""

    def add(self, checked: Checked) -> None:
        """Take in one row's outcome."""
        for fault in checked.faults:
            self.found.add(fault)
        if checked.refused and checked.place != self.last_faulty:
            self.num_faulty_rows += 1
            self.last_faulty = checked.place
        if checked.row is None:
            self.num_lasting += sum(one.row is None and one.severity == "error" for one in checked.faults)
        if len(checked.faults) > 1 and checked.row is not None:
            place = checked.row.place
            codes = [fault.code for fault in checked.faults]
            self.worst.add(Offender(place.path, place.line, place.row, codes))
        self.num_records += checked.is_plain
        if checked.record is None:
            return
        self.num_records += 1
        if self.tally is not None:
            record, place = checked.record.record, checked.record.place
            self.tally.add(record, place.path)
            self.places.add(place)
            self._measure(checked)

    def note(self, fault: Fault) -> None:
        """Take in a finding that was made elsewhere, at its final place and severity; no row is set aside for it."""
        self.found.add(fault)
        self.num_lasting += fault.severity == "error"
        self.num_faulty_rows += fault.severity == "error" and fault.row is not None

    def _measure(self, checked: Checked) -> None:
        assert checked.record is not None, "the caller has looked"
        for name in TEXT_FIELDS[self.job.kind]:
            turns = getattr(checked.record.record, name)
            if turns is None:
                continue
            counts = self.lengths.get(name)
            if counts is None:
                counts = self.lengths[name] = [0] * 40
            for text in (turns,) if isinstance(turns, str) else [message.content for message in turns]:
                counts[len(text).bit_length()] += 1

    def extend(self, block: "Survey", lines: int, rows: int) -> None:
        """Take in the next block, which begins after so many lines and rows of its file."""
        self.num_rows += block.num_rows
        self.num_records += block.num_records
        self.num_faulty_rows += block.num_faulty_rows
        self.num_lasting += block.num_lasting
        self.found.extend(block.found, [move(fault, lines, rows) for fault in block.found.kept])
        for one in block.worst.offenders:
            self.worst.add(move(one, lines, rows))
        for name, counts in block.lengths.items():
            sums = self.lengths.setdefault(name, [0] * len(counts))
            self.lengths[name] = [one + other for one, other in zip(sums, counts, strict=True)]
        if self.across is not None and block.tally is not None:
            self.places.extend(block.places, lines, rows)
            self.across.extend(block.tally)


def survey(job: Job, progress: Progress | None = None) -> Survey:
    """Read all of a source; findings across its rows included, those beside other sources not.

    Args:
        job: what to check; content and rows beside each other only where it has `checks`.
        progress: called now and then.
    """
    whole = Survey(job, found=FaultTally(job.max_faults))
    checker, rows = open_checker(
        job.source, job.kind, read_rows(job.source, progress), chat=job.chat, checks=job.checks
    )
    if isinstance(checker, Fault):
        whole.note(checker)
        return whole
    job = replace(job, shape=checker.shape)
    whole.job = job
    if job.checks is not None:
        whole.across = Across(job.kind, job.checks)
    blocks = [] if is_grouped(job.shape, job.kind) else list_blocks(job.source)
    if blocks:
        _survey_blocks(whole, blocks, progress)
    else:
        whole.extend(_survey_rows(job, checker, rows), 0, 0)
        # a hub data set that did not load would be asked for a second time, with all its retries
        whole.sha256 = None if "hub_unavailable" in whole.found.counts else _digest(job)
    if whole.num_records == 0 and whole.found.num_errors == 0:
        whole.note(empty(job.source, whole.num_rows))
    _look_across(whole)
    return whole


def _survey_rows(job: Job, checker: RowChecker, rows: Iterator[Row | Fault]) -> Survey:
    """A source that is read in one go; its rows are counted on the way."""
    part, count = _start(job), Count()
    for checked in checker.check(count_rows(rows, count)):
        part.add(checked)
    part.num_rows = count.rows
    return part


def _start(job: Job) -> Survey:
    tally = None if job.checks is None else Tally(job.kind, job.checks)
    return Survey(job, found=FaultTally(job.max_faults), tally=tally)


def survey_block(job: Job, block: Block, tell: Progress | None = None) -> Survey:
    """One block; places count from its start. `tell` is called with how much of it is done."""
    part = _start(job)
    reader = BlockReader(block)
    # Nothing here makes reference cycles, and looking for them among millions of short-lived objects takes a third of the time.
    gc.disable()
    try:
        for index, checked in enumerate(job.checker().check(reader)):
            part.add(checked)
            if tell is not None and index % TOLD_ROWS == 0:
                tell(reader.share)
    finally:
        gc.enable()
    part.num_rows, part.num_lines = reader.num_rows, reader.num_lines
    return part


def _survey_blocks(whole: Survey, blocks: list[Block], progress: Progress | None) -> None:
    path, lines, rows = blocks[0].path, 0, 0

    def take(block: Block, part: Survey) -> None:
        nonlocal path, lines, rows
        if block.path != path:
            path, lines, rows = block.path, 0, 0
        whole.extend(part, lines, rows)
        lines += part.num_lines
        rows += part.num_rows

    work, beside = partial(survey_block, whole.job), partial(_digest, whole.job)
    whole.sha256 = on_all_cores(work, blocks, take, beside=beside, progress=progress)


def _digest(job: Job) -> str | None:
    """Of the source's bytes; left out with all but the rules, since it takes half as long as these."""
    return None if job.checks is None else digest_source(job.source)


def _look_across(whole: Survey) -> None:
    if whole.across is not None:
        for finding in whole.across.findings():
            add_finding(whole, finding, beside=whole)


def add_finding(held: Survey, finding: Finding, *, beside: Survey) -> None:
    """Take in a finding across rows.

    Args:
        held: the survey whose record it is about.
        finding: what was found; `other` is a record of `beside`.
        beside: the survey in which the other record lies.
    """
    ordinal, other = finding.ordinal, finding.other
    place = Place(source_name(held.job.source)) if ordinal is None else held.places[ordinal]
    message = finding.message if other is None else f"{finding.message} {where(beside.places[other])}"
    severities = {} if held.job.checks is None else held.job.checks.severity
    fault = grade(make_fault(finding.code, place, message, field=finding.field), severities)
    if fault is None:
        return
    held.found.add(fault)
    if fault.severity != "error":
        return
    if ordinal is None or finding.code in BEYOND_ROWS:
        held.num_lasting += 1
    else:
        held.num_faulty_rows += place not in held.refused_rows
        held.refused_rows.add(place)
        held.refused.setdefault(ordinal, []).append(fault)
