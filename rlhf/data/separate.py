"""The faulty rows of a source in one file with their reasons, and the records of the others in another."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from rlhf.data.fault import Fault
from rlhf.data.scan import Checked, scan_rows
from rlhf.data.survey import Survey
from rlhf.durable import explain_write_errors, replacing


def separate(found: Survey, *, quarantine: Path | None, clean: Path | None) -> None:
    """Read the source once more and write JSON Lines; neither file appears before it is whole.

    Args:
        found: the source's survey, which knows what only shows beside other rows.
        quarantine: file for rows with an error, see `quarantined`.
        clean: file for the records of all other rows, in our own shape, whatever shape the source has.

    Raises:
        UsageError: a file cannot be written.
    """
    job, ordinal = found.job, -1
    with ExitStack() as stack:
        bad = None if quarantine is None else _open(stack, quarantine)
        good = None if clean is None else _open(stack, clean)
        for checked in scan_rows(job.source, job.kind, chat=job.chat, checks=job.checks):
            faults = [fault for fault in checked.faults if fault.severity == "error"]
            if checked.record is not None:
                ordinal += 1
                faults += found.refused.get(ordinal, [])
            if faults or checked.refused:
                _write(bad, quarantined(checked, faults))
            elif checked.record is not None:
                _write(good, checked.record.record.model_dump(exclude_defaults=True))


def _open(stack: ExitStack, path: Path) -> TextIO:
    stack.enter_context(explain_write_errors(path))
    return stack.enter_context(replacing(path))


def _write(file: TextIO | None, row: dict[str, Any]) -> None:
    if file is not None:
        # a Parquet row may hold dates or bytes
        file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def quarantined(checked: Checked, faults: list[Fault]) -> dict[str, Any]:
    """A faulty row as the quarantine file holds it.

    Returns:
        `path`, `line` and `row` of its place, `faults`, and `values`: the row as it was read, null where it could not be.
    """
    place = checked.place
    return {
        "path": place.path,
        "line": place.line,
        "row": place.row,
        "faults": [
            {"code": one.code, "field": one.field, "message": one.message, "remedy": one.remedy}
            for one in faults
        ],
        "values": None if checked.row is None else checked.row.values,
    }
