"""A split as a stage gets it: its source prepared, others mixed in, the held-out groups on the one side or the other."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.data.place import Located
from rlhf.data.prepare.draw import lowest_share, spread, within
from rlhf.data.prepare.mix import Portion, draw_portion, interleave, wanted_rows
from rlhf.data.prepare.source import PreparedSource
from rlhf.errors import DataError
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.data import DataSource
from rlhf.recipe.preparation import Holdout
from rlhf.recipe.recipe import ReadSplit
from rlhf_schemas import Record

if TYPE_CHECKING:
    from rlhf.data.prepare.draw import Mask, Numbers

_PHRASES = {
    "rows": "rows read",
    "records": "records in them",
    "faulty": "faulty",
    "cleaned": "cleaned",
    "filler_words": "freed of filler words",
    "emptied": "left empty by that",
    "equalled": "pairs made equal by that",
    "duplicates": "duplicates",
    "balance": "left out to balance",
    "sample": "not sampled",
    "weighted": "weighted",
    "held_out": "held out",
    "trained_on": "trained on",
    "drawn": "mixed in",
    "given": "given",
}


class PreparedSplit:
    """A split's records in a fixed order; each iteration reads the files anew and gives the same ones.

    Constant memory but for about 25 bytes a row where rows are chosen beside each other, 90 while a step decides
    (`deduplicate: near` and `drop` of findings across rows: see `rlhf.data.across`). Sources are read once where each row is decided alone, else
    twice; a third time where `drop` names findings across rows.

    Args:
        read: the split.
        chat: text rows will be wrapped as chat turns; rows that cannot be are faulty.
        checks: severities, and what the checks look for.
        quarantine: file for the faulty rows of a source with `on_error: quarantine`; a mixed-in one gets its number in
            the name (`quarantine.mix_in-0.jsonl`). None: they are only counted.
    """

    def __init__(
        self, read: ReadSplit, *, chat: bool, checks: ChecksSection, quarantine: Path | None = None
    ) -> None:
        self.counts: dict[str, int] = {}
        """After an iteration: rows read, then for each step in order what it changed or left out, then rows given."""
        self._read, self._chat, self._checks = read, chat, checks
        self._quarantine = quarantine

    def __iter__(self) -> Iterator[Located[Record]]:
        """The records.

        Raises:
            DataError: faulty rows that may not be left out; rows without the group that a step needs; too few rows to
                mix in; no row left.
        """
        self.counts = {}
        portions, sides = self._portions()
        num_given = 0
        for item in interleave(portions):
            num_given += 1
            yield item
        counts = {**portions[0].source.counts, **sides}
        for index, portion in enumerate(portions[1:]):
            mixed = {**portion.source.counts, "held_out": portion.num_held_out, "drawn": portion.count}
            counts |= {f"mix_in.{index}.{name}": count for name, count in mixed.items()}
        self.counts = {**counts, "given": num_given}
        if num_given == 0:
            raise DataError(
                f"{portions[0].source.name}: no row is left: {self.describe()}",
                "Give more rows, or take steps of `prepare` away.",
            )

    def describe(self) -> str:
        """What the last iteration did, in one line; without one, that nothing was read."""
        if not self.counts:
            return "not read yet"
        parts = [self._phrase(name, count) for name, count in self.counts.items()]
        return "; ".join(part for part in (parts[0], ", ".join(parts[1:-1]), parts[-1]) if part)

    def _phrase(self, name: str, count: int) -> str:
        scope, _, last = name.rpartition(".")
        if scope.endswith("drop"):
            phrase, scope = f"dropped for {last}", scope.removesuffix("drop").removesuffix(".")
        else:
            phrase = _PHRASES[last]
        source = self._read.source
        if scope:
            index = int(scope.rpartition(".")[2])
            source = source.mix_in[index]
            phrase += f" from {source.path}" if last == "drawn" else f" ({source.path})"
        if last == "faulty" and count and (path := self._file(scope)) is not None:
            phrase += f" ({path.name})"
        return f"{count:,} {phrase}"

    def _file(self, scope: str = "") -> Path | None:
        """Where the faulty rows of the split's own source, or of a mixed one, go."""
        path = self._quarantine
        if path is None or not scope:
            return path
        return path.with_name(f"{path.stem}.{scope.replace('.', '-')}{path.suffix}")

    def _open(self, source: DataSource, scope: str = "") -> PreparedSource:
        return PreparedSource(
            source, self._read.kind, chat=self._chat, checks=self._checks, quarantine=self._file(scope)
        )

    def _portions(self) -> tuple[list[Portion], dict[str, int]]:
        """The split's own rows and the mixed ones; and how many are on the other side of the holdout."""
        read = self._read
        own = self._open(read.source)
        holdout = None if read.part == "all" else read.holdout
        mixes = [] if read.part == "held_out" else read.source.mix_in
        if holdout is None and not mixes and own.decides_alone:
            return [Portion(own, [None], 0)], {}
        by = None if holdout is None else holdout.by
        selection = own.select(by)
        keep, held, sides = selection.keep, None, dict[str, int]()
        if holdout is not None:
            assert selection.groups is not None, "groups were asked for"
            keep, held = self._side(keep, selection.groups, holdout, own.name)
            name = "held_out" if read.part == "train" else "trained_on"
            sides = {name: int(selection.keep.sum() - keep.sum())}
        num_own = int(keep.sum())
        portions = [Portion(own, [keep], num_own, selection)]
        if num_own == 0:
            return portions, sides
        wanted = wanted_rows(num_own, [mixed.share for mixed in mixes])
        for index, (mixed, count) in enumerate(zip(mixes, wanted, strict=True)):
            source = self._open(mixed, f"mix_in.{index}")
            portions.append(draw_portion(source, mixed, count, by=by, held_out=held))
        return portions, sides

    def _side(self, keep: "Mask", groups: "Numbers", holdout: Holdout, name: str) -> "tuple[Mask, Numbers]":
        """The rows of this side, and the groups that are held out."""
        is_held = lowest_share(spread(groups, holdout.seed, "holdout"), holdout.share)
        if len(groups) and (is_held.all() or not is_held.any()):
            which = "all" if is_held.all() else "none"
            raise DataError(
                f"{name}: holdout takes {which} of the groups by {holdout.by}",
                "Give more groups, another share, or another holdout.seed.",
            )
        return within(keep, is_held if self._read.part == "held_out" else ~is_held), groups[is_held]
