"""A reward model as a source of scores, on the tokens as sampled or, with another tokenizer or template, through text."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from rlhf.errors import DataError, TrainingError
from rlhf.models.chat_template import PlainTurn, end_of_turn_id
from rlhf.models.continuation import tokens
from rlhf.models.forward import scores_together
from rlhf.models.offload import on_device
from rlhf.models.sequences import encode_completion, encode_prompt
from rlhf.models.tokenizer import eos_id
from rlhf.ppo.micro_batches import MicroBatches, pass_without_gradient
from rlhf.ppo.scoring import Answer
from rlhf.ppo.sources.texts import response_text

Sequences = Callable[[Answer], list[int]]
"""An answer -> the tokens that the reward model reads."""


class ModelSource:
    """Scores of a reward model, read at the last token.

    Args:
        name: the source's name in the recipe.
        model: frozen, without dropout, in evaluation mode.
        sequences: makes the tokens that it reads.
        batch_size: sequences in one forward pass.
        micro_batches: says how many tokens one may have.
        device: where the model goes for its forward passes; None: where it lies.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        sequences: Sequences,
        *,
        batch_size: int,
        micro_batches: MicroBatches,
        device: torch.device | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self.sequences = sequences
        self.batch_size = batch_size
        self.micro_batches = micro_batches
        self.device = next(model.parameters()).device if device is None else device

    def score(self, answers: list[Answer]) -> list[float]:
        """See `Source`."""
        sequences = [self.sequences(answer) for answer in answers]
        positions = getattr(cast(Any, self.model).config, "max_position_embeddings", None)
        longest = max(map(len, sequences), default=0)
        if positions and longest > positions:
            raise TrainingError(
                f"source {self.name}: a prompt with its response has {longest} of the reward model's tokens, "
                f"which reads at most {positions}",
                "Lower ppo.max_prompt_length or ppo.sampling.max_new_tokens.",
            )
        lengths = [(len(sequence), 0) for sequence in sequences]
        parts = self.micro_batches.split(range(len(sequences)), lengths, max_rows=self.batch_size)
        with on_device(self.model, self.device):
            scores = pass_without_gradient(
                parts, lengths, lambda rows: (scores_together(self.model, [sequences[row] for row in rows]),)
            )
        return [float(scores[row][0]) for row in range(len(sequences))]


class AsSampled:
    """Prompt and response as the policy saw and sampled them; for a reward model of the same tokenizer and template.

    A response that a stop text ended gets the end token, since every sequence that the reward model was trained on
    ends with it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> None:
        self.tokenizer = tokenizer
        self.chat = chat

    def __call__(self, answer: Answer) -> list[int]:
        """The sequence of one answer."""
        ids = answer.prompt.token_ids + answer.response_ids
        if answer.finish_reason != "stop":
            return ids
        end = _end_id(self.tokenizer, answer, chat=self.chat)
        return ids if ids[-1] == end else [*ids, end]


class ThroughText:
    """The prompt's record and the response's text, as this reward model's own tokenizer and template write them.

    The end token stands where the response came to an end, and not where it was cut (trl#1979: other tokens than the
    reward model was trained on give scores without a meaning).

    Args:
        name: the source's name, for the log.
        policy_tokenizer: what the response was sampled with.
        tokenizer: the reward model's.
        chat: `data.chat`: text prompts are one user turn.
    """

    def __init__(
        self,
        name: str,
        policy_tokenizer: PreTrainedTokenizerBase,
        tokenizer: PreTrainedTokenizerBase,
        *,
        chat: bool,
    ) -> None:
        self.name = name
        self.policy_tokenizer = policy_tokenizer
        self.tokenizer = tokenizer
        self.chat = chat
        self.num_inexact = 0

    def __call__(self, answer: Answer) -> list[int]:
        """The sequence of one answer."""
        record = answer.prompt.record
        assert record is not None, "a prompt that is scored through text keeps its record"
        prompt_ids = encode_prompt(self.tokenizer, record.prompt, chat=self.chat)
        end = _end_id(self.tokenizer, answer, chat=self.chat)
        text = self._without_ends(response_text(answer, self.policy_tokenizer))
        completion = text if isinstance(record.prompt, str) else [PlainTurn("assistant", text)]
        try:
            ids = encode_completion(self.tokenizer, record.prompt, completion, chat=self.chat)
        except DataError as error:
            ids = self._inexact(text, end, error)
        return prompt_ids + (ids[:-1] if answer.finish_reason == "length" else ids)

    def _without_ends(self, text: str) -> str:
        """A policy may spell this model's end token out in plain letters: it must not end the sequence early."""
        for token in {eos_id(self.tokenizer), end_of_turn_id(self.tokenizer)} - {None}:
            text = text.replace(str(self.tokenizer.convert_ids_to_tokens(cast(int, token))), "")
        return text

    def _inexact(self, text: str, end: int, error: DataError) -> list[int]:
        """What its vocabulary or template cannot hold exactly is scored as it comes out: a sample cannot be mended."""
        self.num_inexact += 1
        if self.num_inexact == 1:
            print(
                f"source {self.name}: scores a response inexactly, from now on silently: {error.message}",
                flush=True,
            )
        return [*tokens(self.tokenizer, text), end]


def _end_id(tokenizer: PreTrainedTokenizerBase, answer: Answer, *, chat: bool) -> int:
    """What ends this answer in training: the template's end of turn in a conversation, else EOS."""
    record = answer.prompt.record
    is_chat = chat or (record is not None and not isinstance(record.prompt, str))
    end = end_of_turn_id(tokenizer) if is_chat else None
    return eos_id(tokenizer) if end is None else end
