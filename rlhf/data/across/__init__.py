"""Checks of rows beside each other: equal and nearly equal rows, contradictions, leaks, and one-sided sources.

A `Tally` takes a block's records in, an `Across` puts the tallies of all blocks together and says what it finds.
Exact checks keep at most 24 bytes a record and one for its script; near-duplicates keep 128 bytes for each of a
record's texts (a prompt has one, a demonstration two, a pair three).
"""

from rlhf.data.across.across import Across
from rlhf.data.across.finding import Finding
from rlhf.data.across.keys import prompt_key, row_key
from rlhf.data.across.leaks import leaks, stage_leaks
from rlhf.data.across.near import Signatures
from rlhf.data.across.parts import parts_of
from rlhf.data.across.tally import Tally

__all__ = [
    "Across",
    "Finding",
    "Signatures",
    "Tally",
    "leaks",
    "parts_of",
    "prompt_key",
    "row_key",
    "stage_leaks",
]
