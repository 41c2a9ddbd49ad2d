"""Records become token sequences here, for SFT, the reward model and PPO alike, so that all three see the same tokens.

A sequence is prompt + completion and ends at one end token: EOS for text, the template's end of turn for
conversations. The prompt's tokens are those that PPO feeds; what the model writes is tokenised as their continuation
and proved to decode to the record's text. Truncation, padding and batching are not done here.

Whether a conversation begins with BOS is the chat template's decision; for text it is the tokenizer's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from rlhf.errors import DataError
from rlhf.models.chat_template import PlainTurn, Turn, conversation_spans
from rlhf.models.continuation import continuation, tokens, tokens_after
from rlhf.models.tokenizer import eos_id
from rlhf_schemas import PreferenceRecord, SFTRecord

Content = str | Sequence[Turn]


@dataclass(frozen=True)
class Encoded:
    """A training sequence: its tokens, and for each whether it is a label (True = the loss counts it)."""

    input_ids: list[int]
    labels_mask: list[bool]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Content, *, chat: bool = False) -> list[int]:
    """The tokens that a policy continues: a conversation up to and with the generation prompt, or plain text.

    Args:
        prompt: text, or turns of which the last is not the assistant's.
        chat: take text as one user turn.

    Raises:
        DataError: an empty prompt, one that ends with an assistant turn, or one that the chat template refuses.
        ModelError: no chat template, or one that rewrites earlier turns.
    """
    if isinstance(prompt, str) and not chat:
        ids = text_start(tokenizer) + _without_bos(tokenizer, tokens(tokenizer, prompt))
        if not ids:
            raise DataError(
                "the prompt has no token", "Give it text, or use a tokenizer that begins with BOS."
            )
        return ids
    turns = _prompt_turns(prompt)
    if turns and turns[-1].role == "assistant":
        raise DataError(
            "the prompt ends with an assistant turn, so there is nothing left to answer",
            "Move that turn to the completion, or end the prompt with the user's turn.",
        )
    return _encode_turns(tokenizer, turns, generation_prompt=True).input_ids


def encode_completion(
    tokenizer: PreTrainedTokenizerBase, prompt: Content, completion: Content, *, chat: bool = False
) -> list[int]:
    """The tokens after `encode_prompt`'s: the completion and its end token; an empty one is the end token alone.

    Args:
        prompt: see `encode_prompt`.
        completion: text, or turns from the assistant's to the assistant's, of the prompt's form.
        chat: take text as one turn.

    Raises:
        DataError: a completion that contains an end token, does not start and end with an assistant turn, or cannot
            be written exactly in the tokenizer's vocabulary.
        ModelError: see `encode_prompt`.
    """
    encoded = _encode_both(tokenizer, prompt, completion, chat=chat)
    return encoded.input_ids[encoded.labels_mask.index(True) :]


def encode_sft(tokenizer: PreTrainedTokenizerBase, record: SFTRecord, *, chat: bool = False) -> Encoded:
    """A demonstration with its labels: the completion, every assistant turn of `messages`, or all of a plain text.

    An assistant turn's end token is a label; nothing of the prompt, of other turns or of a turn's header is.

    Raises:
        DataError, ModelError: see `encode_completion`; also a plain text where `chat` asks for turns.
    """
    if record.messages is not None:
        return _encode_conversation(tokenizer, record.messages)
    if record.text is not None:
        ids = _encode_whole_text(tokenizer, record.text, chat=chat)
        return Encoded(ids, [True] * len(ids))
    assert record.prompt is not None, "SFTRecord has exactly one shape"
    assert record.completion is not None, "SFTRecord has exactly one shape"
    return _encode_both(tokenizer, record.prompt, record.completion, chat=chat)


def encode_pair(
    tokenizer: PreTrainedTokenizerBase, record: PreferenceRecord, *, chat: bool = False
) -> tuple[list[int], list[int]]:
    """(chosen, rejected): for each the tokens that PPO would have scored, prompt and completion to the end token.

    Without a prompt, a conversation is taken as it is, and so is text.

    Raises:
        DataError, ModelError: see `encode_sft`.
    """
    chosen = _encode_answer(tokenizer, record.prompt, record.chosen, chat=chat)
    return chosen, _encode_answer(tokenizer, record.prompt, record.rejected, chat=chat)


def _encode_answer(
    tokenizer: PreTrainedTokenizerBase, prompt: Content | None, answer: Content, *, chat: bool
) -> list[int]:
    if prompt is not None:
        return _encode_both(tokenizer, prompt, answer, chat=chat).input_ids
    if isinstance(answer, str):
        return _encode_whole_text(tokenizer, answer, chat=chat)
    return _encode_conversation(tokenizer, answer).input_ids


def _encode_both(
    tokenizer: PreTrainedTokenizerBase, prompt: Content, completion: Content, *, chat: bool
) -> Encoded:
    """Prompt and completion; the labels are what the model writes after the prompt."""
    prompt_ids = encode_prompt(tokenizer, prompt, chat=chat)
    unlearned = [False] * len(prompt_ids)
    if not chat and isinstance(prompt, str) and isinstance(completion, str):
        body = continuation(tokenizer, prompt_ids, _trim_end(tokenizer, completion))
        ids = _end_text(tokenizer, body, completion)
        return Encoded(prompt_ids + ids, unlearned + [True] * len(ids))
    if not chat and isinstance(prompt, str) != isinstance(completion, str):
        raise DataError(
            "one of prompt and completion is text, the other is turns",
            "Write both the same way, or set data.chat: true, which makes turns of text.",
        )
    answer = [PlainTurn("assistant", completion)] if isinstance(completion, str) else completion
    if not answer or answer[0].role != "assistant":
        raise DataError(
            "a completion does not start with an assistant turn", "Move the turns before it to the prompt."
        )
    whole = _encode_conversation(tokenizer, [*_prompt_turns(prompt), *answer])
    return Encoded(whole.input_ids, unlearned + whole.labels_mask[len(prompt_ids) :])


def _encode_conversation(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> Encoded:
    if not turns or turns[-1].role != "assistant":
        raise DataError(
            "a conversation does not end with an assistant turn",
            "Remove the turns behind the last assistant turn: nothing is learned from them.",
        )
    return _encode_turns(tokenizer, turns, generation_prompt=False)


def _encode_turns(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], *, generation_prompt: bool
) -> Encoded:
    """Span by span, so that a conversation's tokens begin with those of each earlier prompt in it."""
    ids: list[int] = []
    mask: list[bool] = []
    for span in conversation_spans(tokenizer, turns, generation_prompt=generation_prompt):
        if span.by_model:
            new = _one_end(tokenizer, continuation(tokenizer, ids, span.text), span.text)
        else:
            new = tokens_after(tokenizer, ids[-1], span.text) if ids else tokens(tokenizer, span.text)
        ids += new
        mask += [span.by_model] * len(new)
    return Encoded(ids, mask)


