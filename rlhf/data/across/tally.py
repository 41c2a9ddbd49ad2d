"""What a block's records leave behind for the checks across them."""

from typing import Any, cast

from rlhf.data.across.keys import Keys
from rlhf.data.across.labels import LabelCount
from rlhf.data.across.lengths import LengthCount
from rlhf.data.across.near import Signatures
from rlhf.data.across.parts import NUM_PARTS, parts_of
from rlhf.data.across.scripts import ScriptColumn
from rlhf.recipe.check_codes import check_codes
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.data import RecordKind
from rlhf_schemas import Record

_BY_KEYS = {
    "duplicate",
    "near_duplicate",
    "contradiction",
    "preference_cycle",
    "eval_leak",
    "prompt_leak",
    "stage_leak",
}


class Tally:
    """Takes a block's records in, keeping numbers alone; sent from the process that read the block.

    Checks that `checks.severity` turns off leave nothing behind and cost nothing. Near-duplicates are not looked for
    in rollouts: samples of one prompt are alike by nature.

    Args:
        kind: what the records are.
        checks: which checks are made.
    """

    def __init__(self, kind: RecordKind, checks: ChecksSection) -> None:
        self.kind: RecordKind = kind
        on = codes_on(checks)
        self.keys = Keys(kind) if on & _BY_KEYS else None
        has_near = "near_duplicate" in on and kind != "rollout"
        self.signatures = Signatures(NUM_PARTS[kind]) if has_near else None
        self.lengths = LengthCount() if "length_bias" in on and kind == "preference" else None
        self.labels = LabelCount() if "label_imbalance" in on else None
        self.scripts = ScriptColumn() if "mixed_languages" in on else None

    def add(self, record: Record, place_path: str) -> None:
        """Take in the next record that has no error, and the file it comes from."""
        parts = parts_of(record, self.kind)
        if self.keys is not None:
            self.keys.add(record, parts)
        if self.signatures is not None:
            self.signatures.add(parts)
        if self.lengths is not None:
            self.lengths.add(parts)
        if self.labels is not None:
            # every kind of record has metadata; their base has not
            self.labels.add(cast(Any, record).metadata, place_path)
        if self.scripts is not None:
            self.scripts.add(parts)

    def extend(self, other: "Tally") -> None:
        """Take in the records that follow; both tallies must be of one kind, under the same checks."""
        if self.keys is not None and other.keys is not None:
            self.keys.extend(other.keys)
        if self.signatures is not None and other.signatures is not None:
            self.signatures.extend(other.signatures)
        if self.lengths is not None and other.lengths is not None:
            self.lengths.extend(other.lengths)
        if self.labels is not None and other.labels is not None:
            self.labels.extend(other.labels)
        if self.scripts is not None and other.scripts is not None:
            self.scripts.extend(other.scripts)


def codes_on(checks: ChecksSection) -> set[str]:
    """The codes of checks across records that are not turned off."""
    return {code for code in check_codes("across") if checks.severity.get(code) != "off"}
