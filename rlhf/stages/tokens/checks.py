"""What only the recipe's tokenizer shows of a split: the checks of the group `tokens`."""

import heapq
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf.data import Fault, Located, Place
from rlhf.data.content.markers import find_special_token
from rlhf.data.fault import make_fault
from rlhf.data.place import where
from rlhf.data.progress import TOLD_ROWS
from rlhf.data.scan import grade
from rlhf.data.texts import texts_of
from rlhf.errors import ModelError
from rlhf.models.chat_template import end_of_turn_id
from rlhf.recipe import Recipe, Stage
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.ppo import PPOSection
from rlhf.recipe.recipe import ReadSplit
from rlhf.recipe.training import RewardSection, SFTSection
from rlhf.stages.ptx_rule import ptx_section
from rlhf.stages.tokens.encode import encode_rows
from rlhf.stages.tokens.encoders import Pair, demonstration_encoder, pair_encoder
from rlhf.stages.tokens.outcome import Encoder, Outcome
from rlhf.stages.tokens.prompts import PromptEncoder
from rlhf.stages.tokens.splits import Split
from rlhf.stages.tokens.template import prove_template

LengthSection = SFTSection | RewardSection | PPOSection
NUM_LONGEST = 3
"""Rows that `over_length` names."""


def check_tokens(
    tokenizer: PreTrainedTokenizerBase,
    read: ReadSplit,
    section: LengthSection,
    *,
    chat: bool,
    checks: ChecksSection,
    on_rows: Callable[[int], None] | None = None,
) -> Iterator[Fault]:
    """What is found in the prepared rows of a split, in their order; constant memory.

    Args:
        tokenizer: the recipe's, see `load_recipe_tokenizer`.
        read: the split.
        section: the stage's, for its length rule; see `section_of`.
        chat: `data.chat`.
        checks: severities, and `max_cut_share`.
        on_rows: told now and then how many rows are done.

    Raises:
        DataError: rows that are faulty without any tokenizer, and are not to be left out.
    """
    finder = _Finder(tokenizer, read, section, chat, checks)
    stops_run = section.over_length == "error"
    for fault in finder.find(checks.max_cut_share, on_rows):
        # whatever the recipe says, the stage stops at these: rows too long under `error`, and a template that fails
        is_fixed = (stops_run and fault.code == "over_length") or (
            fault.row is None and fault.code == "cannot_encode"
        )
        graded = fault if is_fixed else grade(fault, dict(checks.severity))
        if graded is not None:
            yield graded


def section_of(recipe: Recipe, stage: Stage, read: ReadSplit) -> LengthSection:
    """The section whose length rule a stage applies to a split that it reads."""
    return ptx_section(recipe) if stage == "ppo" and read.kind == "sft" else recipe.section(stage)


class _Finder:
    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        read: ReadSplit,
        section: LengthSection,
        chat: bool,
        checks: ChecksSection,
    ) -> None:
        self._tokenizer = tokenizer
        self._read = read
        self._limit = section.max_prompt_length if isinstance(section, PPOSection) else section.max_length
        self._is_error = section.over_length == "error"
        self._encoder = _encoder(tokenizer, section, chat)
        self._split = Split(read, chat, checks)
        self._specials = _special_tokens(tokenizer)
        self._seen: list[Fault] = []
        self._num_rows = self._num_longer = 0
        self._longest: list[tuple[int, int, Place]] = []

    def find(self, max_cut_share: float, on_rows: Callable[[int], None] | None) -> Iterator[Fault]:
        rows = prove_template(self._looked_at(), self._tokenizer, chat=self._split.chat)
        try:
            for place, outcome in encode_rows(rows, self._encoder):
                yield from self._seen
                self._seen.clear()
                yield from self._judge(place, outcome)
                if on_rows is not None and self._num_rows % TOLD_ROWS == 0:
                    on_rows(self._num_rows)
        except ModelError as error:
            yield self._of_template(error)
            return
        if self._num_longer > max_cut_share * self._num_rows and not self._is_error:
            yield self._of_lengths()

    def _looked_at(self) -> Iterator[Located[Any]]:
        """The rows, once their texts have been looked at for special tokens; what that found waits in `_seen`."""
        for item in self._split.rows():
            for field, text in texts_of(item.record, self._read.kind):
                token = self._special_token(text)
                if token is not None:
                    message = f"holds {token!r}, a special token of this tokenizer"
                    self._seen.append(make_fault("special_token", item.place, message, field=field))
            yield item

    def _special_token(self, text: str) -> str | None:
        """The first one, but for what the check without a tokenizer tells, and for an EOS that ends the text."""
        if self._specials is None or find_special_token(text) is not None:
            return None
        found = self._specials.search(text.removesuffix(str(self._tokenizer.eos_token)))
        return None if found is None else found.group()

    def _judge(self, place: Place, outcome: Outcome[Any]) -> Iterator[Fault]:
        self._num_rows += 1
        if outcome.length > self._limit:
            self._num_longer += 1
            ranked = (outcome.length, -self._num_rows, place)
            keep = heapq.heappush if len(self._longest) < NUM_LONGEST else heapq.heappushpop
            keep(self._longest, ranked)
        row = outcome.row
        if outcome.verdict == "refused":
            yield make_fault("cannot_encode", place, outcome.message, remedy=outcome.remedy)
        elif outcome.verdict == "no_label":
            message = f"has no label left within {self._limit} of its {outcome.length} tokens"
            yield make_fault("no_label", place, message)
        elif outcome.verdict == "equal" or (isinstance(row, Pair) and row.chosen_ids == row.rejected_ids):
            message = f"has answers with the same tokens within {self._limit}"
            yield make_fault("equal_after_truncation", place, message, field="chosen")
        elif outcome.verdict == "too_long" and self._is_error:
            message = f"has {outcome.length} tokens, more than {self._limit}"
            yield replace(make_fault("over_length", place, message), severity="error")

    def _of_template(self, error: ModelError) -> Fault:
        tokenizer = self._tokenizer
        endless = tokenizer.chat_template is not None and end_of_turn_id(tokenizer) is None
        code = "template_no_stop" if endless else "cannot_encode"
        return make_fault(code, Place(self._read.source.path), error.message, remedy=error.remedy)

    def _of_lengths(self) -> Fault:
        share = self._num_longer / self._num_rows
        longest = ", ".join(
            f"{where(place)} ({length} tokens)" for length, _, place in sorted(self._longest, reverse=True)
        )
        rows = f"{self._num_longer} of {self._num_rows} rows ({share:.1%})"
        message = f"has {rows} that are longer than {self._limit} tokens, the longest {longest}"
        return make_fault("over_length", Place(self._read.source.path), message)


def _encoder(tokenizer: PreTrainedTokenizerBase, section: LengthSection, chat: bool) -> Encoder[Any]:
    if isinstance(section, PPOSection):
        return PromptEncoder(tokenizer, section.max_prompt_length, section.over_length, chat)
    if isinstance(section, RewardSection):
        return pair_encoder(tokenizer, section, chat=chat)
    return demonstration_encoder(tokenizer, section, chat=chat)


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    texts = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    texts |= {str(token) for token in tokenizer.all_special_tokens}
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
