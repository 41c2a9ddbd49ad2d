"""All of a source's records beside each other."""

from collections.abc import Iterator

from rlhf.data.across.collisions import collisions
from rlhf.data.across.finding import Finding
from rlhf.data.across.keys import Keys
from rlhf.data.across.preferences import find_contradictions, find_cycles
from rlhf.data.across.tally import Tally, codes_on
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.data import RecordKind


class Across:
    """Puts the tallies of a source's blocks together and says what its rows are beside each other.

    Args:
        kind: what the records are.
        checks: which checks are made, and their bounds.
    """

    def __init__(self, kind: RecordKind, checks: ChecksSection) -> None:
        self.kind: RecordKind = kind
        self._checks = checks
        self._all = Tally(kind, checks)
        self._on = codes_on(checks)

    @property
    def keys(self) -> Keys | None:
        """The records' keys; None where no check needs them."""
        return self._all.keys

    def is_on(self, code: str) -> bool:
        """Whether a check across records is made."""
        return code in self._on

    def extend(self, tally: Tally) -> None:
        """Take in the next block."""
        self._all.extend(tally)

    def facts(self) -> dict[str, float]:
        """What was measured over all records: the share of pairs with the longer answer chosen, the scripts' shares."""
        lengths, scripts = self._all.lengths, self._all.scripts
        return {
            **({} if lengths is None else lengths.facts()),
            **({} if scripts is None else scripts.facts()),
        }

    def findings(self) -> Iterator[Finding]:
        """Everything that is found, check by check."""
        yield from self._repeated()
        yield from self._contradicted()
        if self._all.lengths is not None:
            yield from self._all.lengths.findings(self._checks.max_length_bias)
        if self._all.labels is not None:
            yield from self._all.labels.findings()
        if self._all.scripts is not None:
            yield from self._all.scripts.findings()

    def _repeated(self) -> Iterator[Finding]:
        keys, signatures = self._all.keys, self._all.signatures
        if keys is None or not self._on & {"duplicate", "near_duplicate"}:
            return
        is_repeated = bytearray(len(keys))
        for first, *rest in collisions(keys.rows()):
            for ordinal in rest:
                is_repeated[ordinal] = 1
                if "duplicate" in self._on:
                    yield Finding("duplicate", ordinal, "is equal to the row at", first)
        if signatures is not None:
            for ordinal, earlier in signatures.pairs(self._checks.near_duplicate_similarity, is_repeated):
                yield Finding("near_duplicate", ordinal, "is nearly equal to the row at", earlier)

    def _contradicted(self) -> Iterator[Finding]:
        keys = self._all.keys
        if keys is None or self.kind != "preference" or not self._on & {"contradiction", "preference_cycle"}:
            return
        _, chosen, rejected = keys.columns
        undecided: set[int] = set()
        for finding in find_contradictions(chosen, rejected):
            if finding.ordinal is not None:
                undecided.add(finding.ordinal)
            if "contradiction" in self._on:
                yield finding
        if "preference_cycle" in self._on:
            yield from find_cycles(chosen, rejected, undecided)
