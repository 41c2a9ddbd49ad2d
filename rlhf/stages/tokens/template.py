"""The chat template is proved on a probe before a row needs it: its faults are not those of a row."""

from collections.abc import Iterable, Iterator
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf.data import Located
from rlhf.models.chat_template import check_chat_template


def prove_template(
    rows: Iterable[Located[Any]], tokenizer: PreTrainedTokenizerBase, *, chat: bool
) -> Iterator[Located[Any]]:
    """The same rows; the template is probed in front of the first with turns, and again in front of the first with several questions.

    Raises:
        ModelError: see `check_chat_template`.
    """
    proved = 0
    for item in rows:
        needed = min(2, max(int(chat), _num_user_turns(item.record)))
        if needed > proved:
            check_chat_template(tokenizer, multi_turn=needed > 1)
            proved = needed
        yield item


def _num_user_turns(record: Any) -> int:
    """User turns of a conversation; 0 for text."""
    parts = (getattr(record, name, None) for name in ("messages", "prompt", "completion", "chosen"))
    return sum(turn.role == "user" for part in parts if isinstance(part, list) for turn in part)
