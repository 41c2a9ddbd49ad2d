"""One source through its own steps: first what stays is decided, then the rows are given."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.data.place import Located
from rlhf.data.prepare.faulty import SoundRows
from rlhf.data.prepare.rewrite import Rewriter
from rlhf.data.prepare.select import Selection, select
from rlhf.data.prepare.weigh import Weigher
from rlhf.data.source import source_name
from rlhf.errors import DataError
from rlhf.recipe.check_codes import check_codes
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.data import DataSource, RecordKind
from rlhf.recipe.preparation import Key
from rlhf_schemas import Record

if TYPE_CHECKING:
    from rlhf.data.prepare.draw import Mask


class PreparedSource:
    """Rows of one source without what is mixed into it; `counts` holds what the last pass did.

    Args:
        source, kind, chat, checks, quarantine: as `PreparedSplit` has them.
    """

    def __init__(
        self,
        source: DataSource,
        kind: RecordKind,
        *,
        chat: bool,
        checks: ChecksSection,
        quarantine: Path | None,
    ) -> None:
        self.source = source
        self.name = source_name(source)
        self.counts: dict[str, int] = {}
        self._kind: RecordKind = kind
        self._checks = checks
        handled = source.prepare.codes
        self._sound = SoundRows(
            source, kind, chat=chat, checks=checks, quarantine=quarantine, handled=handled
        )
        self._rewrite = Rewriter(source.prepare, kind, checks)

    @property
    def decides_alone(self) -> bool:
        """Whether each row is kept or left out whatever the others are, so that one pass does."""
        steps = self.source.prepare
        return (
            not any(code in steps.drop for code in check_codes("across"))
            and steps.deduplicate == "none"
            and steps.balance is None
            and steps.sample is None
        )

    def select(self, group_by: Key | None = None, *, needs_group: bool = True) -> Selection:
        """A pass, or two, that decides which rows stay; see `select`."""
        return select(
            self._rewritten,
            self.source.prepare,
            self._kind,
            self._checks,
            group_by=group_by,
            needs_group=needs_group,
        )

    def rows(
        self, keep: "Mask | None" = None, selection: Selection | None = None
    ) -> Iterator[Located[Record]]:
        """The rows with their weights, those alone that `keep` marks.

        Args:
            keep: one entry a row of the pass; None: all.
            selection: what `keep` comes from, for the counts.

        Raises:
            DataError: faulty rows; a row without its group; another number of rows than `keep` was made for.
        """
        weigh = (
            None if self.source.prepare.weights is None else Weigher(self.source.prepare.weights, self.name)
        )
        num_read = 0
        for item in self._rewritten():
            kept = keep is None or (num_read < len(keep) and bool(keep[num_read]))
            num_read += 1
            if weigh is not None:
                weigh.meet(item)
            if kept:
                yield item if weigh is None else weigh.apply(item)
        if keep is not None and num_read != len(keep):
            raise DataError(f"{self.name}: changed while it was read", "Run again once nothing writes to it.")
        if weigh is not None:
            weigh.finish()
        self.counts = self._counted(selection, weigh)

    def _rewritten(self) -> Iterator[Located[Record]]:
        if self._rewrite.is_idle:
            return iter(self._sound)
        return self._changed()

    def _changed(self) -> Iterator[Located[Record]]:
        self._rewrite.counts = Counter()
        for item in self._sound:
            changed = self._rewrite.apply(item)
            if changed is not None:
                yield changed

    def _counted(self, selection: Selection | None, weigh: Weigher | None) -> dict[str, int]:
        counts = {"rows": self._sound.num_rows}
        if self.source.on_error == "quarantine":
            counts["faulty"] = self._sound.num_faulty
        if self._sound.num_records != self._sound.num_rows - self._sound.num_faulty:
            counts["records"] = self._sound.num_records
        counts |= self._rewrite.counted()
        if selection is not None:
            counts |= selection.left_out
        if weigh is not None:
            counts["weighted"] = weigh.num_weighted
        return counts
