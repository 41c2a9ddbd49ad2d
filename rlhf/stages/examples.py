"""Records -> token sequences of a split, with the recipe's rule for those that are too long."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from transformers import PreTrainedTokenizerBase

from rlhf.data import Place, load
from rlhf.errors import DataError
from rlhf.models.chat_template import check_chat_template
from rlhf.models.sequences import encode_pair, encode_prompt, encode_sft
from rlhf.ppo.prompts import Prompt
from rlhf.recipe import DataSource
from rlhf.recipe.training import TrainingSection
from rlhf_schemas import Message

SHOWN_ROWS = 20
Row = TypeVar("Row")


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


@dataclass(frozen=True)
class Examples(Generic[Row]):
    """A split as tokens, and how many rows its length rule touched."""

    rows: list[Row]
    num_dropped: int
    num_truncated: int

    def __str__(self) -> str:
        return f"{len(self.rows)} rows; too long: {self.num_dropped} dropped, {self.num_truncated} truncated"


def demonstrations(
    tokenizer: PreTrainedTokenizerBase, source: DataSource, section: TrainingSection, *, chat: bool
) -> Examples[Demonstration]:
    """The SFT split as tokens.

    Raises:
        DataError: invalid rows; rows that the template refuses; rows too long (under `error`), or left without a
            label by truncation. Each names file and line.
    """

    def encode(record: Any) -> Demonstration:
        encoded = encode_sft(tokenizer, record, chat=chat)
        return Demonstration(encoded.input_ids, encoded.labels_mask, _weight(record))

    def truncate(row: Demonstration) -> Demonstration:
        cut = slice(None, section.max_length)
        return Demonstration(row.input_ids[cut], row.labels_mask[cut], row.weight)

    located = [(item.record, item.place) for item in load(source, "sft", chat=chat)]
    _check_template(tokenizer, [record for record, _ in located], chat=chat)
    rows = _encode(located, encode)
    if section.over_length == "truncate":
        _check_labels_stay(rows, section)
    return _fit(rows, section, lambda row: len(row.input_ids), truncate)


def pairs(
    tokenizer: PreTrainedTokenizerBase, source: DataSource, section: TrainingSection, *, chat: bool
) -> Examples[Pair]:
    """The preference split as tokens; a pair that truncation makes equal is dropped and counted.

    Raises:
        DataError: as `demonstrations`.
    """

    def encode(record: Any) -> Pair:
        chosen, rejected = encode_pair(tokenizer, record, chat=chat)
        prompt = record.explicit().prompt
        prompt_ids = None if prompt is None else encode_prompt(tokenizer, prompt, chat=chat)
        return Pair(prompt_ids, chosen, rejected, record.margin, _weight(record))

    def truncate(row: Pair) -> Pair | None:
        chosen, rejected = row.chosen_ids[: section.max_length], row.rejected_ids[: section.max_length]
        return None if chosen == rejected else replace(row, chosen_ids=chosen, rejected_ids=rejected)

    located = [(item.record, item.place) for item in load(source, "preference", chat=chat)]
    _check_template(tokenizer, [record for record, _ in located], chat=chat)
    return _fit(
        _encode(located, encode),
        section,
        lambda row: max(len(row.chosen_ids), len(row.rejected_ids)),
        truncate,
    )


def prompts(
    tokenizer: PreTrainedTokenizerBase, source: DataSource, *, chat: bool, max_prompt_length: int
) -> list[Prompt]:
    """The prompts as tokens, in the order of the split.

    Raises:
        DataError: invalid rows, or prompts longer than `max_prompt_length`, with file and line.
    """
    located = [(item.record, item.place) for item in load(source, "prompt", chat=chat)]
    _check_template(tokenizer, [record for record, _ in located], chat=chat)
    encoded = _encode(
        located, lambda record: (encode_prompt(tokenizer, record.prompt, chat=chat), _text(record.prompt))
    )
    longer = [(place, len(ids)) for (ids, _), place in encoded if len(ids) > max_prompt_length]
    if longer:
        raise _too_long(
            longer, "ppo.max_prompt_length", max_prompt_length, "Raise it, or remove these prompts."
        )
    return [
        Prompt(index, ids, text, record)
        for index, (((ids, text), _), (record, _)) in enumerate(zip(encoded, located, strict=True))
    ]


def _check_template(tokenizer: PreTrainedTokenizerBase, records: list[Any], *, chat: bool) -> None:
    """Prove the chat template on a probe, where it is used at all: its faults are not those of a row."""
    num_questions = max((_num_user_turns(record) for record in records), default=0)
    if chat or num_questions > 0:
        check_chat_template(tokenizer, multi_turn=num_questions > 1)


def _num_user_turns(record: Any) -> int:
    """User turns of a conversation; 0 for text."""
    parts = (getattr(record, name, None) for name in ("messages", "prompt", "completion", "chosen"))
    return sum(turn.role == "user" for part in parts if isinstance(part, list) for turn in part)


def _encode(located: Iterable[tuple[Any, Place]], encode: Callable[[Any], Row]) -> list[tuple[Row, Place]]:
    """Encode every record; all that a template or vocabulary refuses are reported together."""
    rows: list[tuple[Row, Place]] = []
    faults: list[str] = []
    for record, place in located:
        try:
            rows.append((encode(record), place))
        except DataError as error:
            faults.append(
                f"  {_where(place)}: {error.message}" + (f" {error.remedy}" if error.remedy else "")
            )
    if faults:
        raise DataError(f"{len(faults)} row(s) cannot be encoded:\n" + _first(faults))
    return rows


def _fit(
    rows: list[tuple[Row, Place]],
    section: TrainingSection,
    length: Callable[[Row], int],
    truncate: Callable[[Row], Row | None],
) -> Examples[Row]:
    longer = [(place, length(row)) for row, place in rows if length(row) > section.max_length]
    if longer and section.over_length == "error":
        raise _too_long(
            longer, "max_length", section.max_length, "Raise it, or set over_length to drop or truncate."
        )
    fitting = [row for row, _ in rows if length(row) <= section.max_length]
    if section.over_length == "drop" or not longer:
        return Examples(_not_empty(fitting, section), len(longer), 0)
    cut = [truncate(row) if length(row) > section.max_length else row for row, _ in rows]
    kept = [row for row in cut if row is not None]
    num_lost = len(cut) - len(kept)
    return Examples(_not_empty(kept, section), num_lost, len(longer) - num_lost)


def _check_labels_stay(rows: list[tuple[Demonstration, Place]], section: TrainingSection) -> None:
    """A row without a label would train nothing, and a batch of such rows has a loss of 0 / 0."""
    bare = [place for row, place in rows if not any(row.labels_mask[: section.max_length])]
    if bare:
        raise DataError(
            f"{len(bare)} row(s) would have no label left within max_length={section.max_length}:\n"
            + _first([f"  {_where(place)}" for place in bare]),
            "Raise max_length, shorten these prompts, or set over_length: drop.",
        )


def _not_empty(rows: list[Row], section: TrainingSection) -> list[Row]:
    if not rows:
        raise DataError(
            f"no row is left: all are longer than max_length={section.max_length}, or equal pairs within it",
            "Raise max_length.",
        )
    return rows


def _too_long(longer: list[tuple[Place, int]], name: str, limit: int, remedy: str) -> DataError:
    longest = max(size for _, size in longer)
    lines = _first([f"  {_where(place)}: {size} tokens" for place, size in longer])
    return DataError(
        f"{len(longer)} row(s) are longer than {name}={limit} tokens (longest {longest}):\n{lines}", remedy
    )


def _first(lines: list[str]) -> str:
    more = f"\n  … and {len(lines) - SHOWN_ROWS} more" if len(lines) > SHOWN_ROWS else ""
    return "\n".join(lines[:SHOWN_ROWS]) + more


def _where(place: Place) -> str:
    if place.line is not None:
        return f"{place.path}:{place.line}"
    return f"{place.path} row {place.row}" if place.row is not None else place.path


def _weight(record: Any) -> float:
    return 1.0 if record.weight is None else float(record.weight)


def _text(prompt: str | list[Message]) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(f"{turn.role}: {turn.content}" for turn in prompt)
