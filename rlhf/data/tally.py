"""Findings counted, and some kept: what a report has to say of them."""

from collections import Counter

from rlhf.data.fault import Fault
from rlhf.data.report import Offender

MAX_FAULTS = 1000
"""Errors that a report keeps in detail."""
MAX_WARNINGS = 200
"""Warnings that it keeps."""
KEPT_PER_CODE = 10
"""Findings of each code that are kept in any case."""
NUM_OFFENDERS = 5


class FaultTally:
    """Counts every finding and keeps the first ones, and a few of each code that comes later.

    Args:
        max_faults: errors to keep.
    """

    def __init__(self, max_faults: int = MAX_FAULTS) -> None:
        self.counts: Counter[str] = Counter()
        self.num_errors = 0
        self.num_warnings = 0
        self.kept: list[Fault] = []
        self._limits = {"error": max_faults, "warning": MAX_WARNINGS}

    def add(self, fault: Fault) -> None:
        """Count it, and keep it where there is room."""
        self.counts[fault.code] += 1
        if fault.severity == "error":
            self.num_errors += 1
        else:
            self.num_warnings += 1
        if self._limits[fault.severity] > 0 or self.counts[fault.code] <= KEPT_PER_CODE:
            self._limits[fault.severity] -= 1
            self.kept.append(fault)

    def extend(self, other: "FaultTally", kept: list[Fault]) -> None:
        """The findings of the rows that follow.

        Args:
            other: their counts.
            kept: what it kept, at their places in the whole file.
        """
        for fault in kept:
            self.add(fault)
        left = other.counts - Counter(fault.code for fault in other.kept)
        self.counts += left
        kept_errors = sum(fault.severity == "error" for fault in other.kept)
        self.num_errors += other.num_errors - kept_errors
        self.num_warnings += other.num_warnings - (len(other.kept) - kept_errors)


class Worst:
    """The rows with the most findings."""

    def __init__(self) -> None:
        self.offenders: list[Offender] = []

    def add(self, offender: Offender) -> None:
        """Keep it if it is among the worst."""
        if len(self.offenders) == NUM_OFFENDERS and len(offender.codes) <= len(self.offenders[-1].codes):
            return
        self.offenders.append(offender)
        self.offenders.sort(key=lambda one: -len(one.codes))  # stable: the earlier row stays first
        del self.offenders[NUM_OFFENDERS:]
