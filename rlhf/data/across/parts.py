"""A record as its prompt and what answers it, whatever its shape."""

from typing import cast

from rlhf.recipe.data import RecordKind
from rlhf_schemas import Message, PreferenceRecord, PromptRecord, Record, RolloutRecord, SFTRecord

Turns = str | list[Message]
Parts = tuple[Turns | None, ...]
"""The prompt (None where a row has none of its own), then the answers, chosen before rejected."""

NUM_PARTS: dict[RecordKind, int] = {"sft": 2, "preference": 3, "prompt": 1, "rollout": 2}
"""Kind of record -> its number of parts."""


def parts_of(record: Record, kind: RecordKind) -> Parts:
    """The record's texts or messages, prompt first.

    Of a conversation the last turn is the answer and all before it the prompt; a pair of conversations has the
    messages that both share as its prompt. Plain text is an answer without a prompt.
    """
    if kind == "preference":
        pair = cast(PreferenceRecord, record)
        if pair.prompt is None:
            pair = pair.explicit()
        return pair.prompt, pair.chosen, pair.rejected
    if kind == "sft":
        row = cast(SFTRecord, record)
        if row.messages is not None:
            return row.messages[:-1], row.messages[-1:]
        return row.prompt, row.text if row.completion is None else row.completion
    if kind == "prompt":
        return (cast(PromptRecord, record).prompt,)
    rollout = cast(RolloutRecord, record)
    return rollout.prompt, rollout.response


def content_of(turns: Turns | None) -> str:
    """All that is said, without roles; nothing for None."""
    if isinstance(turns, str):
        return turns
    return "" if turns is None else "\n".join(message.content for message in turns)
