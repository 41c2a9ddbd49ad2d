"""What was found in one source, for people and for machines."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rlhf.data.fault import Fault
from rlhf.recipe.data import FileFormat, RecordKind


@dataclass(frozen=True, slots=True)
class Report:
    """The check of one source."""

    path: str
    """The file, or the hub data set with its split."""
    kind: RecordKind
    format: FileFormat | None
    """None where the suffix names none."""
    num_rows: int
    """Rows read, broken ones included."""
    num_faults: int
    """All faults, those beyond the kept ones included."""
    counts: Mapping[str, int]
    """Fault code -> how often."""
    faults: Sequence[Fault]
    """The kept faults, in the order of the rows."""
    sha256: str | None
    """Digest of the file's bytes, or of a hub data set's rows; None where it cannot be read."""

    def as_dict(self) -> dict[str, object]:
        """The report as JSON holds it."""
        return asdict(self)

    def as_text(self) -> str:
        """One line on the source, then one line a kept fault, then what was left out."""
        digest = "" if self.sha256 is None else f", sha256 {self.sha256[:12]}"
        lines = [f"{self.path}: {self.num_rows} {self.kind} rows, {describe_counts(self.counts)}{digest}"]
        lines += [f"  {fault}" for fault in self.faults]
        if len(self.faults) < self.num_faults:
            lines.append(f"  … and {self.num_faults - len(self.faults)} more")
        return "\n".join(lines)


def describe_counts(counts: Mapping[str, int]) -> str:
    """How many faults, and which, the most frequent first: `4 faults (blank 3, roles 1)`."""
    total = sum(counts.values())
    if total == 0:
        return "no faults"
    codes = ", ".join(
        f"{code} {n}" for code, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
    return f"{total} fault{'s' if total > 1 else ''} ({codes})"


def render_text(reports: Sequence[Report]) -> str:
    """All reports as plain text, without a line break at the end."""
    return "\n".join(report.as_text() for report in reports)


def render_json(reports: Sequence[Report]) -> dict[str, object]:
    """All reports with their totals, ready for `json.dumps`."""
    return {
        "num_rows": sum(report.num_rows for report in reports),
        "num_faults": sum(report.num_faults for report in reports),
        "reports": [report.as_dict() for report in reports],
    }
