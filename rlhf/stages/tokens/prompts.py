"""The prompts that PPO answers, as tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from rlhf.errors import DataError
from rlhf.models.sequences import encode_prompt
from rlhf.models.turns import newest_text, newest_turns
from rlhf.ppo.prompts import Prompt
from rlhf.recipe.ppo import PPOSection
from rlhf.stages.tokens.encoders import refused
from rlhf.stages.tokens.outcome import Outcome, OverLength
from rlhf.stages.tokens.problems import RowProblems
from rlhf.stages.tokens.rows import Layout
from rlhf.stages.tokens.shared import Encoding, cached_rows
from rlhf.stages.tokens.splits import Split
from rlhf_schemas import Message, PromptRecord


@dataclass(frozen=True)
class Prompts:
    """A split's prompts in its order, and how many its length rule touched; a prompt's id is its row before that.

    Attributes:
        rows: those that are left, read from the disk as they are asked for.
        num_dropped, num_truncated: prompts that were too long.
        prepared: what was done to the split's rows before, for people.
    """

    rows: Sequence[Prompt]
    num_dropped: int = 0
    num_truncated: int = 0
    prepared: str = ""

    def __str__(self) -> str:
        too_long = f"{self.num_dropped} dropped, {self.num_truncated} truncated"
        return f"{self.prepared}{len(self.rows)} prompts; too long: {too_long}"


@dataclass(frozen=True)
class EncodedPrompt:
    """What the policy reads, and the record that says just that."""

    token_ids: list[int]
    record: PromptRecord


@dataclass(frozen=True)
class PromptEncoder:
    """Prompt records.

    `truncate` keeps a conversation's system message and newest turns, and of a text the newest tokens; what does not
    fit even so is too long.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    over_length: OverLength
    chat: bool

    def __call__(self, record: PromptRecord) -> Outcome[EncodedPrompt]:
        """See Encoder."""
        try:
            ids = self._encode(record.prompt)
            length = len(ids)
            if length <= self.max_length:
                return Outcome("whole", EncodedPrompt(ids, record), length)
            newest = self._newest(record) if self.over_length == "truncate" else None
        except DataError as error:
            return refused(error)
        if newest is None or len(newest.token_ids) > self.max_length:
            return Outcome("too_long", None, length)
        return Outcome("truncated", newest, length)

    def describe(self) -> dict[str, Any]:
        """See Encoder."""
        return {
            "row": type(self).__name__,
            "max_length": self.max_length,
            "over_length": self.over_length,
            "chat": self.chat,
        }

    def _encode(self, prompt: str | list[Message]) -> list[int]:
        return encode_prompt(self.tokenizer, prompt, chat=self.chat)

    def _newest(self, record: PromptRecord) -> EncodedPrompt | None:
        prompt = record.prompt
        if isinstance(prompt, list):
            turns = newest_turns(prompt, keep=1, fits=lambda some: len(self._encode(some)) <= self.max_length)
            return EncodedPrompt(self._encode(turns), record.model_copy(update={"prompt": turns}))
        if self.chat or (newest := newest_text(self.tokenizer, prompt, self.max_length)) is None:
            return None
        text, ids = newest
        return EncodedPrompt(ids, record.model_copy(update={"prompt": text}))


def prompts(tokenizer: PreTrainedTokenizerBase, split: Split, section: PPOSection, *, cache: Path) -> Prompts:
    """The prompts as tokens, in the order of the split.

    Args:
        tokenizer: the policy's.
        split: what is read.
        section: `max_prompt_length`, and the rule for longer ones.
        cache: a folder of any number of splits; see `token_folder`.

    Raises:
        DataError: invalid rows; prompts that the template refuses; prompts too long (under `error`), with file and
            line; or no prompt left.
    """
    limit, rule = section.max_prompt_length, section.over_length
    remedy = "Raise it, remove these prompts, or set ppo.over_length to drop or truncate."
    nothing_left = DataError(
        f"data.{split.read.key}: no prompt is left: all are longer than ppo.max_prompt_length={limit}, or cannot be encoded",
        "Raise ppo.max_prompt_length.",
    )

    def problems() -> RowProblems:
        return RowProblems("ppo.max_prompt_length", limit, rule, {"too_long": remedy}, split.checks.severity)

    encoder = PromptEncoder(tokenizer, limit, rule, split.chat)
    rows, facts = cached_rows(split, Encoding(encoder, problems, _prompt, PROMPTS, nothing_left), cache)
    return Prompts(rows, facts["num_dropped"], facts["num_truncated"], facts["prepared"])


def _prompt(index: int, encoded: EncodedPrompt) -> Prompt:
    record = encoded.record
    return Prompt(index, encoded.token_ids, _text(record.prompt), record)


def _values(prompt: Prompt) -> dict[str, Any]:
    assert prompt.record is not None, "made by `_prompt`"
    # only what was set: a record that is read again is equal to the one that was written
    record = prompt.record.model_dump_json(exclude_unset=True)
    return {"prompt_id": prompt.prompt_id, "token_ids": prompt.token_ids, "record": record}


def _read(values: dict[str, Any]) -> Prompt:
    record = PromptRecord.model_validate_json(values["record"])
    return _prompt(values["prompt_id"], EncodedPrompt(values["token_ids"], record))


PROMPTS: Layout[Prompt] = Layout(
    pa.schema([("prompt_id", pa.int64()), ("token_ids", pa.list_(pa.int32())), ("record", pa.string())]),
    _values,
    _read,
)
"""The record as JSON text, so that all splits have one schema."""


def _text(prompt: str | list[Message]) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(f"{turn.role}: {turn.content}" for turn in prompt)
