"""Rows that break a rule: they stop the run, or are left out and written down."""

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from rlhf.data.fault import Fault
from rlhf.data.place import Count, Located
from rlhf.data.report import describe_counts
from rlhf.data.scan import Checked, scan_rows
from rlhf.data.separate import quarantined
from rlhf.data.source import source_name
from rlhf.data.survey import Job, survey
from rlhf.data.tally import FaultTally
from rlhf.durable import explain_write_errors, replacing
from rlhf.errors import DataError
from rlhf.recipe.check_codes import BEYOND_ROWS, CHECKS, check_codes
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.data import DataSource, RecordKind
from rlhf_schemas import Record

SHOWN_FAULTS = 20
"""Faults that an error lists."""


class SoundRows:
    """The records of a source that keep every rule, in order; each iteration reads the source anew.

    Args:
        source: where the rows come from; its `on_error` says what becomes of faulty ones.
        kind: which record they are.
        chat: text rows will be wrapped as chat turns.
        checks: severities; of findings in the content and across rows only errors are looked for.
        handled: codes that a later step looks for.
        quarantine: where faulty rows go under `on_error: quarantine`; None: they are only counted.
    """

    def __init__(
        self,
        source: DataSource,
        kind: RecordKind,
        *,
        chat: bool,
        checks: ChecksSection,
        quarantine: Path | None,
        handled: Sequence[str] = (),
    ) -> None:
        self.num_rows = self.num_records = self.num_faulty = 0
        self._source, self._chat, self._checks = source, chat, _refusing(checks, handled)
        self._refused: dict[int, list[Fault]] | None = None
        self._kind: RecordKind = kind
        self._quarantine = quarantine

    def __iter__(self) -> Iterator[Located[Record]]:
        """The records.

        Raises:
            DataError: a fault of a whole file; under `on_error: fail` a faulty row, after all rows are read and counted,
                without a further record once one was met; under `quarantine` more of them than `max_faulty_share`.
        """
        self.num_rows = self.num_records = self.num_faulty = 0
        leaves_out = self._source.on_error == "quarantine"
        with _writing(self._quarantine if leaves_out else None) as file:
            faults, stops, last = FaultTally(SHOWN_FAULTS), False, None
            for checked in self._scan(self._find_refused()):
                errors = checked.faults and [one for one in checked.faults if one.severity == "error"]
                if errors or checked.refused:
                    self.num_faulty += checked.place != last  # a row can make several faulty records
                    last = checked.place
                    stops = stops or not leaves_out or _is_whole_file(checked, errors)
                    for fault in errors:
                        faults.add(fault)
                    if file is not None:
                        row = quarantined(checked, errors)
                        file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                elif checked.record is not None:
                    self.num_records += 1
                    if not stops:
                        yield checked.record
        if leaves_out and self.num_faulty == 0 and self._quarantine is not None:
            self._quarantine.unlink(missing_ok=True)
        if stops or self._is_too_much():
            raise self._error(faults, stops)

    def _find_refused(self) -> dict[int, list[Fault]]:
        """Record -> its errors beside other rows; a pass of its own, made once, where such findings are errors."""
        if self._refused is None:
            found = None
            if any(self._checks.severity.get(code) == "error" for code in check_codes("across")):
                found = survey(Job(self._source, self._kind, self._chat, self._checks))
            self._refused = {} if found is None else found.refused
        return self._refused

    def _scan(self, refused: Mapping[int, list[Fault]]) -> Iterator[Checked]:
        """The rows, with what is found beside other rows."""
        count, ordinal = Count(), -1
        rows = scan_rows(self._source, self._kind, chat=self._chat, checks=self._checks, count=count)
        for checked in rows:
            ordinal += checked.record is not None
            if checked.record is not None and ordinal in refused:
                checked = checked._replace(faults=[*checked.faults, *refused[ordinal]], refused=True)
            yield checked
        self.num_rows = count.rows

    def _is_too_much(self) -> bool:
        return self.num_faulty > self._source.max_faulty_share * self.num_rows

    def _error(self, faults: FaultTally, stops: bool) -> DataError:
        shown = "\n".join(f"  {fault}" for fault in faults.kept[:SHOWN_FAULTS])
        left = faults.num_errors - SHOWN_FAULTS
        more = f"\n  … and {left} more" if left > 0 else ""
        found = f"{describe_counts(faults.counts, lambda _: 'error')}\n{shown}{more}"
        name, see = (
            source_name(self._source),
            f"See them all with `rlhf validate {self._source.path} --as {self._kind}`.",
        )
        if stops:
            return DataError(f"{name}: {found}", see)
        share, limit = self.num_faulty / max(self.num_rows, 1), self._source.max_faulty_share
        message = f"{name}: {share:.2%} of the rows are faulty ({self.num_faulty} of {self.num_rows}), "
        where = "" if self._quarantine is None else f"They lie in {self._quarantine}. "
        return DataError(
            message + f"more than max_faulty_share = {limit:.2%}: {found}",
            where + "Mend them, or raise max_faulty_share.",
        )


def _refusing(checks: ChecksSection, handled: Sequence[str]) -> ChecksSection:
    """The settings with all codes of content and across rows off but those that refuse a row."""
    codes = (*check_codes("content"), *check_codes("across"))
    levels = {code: checks.severity.get(code, CHECKS[code].severity) for code in codes}
    left = (*handled, *BEYOND_ROWS)
    off = [code for code, severity in levels.items() if severity != "error" or code in left]
    return checks.model_copy(update={"severity": checks.severity | dict.fromkeys(off, "off")})


def _is_whole_file(checked: Checked, errors: list[Fault]) -> bool:
    return checked.row is None and any(fault.row is None for fault in errors)


@contextmanager
def _writing(path: Path | None) -> Generator[TextIO | None]:
    with ExitStack() as stack:
        if path is None:
            yield None
            return
        stack.enter_context(explain_write_errors(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        yield stack.enter_context(replacing(path))
