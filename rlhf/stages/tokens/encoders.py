"""Demonstrations and pairs as tokens under the recipe's length rule.

`truncate` takes the oldest exchanges of a dialogue away first; only what is still too long without them loses its end.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from transformers import PreTrainedTokenizerBase

from rlhf.errors import DataError
from rlhf.models.sequences import encode_pair, encode_prompt, encode_sft
from rlhf.models.turns import newest_turns
from rlhf.recipe.training import TrainingSection
from rlhf.stages.tokens.outcome import Outcome, OverLength
from rlhf_schemas import Message, PreferenceRecord, SFTRecord


@dataclass(frozen=True)
class Demonstration:
    """A sequence for SFT; `labels_mask` True: the loss counts the token."""

    input_ids: list[int]
    labels_mask: list[bool]
    weight: float


@dataclass(frozen=True)
class Pair:
    """Two whole sequences for the reward model, and their prompt (None: a pair of plain texts has no marked one)."""

    prompt_ids: list[int] | None
    chosen_ids: list[int]
    rejected_ids: list[int]
    margin: float | None
    weight: float


Record = TypeVar("Record", SFTRecord, PreferenceRecord)
Row = TypeVar("Row", Demonstration, Pair)


@dataclass(frozen=True)
class _LengthRule(ABC, Generic[Record, Row]):
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    over_length: OverLength
    chat: bool

    def describe(self) -> dict[str, Any]:
        """See Encoder."""
        return {
            "row": type(self).__name__,
            "max_length": self.max_length,
            "over_length": self.over_length,
            "chat": self.chat,
        }

    def __call__(self, record: Record) -> Outcome[Row]:
        """See Encoder."""
        try:
            row = self._encode(record)
            length = self._length(row)
            if length <= self.max_length:
                return Outcome("whole", row, length)
            if self.over_length != "truncate":
                return Outcome("too_long", None, length)
            row = self._without_oldest_turns(record) or row
        except DataError as error:
            return refused(error)
        return self._cut(row, length)

    @abstractmethod
    def _encode(self, record: Record) -> Row:
        """The whole record."""

    @abstractmethod
    def _length(self, row: Row) -> int:
        """What `max_length` bounds."""

    @abstractmethod
    def _without_oldest_turns(self, record: Record) -> Row | None:
        """With as many of the newest turns as fit; None for a record that is no dialogue."""

    @abstractmethod
    def _cut(self, row: Row, length: int) -> Outcome[Row]:
        """Without its end, if that leaves something to train on; `length` is the whole record's."""


class DemonstrationEncoder(_LengthRule[SFTRecord, Demonstration]):
    """SFT records."""

    def _cut(self, row: Demonstration, length: int) -> Outcome[Demonstration]:
        cut = slice(None, self.max_length)
        row = Demonstration(row.input_ids[cut], row.labels_mask[cut], row.weight)
        # A row without a label would train nothing, and a batch of such rows has a loss of 0 / 0.
        return (
            Outcome("truncated", row, length) if any(row.labels_mask) else Outcome("no_label", None, length)
        )

    def _length(self, row: Demonstration) -> int:
        return len(row.input_ids)

    def _encode(self, record: SFTRecord) -> Demonstration:
        encoded = encode_sft(self.tokenizer, record, chat=self.chat)
        return Demonstration(encoded.input_ids, encoded.labels_mask, _weight(record))

    def _without_oldest_turns(self, record: SFTRecord) -> Demonstration | None:
        answer: list[Message] = []
        if isinstance(record.messages, list):
            turns, keep = record.messages, 2
        elif isinstance(record.prompt, list) and isinstance(record.completion, list):
            answer = record.completion
            turns, keep = record.prompt, 1
        else:
            return None

        def encode(newest: list[Message]) -> Demonstration:
            return self._encode(
                record.model_copy(update={"prompt": newest} if answer else {"messages": newest})
            )

        return encode(
            newest_turns(turns, keep=keep, fits=lambda some: self._length(encode(some)) <= self.max_length)
        )


class PairEncoder(_LengthRule[PreferenceRecord, Pair]):
    """Preference records."""

    def _cut(self, row: Pair, length: int) -> Outcome[Pair]:
        chosen, rejected = row.chosen_ids[: self.max_length], row.rejected_ids[: self.max_length]
        if chosen == rejected:
            return Outcome("equal", None, length)
        return Outcome("truncated", replace(row, chosen_ids=chosen, rejected_ids=rejected), length)

    def _length(self, row: Pair) -> int:
        return max(len(row.chosen_ids), len(row.rejected_ids))

    def _encode(self, record: PreferenceRecord) -> Pair:
        chosen, rejected = encode_pair(self.tokenizer, record, chat=self.chat)
        prompt = record.explicit().prompt
        prompt_ids = None if prompt is None else encode_prompt(self.tokenizer, prompt, chat=self.chat)
        return Pair(prompt_ids, chosen, rejected, record.margin, _weight(record))

    def _without_oldest_turns(self, record: PreferenceRecord) -> Pair | None:
        # the turns go from the prompt that both answers share
        pair = record.explicit()
        if not isinstance(pair.prompt, list):
            return None

        def encode(newest: list[Message]) -> Pair:
            return self._encode(pair.model_copy(update={"prompt": newest}))

        return encode(
            newest_turns(pair.prompt, keep=1, fits=lambda some: self._length(encode(some)) <= self.max_length)
        )


def demonstration_encoder(
    tokenizer: PreTrainedTokenizerBase, section: TrainingSection, *, chat: bool
) -> DemonstrationEncoder:
    """The encoder that `section` asks for."""
    return DemonstrationEncoder(tokenizer, section.max_length, section.over_length, chat)


def pair_encoder(tokenizer: PreTrainedTokenizerBase, section: TrainingSection, *, chat: bool) -> PairEncoder:
    """The encoder that `section` asks for."""
    return PairEncoder(tokenizer, section.max_length, section.over_length, chat)


def refused(error: DataError) -> Outcome[Any]:
    """The outcome of a record that chat template or vocabulary refuses."""
    return Outcome("refused", message=error.message, remedy=error.remedy)


def _weight(record: SFTRecord | PreferenceRecord) -> float:
    return 1.0 if record.weight is None else float(record.weight)
