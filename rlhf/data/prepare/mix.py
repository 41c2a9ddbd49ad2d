"""Sources mixed into another: how many rows each gives, which ones, and in what order they come."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from rlhf.data.place import Located
from rlhf.data.prepare.draw import lowest, priorities, within
from rlhf.data.prepare.select import Selection
from rlhf.data.prepare.source import PreparedSource
from rlhf.errors import DataError
from rlhf.recipe.data import MixedSource
from rlhf.recipe.preparation import Key
from rlhf_schemas import Record

if TYPE_CHECKING:
    from rlhf.data.prepare.draw import Mask, Numbers


@dataclass
class Portion:
    """What one source gives to a split."""

    source: PreparedSource
    passes: "list[Mask | None]"
    """Rows of each pass over it; more than one where rows are repeated."""
    count: int
    """Rows in all passes."""
    selection: Selection | None = None
    num_held_out: int = 0
    """Rows left out since their group is held out."""

    def rows(self) -> Iterator[Located[Record]]:
        """All of them, pass by pass, in the source's order."""
        return chain.from_iterable(self.source.rows(keep, self.selection) for keep in self.passes)


def wanted_rows(num_own: int, shares: Sequence[float]) -> list[int]:
    """Rows that each mixed source gives, so that it has its share of the result; all of the split's own rows stay."""
    total = num_own / (1 - sum(shares))
    return [max(1, round(total * share)) for share in shares]


def draw_portion(
    source: PreparedSource, mixed: MixedSource, wanted: int, *, by: Key | None, held_out: "Numbers | None"
) -> Portion:
    """Draw `wanted` rows of a source; where they are repeated, each as often as another, but for one time.

    Args:
        source: the source with its own steps.
        mixed: the same in the recipe.
        wanted: how many rows.
        by, held_out: groups that are held out of the split that it is mixed into: their rows are left out.

    Raises:
        DataError: it has fewer rows and may not repeat them, or none.
    """
    import numpy as np

    selection = source.select(by, needs_group=False)
    keep, keys, num_held_out = selection.keep, selection.keys, 0
    if held_out is not None:
        assert selection.groups is not None, "groups were asked for"
        free = ~np.isin(selection.groups, held_out)
        keep, keys, num_held_out = within(keep, free), keys[free], int((~free).sum())
    available = len(keys)
    if available == 0 or (available < wanted and not mixed.repeat):
        raise DataError(
            f"{source.name}: has {available} rows to mix in, but a share of {mixed.share:g} needs {wanted}",
            "Lower the share, set `repeat`, or give more rows.",
        )
    rounds, rest = divmod(wanted, available)
    passes: list[Mask | None] = [keep] * rounds
    if rest:
        passes.append(within(keep, lowest(priorities(keys, mixed.prepare.seed, "mix_in"), rest)))
    return Portion(source, passes, wanted, selection, num_held_out)


def interleave(portions: Sequence[Portion]) -> Iterator[Located[Record]]:
    """The rows of all, each source's in its own order and spread evenly: row j of n at (2j + 1) / 2n of the way.

    Of rows at the same point, the earlier source's comes first.
    """
    if len(portions) == 1:
        return portions[0].rows()
    return (
        row
        for _, _, row in heapq.merge(*map(_placed, range(len(portions)), portions), key=lambda one: one[:2])
    )


def _placed(index: int, portion: Portion) -> Iterator[tuple[float, int, Located[Record]]]:
    for position, row in enumerate(portion.rows()):
        yield (2 * position + 1) / (2 * portion.count), index, row
