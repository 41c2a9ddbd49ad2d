"""Rows of texts alone, which most files are made of: seen to keep the rules without building a record, five times as fast."""

from collections.abc import Mapping

from rlhf.recipe.data import RecordKind

_FIELDS: Mapping[RecordKind, tuple[set[str], ...]] = {
    "sft": ({"prompt", "completion"}, {"text"}),
    "preference": ({"prompt", "chosen", "rejected"}, {"chosen", "rejected"}),
    "prompt": ({"prompt"},),
    "rollout": (),
}


def is_plain(fields: dict[str, object], kind: RecordKind) -> bool:
    """Whether the fields are texts that plainly make a valid record of this kind; False says nothing."""
    if fields.keys() not in _FIELDS[kind]:
        return False
    for text in fields.values():
        if type(text) is not str or not text or text.isspace():
            return False
        if not text.isascii() and not _is_unicode(text):
            return False
    return kind != "preference" or fields["chosen"] != fields["rejected"]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
