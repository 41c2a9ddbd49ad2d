"""Whether a source of rows has nearly always the same label, and the others have not."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from rlhf.data.across.finding import Finding

MIN_ROWS = 50
"""Sources with fewer labelled rows, and those beside which there are fewer, are not judged."""
ONE_SIDED = 0.95
BALANCED = 0.8
MAX_COUNTS = 10_000
"""With more combinations of source and label these are no labels: nothing is counted and nothing found."""


class LabelCount:
    """Rows by source and label.

    A row's source is its metadata's `source`, or its file; its label is its metadata's `label`, or the sign of its
    `score`. Rows without either are not counted.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] | None = Counter()

    def add(self, metadata: dict[str, Any], path: str) -> None:
        """Take in the next row's metadata, and the file it comes from."""
        if self._counts is None or not metadata:
            return
        label = _label(metadata)
        if label is not None:
            source = metadata.get("source")
            self._counts[(source if isinstance(source, str) else path, label)] += 1
            self._limit()

    def extend(self, other: "LabelCount") -> None:
        """Take in the rows that follow."""
        if self._counts is None or other._counts is None:
            self._counts = None
            return
        self._counts.update(other._counts)
        self._limit()

    def findings(self) -> Iterator[Finding]:
        """A finding for each source with one label in ONE_SIDED of its rows or more, and in less than BALANCED elsewhere."""
        counts = self._counts or Counter[tuple[str, str]]()
        by_source, by_label = Counter[str](), Counter[str]()
        for (source, label), number in counts.items():
            by_source[source] += number
            by_label[label] += number
        num_rows = counts.total()
        for (source, label), number in counts.items():
            num_here, num_elsewhere = by_source[source], num_rows - by_source[source]
            if min(num_here, num_elsewhere) < MIN_ROWS:
                continue
            here, elsewhere = number / num_here, (by_label[label] - number) / num_elsewhere
            if here >= ONE_SIDED and elsewhere < BALANCED:
                message = (
                    f"has the label {label} in {here:.1%} of the {num_here} rows of source {source}, "
                    f"and in {elsewhere:.1%} of the others"
                )
                yield Finding("label_imbalance", None, message, field="metadata")

    def _limit(self) -> None:
        if self._counts is not None and len(self._counts) > MAX_COUNTS:
            self._counts = None


def _label(metadata: dict[str, Any]) -> str | None:
    label = metadata.get("label")
    if isinstance(label, str | int):
        return str(label)[:60]
    score = metadata.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float):
        return None
    return "score > 0" if score > 0 else "score < 0" if score < 0 else "score = 0"
