"""A record's texts with the path of each, as checks and clean-up go through them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rlhf.recipe.data import RecordKind

if TYPE_CHECKING:
    from rlhf_schemas import Record

TEXT_FIELDS: dict[RecordKind, tuple[str, ...]] = {
    "sft": ("prompt", "completion", "messages", "text"),
    "preference": ("prompt", "chosen", "rejected"),
    "prompt": ("prompt",),
    "rollout": ("prompt", "response"),
}
"""Kind of record -> the fields that hold text or messages."""


def texts_of(record: "Record", kind: RecordKind) -> Iterator[tuple[str, str]]:
    """(path, text) of everything that a model would read, such as `("messages[1].content", "Hi.")`."""
    for name in TEXT_FIELDS[kind]:
        value = getattr(record, name)
        if isinstance(value, str):
            yield name, value
        elif value is not None:
            for index, message in enumerate(value):
                yield f"{name}[{index}].content", message.content
