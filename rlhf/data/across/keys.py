"""64-bit keys of rows and prompts: equal keys, equal texts.

Among a million rows two different ones share a key with a chance of 3 in 100 million.
"""

from array import array
from typing import cast

from xxhash import xxh3_64_intdigest

from rlhf.data.across.parts import Parts, Turns, parts_of
from rlhf.data.normalise import normalise
from rlhf.recipe.data import RecordKind
from rlhf_schemas import Record, RolloutRecord

NO_KEY = 0
"""In a column of keys: the record has none."""
_FACTOR = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def row_key(record: Record, kind: RecordKind) -> int:
    """A key that rows share where all their texts and roles are equal to the character.

    Margins, weights and metadata do not count: such a row teaches the same text again. Of rollouts the policy, the
    step, the seed and the sample count too, since one prompt's samples may well be equal.
    """
    columns = _columns(record, parts_of(record, kind), kind)
    return _mix(columns[1], columns[2]) if kind == "preference" else columns[1]


def prompt_key(record: Record, kind: RecordKind) -> int | None:
    """A key that prompts share where they differ in case, white space or Unicode form at most.

    A text and the same text as a user's only message share it, since `data.chat` makes one of the other.

    Returns:
        None for a row that has no prompt of its own.
    """
    return _prompt_key(parts_of(record, kind)[0]) or None


class Keys:
    """The keys of many records: 24 bytes for a pair, 16 for any other record."""

    def __init__(self, kind: RecordKind) -> None:
        self.kind: RecordKind = kind
        self.columns = [array("Q") for _ in range(3 if kind == "preference" else 2)]
        """The prompt's key and the row's; for pairs the prompt's, and those of chosen and rejected with the prompt."""

    def __len__(self) -> int:
        return len(self.columns[0])

    def add(self, record: Record, parts: Parts) -> None:
        """Take in the next record.

        Args:
            record: the record.
            parts: as `parts_of` gives them.
        """
        for column, key in zip(self.columns, _columns(record, parts, self.kind), strict=True):
            column.append(key)

    def extend(self, other: "Keys") -> None:
        """Take in the records that follow."""
        for column, more in zip(self.columns, other.columns, strict=True):
            column.extend(more)

    def rows(self) -> "array[int]":
        """Each record's `row_key`."""
        return array("Q", map(_mix, *self.columns[1:])) if self.kind == "preference" else self.columns[1]

    def prompts(self) -> "array[int]":
        """Each record's `prompt_key`, or NO_KEY."""
        return self.columns[0]


def _columns(record: Record, parts: Parts, kind: RecordKind) -> tuple[int, ...]:
    prompt = parts[0]
    start = 0 if prompt is None else xxh3_64_intdigest(_written(prompt))
    if kind == "preference":
        chosen, rejected = (xxh3_64_intdigest(_written(answer or ""), start) for answer in parts[1:])
        return _prompt_key(prompt), chosen, rejected
    if kind == "prompt":
        return _prompt_key(prompt), start
    if kind == "rollout":
        row = cast(RolloutRecord, record)
        origin = f"{row.policy} {row.step} {row.seed} {row.prompt_id} {row.sample_index}"
        start = xxh3_64_intdigest(origin.encode(), start)
    return _prompt_key(prompt), xxh3_64_intdigest(_written(parts[1] or ""), start)


def _mix(chosen: int, rejected: int) -> int:
    return (chosen * _FACTOR + rejected) & _MASK


def _prompt_key(prompt: Turns | None) -> int:
    if prompt is None:
        return NO_KEY
    if not isinstance(prompt, str):
        if len(prompt) > 1 or prompt[0].role != "user":
            turns = [(message.role, normalise(message.content)) for message in prompt]
            return xxh3_64_intdigest(_joined(turns)) or 1
        prompt = prompt[0].content
    return xxh3_64_intdigest(normalise(prompt).encode()) or 1


def _written(turns: Turns) -> bytes:
    if isinstance(turns, str):
        return turns.encode()
    return _joined([(message.role, message.content) for message in turns])


def _joined(turns: list[tuple[str, str]]) -> bytes:
    """With each turn's length, so that a text cannot look like two turns."""
    return "".join(f"\0{role}{len(content)}:{content}" for role, content in turns).encode()
