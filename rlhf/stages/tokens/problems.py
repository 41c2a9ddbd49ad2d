"""All rows of a split that cannot be trained on, told in one error with their places."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rlhf.data import Place
from rlhf.data.place import where
from rlhf.errors import DataError
from rlhf.recipe.checks import Severity
from rlhf.stages.tokens.outcome import Outcome, OverLength, Verdict

SHOWN_ROWS = 20
_CODES: dict[Verdict, str] = {"refused": "cannot_encode", "no_label": "no_label"}


class RowProblems:
    """Counts rows by verdict, and keeps the places of the first.

    Args:
        name: the setting that limits the length.
        limit: its value, in tokens.
        over_length: the recipe's rule; longer rows are a problem under `error` alone.
        remedies: verdict -> what to do.
        severity: of checks, where the recipe sets it; rows that it makes no error of are left out and counted.
    """

    def __init__(
        self,
        name: str,
        limit: int,
        over_length: OverLength,
        remedies: Mapping[Verdict, str],
        severity: Mapping[str, Severity],
    ) -> None:
        self.counts: Counter[Verdict] = Counter()
        self._lines: dict[Verdict, list[str]] = {}
        self._longest = 0
        self._limited = f"{name}={limit}"
        self._remedies = remedies
        self._problems = [one for one, code in _CODES.items() if severity.get(code, "error") == "error"]
        if over_length == "error":
            self._problems.append("too_long")

    def add(self, place: Place, outcome: Outcome[Any]) -> None:
        """Take one row's outcome."""
        verdict = outcome.verdict
        self.counts[verdict] += 1
        if verdict not in self._problems:
            return
        lines = self._lines.setdefault(verdict, [])
        self._longest = max(self._longest, outcome.length)
        if len(lines) < SHOWN_ROWS:
            lines.append(f"  {where(place)}{_detail(outcome)}")

    @property
    def num_dropped(self) -> int:
        """Rows of which there are no tokens."""
        return sum(self.counts[verdict] for verdict in ("too_long", "equal", "no_label", "refused"))

    def __bool__(self) -> bool:
        return bool(self._lines)

    def raise_found(self) -> None:
        """Nothing where all rows can be trained on.

        Raises:
            DataError: rows that cannot be encoded; else rows left without a label; else rows that are too long.
        """
        for verdict in self._problems:
            if verdict in self._lines:
                raise DataError(self._message(verdict), self._remedies.get(verdict))

    def _message(self, verdict: Verdict) -> str:
        count, lines = self.counts[verdict], self._lines[verdict]
        what = {
            "refused": "cannot be encoded",
            "no_label": f"would have no label left within {self._limited}",
            "too_long": f"are longer than {self._limited} tokens (longest {self._longest})",
        }[verdict]
        more = f"\n  … and {count - len(lines)} more" if count > len(lines) else ""
        return f"{count} row(s) {what}:\n" + "\n".join(lines) + more


def _detail(outcome: Outcome[Any]) -> str:
    if outcome.verdict == "refused":
        return f": {outcome.message}" + (f" {outcome.remedy}" if outcome.remedy else "")
    return f": {outcome.length} tokens" if outcome.verdict == "too_long" else ""
