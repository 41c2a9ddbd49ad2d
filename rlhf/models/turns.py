"""What stays of a dialogue's history, or of a text prompt, that is too long: the newest part."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from rlhf.models.chat_template import Turn
from rlhf.models.sequences import encode_prompt, text_start

AnyTurn = TypeVar("AnyTurn", bound=Turn)


def newest_turns(
    turns: Sequence[AnyTurn], *, keep: int, fits: Callable[[list[AnyTurn]], bool]
) -> list[AnyTurn]:
    """The conversation without its oldest exchanges: as few of them go as make it fit.

    A system message at the start stays. What is left of the history begins with a user's turn.

    Args:
        turns: a system message or none, then user and assistant in turn.
        keep: how many turns at the end stay in any case; the first of them is the user's.
        fits: whether a conversation is short enough; asked about log2(exchanges) of them.

    Returns:
        The longest end that fits; where none does, the shortest one, so measure it.
    """
    head = list(turns[:1]) if turns[0].role == "system" else []
    starts = [index for index in range(len(head) + 1, len(turns) - keep + 1) if turns[index].role == "user"]
    if not starts:
        return list(turns)
    low, high = 0, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        if fits(head + list(turns[starts[middle] :])):
            high = middle
        else:
            low = middle + 1
    return head + list(turns[starts[low] :])


def newest_text(tokenizer: PreTrainedTokenizerBase, text: str, limit: int) -> tuple[str, list[int]] | None:
    """The longest end of a text prompt within `limit` tokens, and its tokens; BOS stays where the tokenizer begins with it.

    The tokens are the newest of the prompt's own, and just those of the returned text, so that whoever encodes the
    text again gets what the policy read: an end that splits a character, or that the tokenizer would write in
    another way, is made shorter.

    Returns:
        None where no end fits.
    """
    begin = text_start(tokenizer)
    body = encode_prompt(tokenizer, text)[len(begin) :]
    for size in range(min(limit - len(begin), len(body)), 0, -1):
        kept = body[-size:]
        end = str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        if end.strip() and text.endswith(end) and encode_prompt(tokenizer, end) == begin + kept:
            return end, begin + kept
    return None
