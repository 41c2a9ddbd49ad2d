"""What was found in one source, for people and for machines."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from rlhf.data.fault import Fault
from rlhf.data.place import Place, one_line, where
from rlhf.recipe.check_codes import CHECKS
from rlhf.recipe.data import FileFormat, RecordKind, Shape

SHOWN_WARNINGS = 3
"""Examples of each warning that the text report lists."""
SHOWN_ERRORS = 10
"""Examples of each error in each field that it lists."""


@dataclass(frozen=True, slots=True)
class Offender:
    """A row with many findings."""

    path: str
    line: int | None
    row: int | None
    codes: Sequence[str]
    """One entry a finding."""


@dataclass(frozen=True, slots=True)
class Report:
    """The check of one source."""

    path: str
    """The files, or the hub data set with its split."""
    kind: RecordKind
    format: FileFormat | None
    """None where the suffix names none."""
    num_rows: int
    """Rows read, broken ones included."""
    num_faults: int
    """All errors, those beyond the kept ones included."""
    counts: Mapping[str, int]
    """Code -> how often, errors and warnings."""
    faults: Sequence[Fault]
    """The kept findings, errors and warnings, in the order of the rows; those about the whole source at the end."""
    sha256: str | None
    """Digest of the files' bytes, or of a hub data set's rows; None where they cannot be read, or for rules alone."""
    shape: Shape | None = None
    """How the rows are laid out; None where that was not found out."""
    num_records: int = 0
    """Records without an error; a rated list can make several."""
    num_faulty_rows: int = 0
    """Rows with at least one error."""
    num_lasting: int = 0
    """Errors that leaving rows out does not mend, such as a file that ends too early or a leak."""
    num_warnings: int = 0
    """All warnings."""
    lengths: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    """Field -> how many texts have fewer than 1, 2, 4, 8, ... characters: entry i counts lengths in [2^(i-1), 2^i)."""
    facts: Mapping[str, float] = field(default_factory=dict[str, float])
    """What was measured over the whole source, such as `chosen_longer_share`."""
    worst: Sequence[Offender] = ()
    """The rows with the most findings, the worst first."""
    max_faulty_share: float = 0.0
    """Up to this share of faulty rows may be left out (`on_error: quarantine`); 0: none."""

    def severity(self, code: str) -> Literal["error", "warning"]:
        """How severe the code's findings are here, where settings may have changed its default."""
        first = next((fault for fault in self.faults if fault.code == code), CHECKS[code])
        return first.severity

    def codes(self) -> list[str]:
        """The codes found: errors first, the most frequent first."""
        return sorted(self.counts, key=lambda code: (self.severity(code), -self.counts[code], code))

    @property
    def refuses(self) -> bool:
        """Whether a run must not start with this source: faulty rows alone can be set aside, and no more than their share."""
        return self.num_lasting > 0 or self.num_faulty_rows > self.max_faulty_share * self.num_rows

    @property
    def found(self) -> str:
        """All findings in one line."""
        return describe_counts(self.counts, self.severity)

    def as_dict(self) -> dict[str, object]:
        """The report as JSON holds it."""
        return asdict(self)

    def as_text(self) -> str:
        """One line on the source, then one line a kept error and the first warnings of each code, then what was left out."""
        digest = "" if self.sha256 is None else f", sha256 {self.sha256[:12]}"
        rows = f"{self.num_rows} {self.kind} rows"
        if self.num_records and self.num_records not in (self.num_rows, self.num_rows - self.num_faulty_rows):
            rows += f" that make {self.num_records} records"
        lines = [f"{one_line(self.path)}: {rows}, {self.found}{digest}", *self._errors(), *self._warnings()]
        if self.num_faulty_rows and not self.refuses:
            share = (
                f"{self.num_faulty_rows} of {self.num_rows} rows, up to {self.max_faulty_share:.1%} allowed"
            )
            lines.append(f"  the faulty rows are left out ({share})")
        return "\n".join(lines + self._offenders())

    def _errors(self) -> list[str]:
        """In the order of the rows; of each kind in each field the first ones."""
        seen = Counter[tuple[str, str | None]]()
        lines: list[str] = []
        for fault in self.faults:
            if fault.severity == "error":
                seen[fault.code, fault.field] += 1
                if seen[fault.code, fault.field] <= SHOWN_ERRORS:
                    lines.append(f"  {fault}")
        if len(lines) < self.num_faults:
            lines.append(f"  … and {self.num_faults - len(lines)} more, counted above")
        return lines

    def _warnings(self) -> list[str]:
        lines: list[str] = []
        warnings = [fault for fault in self.faults if fault.severity == "warning"]
        for code in dict.fromkeys(fault.code for fault in warnings):
            shown = [fault for fault in warnings if fault.code == code][:SHOWN_WARNINGS]
            lines += [f"  warning: {fault}" for fault in shown]
            if (left := self.counts[code] - len(shown)) > 0:
                lines.append(f"    … and {left} more of {code}")
        return lines

    def _offenders(self) -> list[str]:
        worst = [one for one in self.worst if len(one.codes) > 1]
        if not worst:
            return []
        lines = ["  rows with the most findings:"]
        for one in worst:
            lines.append(f"    {where(Place(one.path, one.line, one.row))}: {', '.join(one.codes)}")
        return lines


def describe_counts(
    counts: Mapping[str, int],
    severity: Callable[[str], str] = lambda code: CHECKS[code].severity,
) -> str:
    """How many errors and warnings, and which, the most frequent first: `4 faults (blank 3, roles 1), 1 warning (html 1)`.

    Args:
        counts: code -> how often.
        severity: code -> how severe, where settings may have changed it.
    """
    told = [
        _describe({code: count for code, count in counts.items() if severity(code) == level}, noun)
        for level, noun in (("error", "fault"), ("warning", "warning"))
    ]
    return ", ".join(part for part in told if part) or "no faults"


def _describe(counts: Mapping[str, int], noun: str) -> str:
    if not counts:
        return ""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    codes = ", ".join(f"{code} {count}" for code, count in ordered)
    return f"{plural(sum(counts.values()), noun)} ({codes})"


def plural(count: int, noun: str) -> str:
    """The count with its noun: `1 error`, `1,200 errors`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def render_text(reports: Sequence[Report]) -> str:
    """All reports as plain text, without a line break at the end."""
    return "\n".join(report.as_text() for report in reports)


def render_json(reports: Sequence[Report]) -> dict[str, object]:
    """All reports with their totals, ready for `json.dumps`."""
    return {
        "num_rows": sum(report.num_rows for report in reports),
        "num_faults": sum(report.num_faults for report in reports),
        "num_warnings": sum(report.num_warnings for report in reports),
        "reports": [report.as_dict() for report in reports],
    }
