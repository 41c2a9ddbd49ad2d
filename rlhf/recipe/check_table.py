"""What one entry of the table of checks says."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "off"]
"""An error refuses the row and stops a run; a warning is told; what is off is not looked at."""
Group = Literal["source", "syntax", "shape", "record", "content", "across", "tokens"]
"""When a check is made: docs/data_checks.md has a section for each."""


@dataclass(frozen=True, slots=True)
class Check:
    """One kind of fault."""

    group: Group
    severity: Literal["error", "warning"]
    """Unless `data.checks` says otherwise."""
    meaning: str
    """What is wrong, as documentation says it."""
    remedy: str
    """What to do about it."""


def error(group: Group, meaning: str, remedy: str) -> Check:
    """A check whose findings are errors unless `data.checks` says otherwise."""
    return Check(group, "error", meaning, remedy)


def warning(group: Group, meaning: str, remedy: str) -> Check:
    """A check whose findings are warnings unless `data.checks` says otherwise."""
    return Check(group, "warning", meaning, remedy)