def _encode_whole_text(tokenizer: PreTrainedTokenizerBase, text: str, *, chat: bool) -> list[int]:
    if chat:
        raise DataError(
            "data.chat is true, and this row is one text, without the prompt apart",
            "Split it into prompt and completion (or turns), or set data.chat: false.",
        )
    body = _without_bos(tokenizer, tokens(tokenizer, _trim_end(tokenizer, text)))
    return text_start(tokenizer) + _end_text(tokenizer, body, text)


def _prompt_turns(prompt: Content) -> Sequence[Turn]:
    return [PlainTurn("user", prompt)] if isinstance(prompt, str) else prompt


def text_start(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer itself puts in front of a text (BOS or nothing); what it appends is not wanted here."""
    body = tokens(tokenizer, "a")
    whole = tokenizer.encode("a", add_special_tokens=True)
    starts = (n for n in range(len(whole)) if whole[n : n + len(body)] == body)
    return list(whole[: next(starts, 0)])


def _without_bos(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """Without a BOS that the text itself begins with, where the tokenizer adds one."""
    start = text_start(tokenizer)
    return ids[len(start) :] if start and ids[: len(start)] == start else ids


def _trim_end(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Without an EOS that the data already carry at the end."""
    return text.removesuffix(str(tokenizer.eos_token))


def _end_text(tokenizer: PreTrainedTokenizerBase, ids: list[int], text: str) -> list[int]:
    """With EOS, where `ids` hold none; BOS, which may be the same token, is not among them."""
    return _one_end(tokenizer, [*ids, eos_id(tokenizer)], text)


def _one_end(tokenizer: PreTrainedTokenizerBase, ids: list[int], text: str) -> list[int]:
    ends = {eos_id(tokenizer), ids[-1]}
    inside = next((token for token in ids[:-1] if token in ends), None)
    if inside is not None:
        raise DataError(
            f"{tokenizer.decode([inside])!r}, which ends a response, stands inside this one: {text[:80]!r}",
            "Remove it from the data, or split the row there.",
        )
    return ids
