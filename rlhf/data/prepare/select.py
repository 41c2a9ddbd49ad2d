"""The steps that look at rows beside each other, decided in passes that keep 8 bytes a row for each thing they need."""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING, Any

from rlhf.data.across import Across, Tally, row_key
from rlhf.data.place import Located
from rlhf.data.prepare.draw import first_ones, lowest, lowest_of_each, priorities, within
from rlhf.data.prepare.groups import group_key, has_group
from rlhf.data.prepare.rewrite import only
from rlhf.errors import DataError
from rlhf.recipe.check_codes import check_codes
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.data import RecordKind
from rlhf.recipe.preparation import Key, Preparation
from rlhf_schemas import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rlhf.data.prepare.draw import Mask, Numbers

Rows = Callable[[], Iterable[Located[Record]]]
"""A pass over the rows after the steps that look at one row alone; the same ones each time."""
NO_GROUP = 0
"""Of rows that have no entry to be grouped by, where that is allowed."""
_BLOCK_ROWS = 10_000


@dataclass
class Selection:
    """Which rows stay."""

    keep: "Mask"
    """One entry a row of the pass."""
    keys: "Numbers"
    """Of the rows that stay: equal for equal rows."""
    groups: "Numbers | None"
    """Of the rows that stay, where the caller asked for groups."""
    left_out: dict[str, int] = field(default_factory=dict[str, int])
    """Step -> rows that it left out, in the order of the steps."""


def select(
    rows: Rows,
    preparation: Preparation,
    kind: RecordKind,
    checks: ChecksSection,
    *,
    group_by: Key | None = None,
    needs_group: bool = True,
) -> Selection:
    """Run the steps from `drop` (of findings across rows) to `sample`.

    Args:
        rows: gives a pass; one is made, and another where `drop` names findings across rows.
        preparation: the steps.
        kind: which record the rows are.
        checks: what counts as nearly equal.
        group_by: also find these groups.
        needs_group: rows without the entry of metadata are an error; else they get NO_GROUP.

    Raises:
        DataError: a row without the entry of metadata that groups are made by; other rows in one pass than in another.
    """
    left_out: dict[str, int] = {}
    dropped = [code for code in check_codes("across") if code in preparation.drop]
    first: Mask | None = None
    if dropped:
        first = _without_findings(rows(), dropped, kind, only(checks, dropped), left_out)
    wanted = _Wanted(preparation, kind, checks, group_by, needs_group)
    for item in rows() if first is None else compress(rows(), first):
        wanted.add(item)
    if first is not None and len(wanted.keys) != first.sum():
        raise DataError("the data changed while they were read", "Run again once nothing writes to them.")
    keep = wanted.decide(left_out)
    keys, groups = wanted.keys[keep], None if group_by is None else wanted.groups[keep]
    if first is not None:
        keep = within(first, keep)
    return Selection(keep, keys, groups, left_out)


class _Wanted:
    """One pass: a row's key, its groups, and what near-duplicates need."""

    def __init__(
        self,
        preparation: Preparation,
        kind: RecordKind,
        checks: ChecksSection,
        group_by: Key | None,
        needs_group: bool,
    ) -> None:
        self._steps = preparation
        self._kind: RecordKind = kind
        self._group_by, self._needs_group = group_by, needs_group
        self._keys, self._groups, self._balance = array("Q"), array("Q"), array("Q")
        codes = ["duplicate", "near_duplicate"]
        self._near = _Findings(kind, only(checks, codes)) if preparation.deduplicate == "near" else None

    def add(self, item: Located[Record]) -> None:
        self._keys.append(row_key(item.record, self._kind))
        if self._steps.balance is not None:
            self._balance.append(group_key(item, self._kind, self._steps.balance.by))
        if self._group_by is not None:
            known = self._needs_group or has_group(item, self._group_by)
            self._groups.append(group_key(item, self._kind, self._group_by) if known else NO_GROUP)
        if self._near is not None:
            self._near.add(item)

    @property
    def keys(self) -> "Numbers":
        return _numbers(self._keys)

    @property
    def groups(self) -> "Numbers":
        return _numbers(self._groups)

    def decide(self, left_out: dict[str, int]) -> "Mask":
        """The rows that stay; counts into `left_out`."""
        import numpy as np

        keys, steps = self.keys, self._steps
        left = np.arange(len(keys))
        if steps.deduplicate != "none":
            fresh = first_ones(keys) if self._near is None else self._near.clean(len(keys))
            left = _narrow(left, fresh, "duplicates", left_out)
        if steps.balance is not None:
            drawn = priorities(keys[left], steps.seed, "balance")
            groups = _numbers(self._balance)[left]
            left = _narrow(left, lowest_of_each(drawn, groups, steps.balance.max_ratio), "balance", left_out)
        if steps.sample is not None:
            wanted = steps.sample
            count = max(1, round(wanted * len(left))) if isinstance(wanted, float) else wanted
            drawn = priorities(keys[left], steps.seed, "sample")
            left = _narrow(left, lowest(drawn, count), "sample", left_out)
        keep = np.zeros(len(keys), dtype=np.bool_)
        keep[left] = True
        return keep


class _Findings:
    """Findings across rows, by their ordinals."""

    def __init__(self, kind: RecordKind, checks: ChecksSection) -> None:
        self._new: Callable[[], Tally] = lambda: Tally(kind, checks)
        self._across, self._tally, self._size = Across(kind, checks), self._new(), 0

    def add(self, item: Located[Record]) -> None:
        self._tally.add(item.record, item.place.path)
        self._size += 1
        if self._size % _BLOCK_ROWS == 0:
            self._across.extend(self._tally)
            self._tally = self._new()

    def codes(self) -> Iterator[tuple[int, str]]:
        """(ordinal, code) of every finding about a row."""
        self._across.extend(self._tally)
        self._tally = self._new()
        for finding in self._across.findings():
            if finding.ordinal is not None:
                yield finding.ordinal, finding.code

    def clean(self, size: int) -> "Mask":
        """True for the rows without a finding."""
        import numpy as np

        mask = np.ones(size, dtype=np.bool_)
        for ordinal, _ in self.codes():
            mask[ordinal] = False
        return mask


def _without_findings(
    rows: Iterable[Located[Record]],
    codes: list[str],
    kind: RecordKind,
    checks: ChecksSection,
    left_out: dict[str, int],
) -> "Mask":
    import numpy as np

    found, size = _Findings(kind, checks), 0
    for item in rows:
        found.add(item)
        size += 1
    mask = np.ones(size, dtype=np.bool_)
    left_out.update({f"drop.{code}": 0 for code in codes})
    for ordinal, code in found.codes():
        left_out[f"drop.{code}"] += bool(mask[ordinal])
        mask[ordinal] = False
    return mask


def _narrow(left: "NDArray[np.int64]", mask: "Mask", step: str, left_out: dict[str, int]) -> Any:
    left_out[step] = int(len(mask) - mask.sum())
    return left[mask]


def _numbers(values: "array[int]") -> "Numbers":
    import numpy as np

    return np.frombuffer(values, dtype=np.uint64) if values else np.zeros(0, dtype=np.uint64)
