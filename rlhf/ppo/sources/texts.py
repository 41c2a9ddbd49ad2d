"""Answers as text: what a function, a service, or a reward model with another tokenizer is given."""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf.ppo.scoring import Answer

Turns = list[dict[str, str]]


@dataclass(frozen=True)
class Texts:
    """Answers as lists of the same length.

    Attributes:
        prompts: each as its record has it: text, or messages with role and content.
        responses: the texts that were sampled, without special tokens.
        metadata: of the prompts' records.
    """

    prompts: list[str | Turns]
    responses: list[str]
    metadata: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.prompts)


def as_texts(answers: list[Answer], tokenizer: PreTrainedTokenizerBase) -> Texts:
    """The answers' texts, by the policy's tokenizer."""
    return Texts(
        prompts=[_prompt(answer) for answer in answers],
        responses=[response_text(answer, tokenizer) for answer in answers],
        metadata=[dict(answer.prompt.record.metadata) if answer.prompt.record else {} for answer in answers],
    )


def response_text(answer: Answer, tokenizer: PreTrainedTokenizerBase) -> str:
    """What the response adds to the prompt's text, special tokens left out.

    Decoded behind the prompt: some tokenizers (SentencePiece's) drop a text's first space, which belongs to the
    response here.
    """
    given = _decoded(tokenizer, answer.prompt.token_ids)
    whole = _decoded(tokenizer, answer.prompt.token_ids + answer.response_ids)
    return whole[len(given) :] if whole.startswith(given) else _decoded(tokenizer, answer.response_ids)


def _prompt(answer: Answer) -> str | Turns:
    record = answer.prompt.record
    if record is None:
        return answer.prompt.text
    if isinstance(record.prompt, str):
        return record.prompt
    return [{"role": turn.role, "content": turn.content} for turn in record.prompt]


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
