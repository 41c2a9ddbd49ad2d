"""Pairs whose answers differ in nothing that counts."""

from rlhf.data.normalise import normalise
from rlhf_schemas import Message, PreferenceRecord

_BLANKS = b" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"
_START = 24


def are_twins(pair: PreferenceRecord) -> bool:
    """Whether chosen and rejected differ in case, white space or Unicode form alone."""
    chosen, rejected = pair.chosen, pair.rejected
    if isinstance(chosen, str) or isinstance(rejected, str):
        return isinstance(chosen, str) and isinstance(rejected, str) and _are_alike(chosen, rejected)
    return len(chosen) == len(rejected) and all(map(_are_turns_alike, chosen, rejected))


def _are_turns_alike(one: Message, other: Message) -> bool:
    return one.role == other.role and _are_alike(one.content, other.content)


def _are_alike(one: str, other: str) -> bool:
    if one == other:
        return True
    if _initials_differ(one[:1], other[:1]):
        return False
    if one.isascii() and other.isascii():
        return _letters(one) == _letters(other) and normalise(one) == normalise(other)
    return not _start_otherwise(one, other) and normalise(one) == normalise(other)


def _initials_differ(one: str, other: str) -> bool:
    """Whether two ASCII letters differ in more than case: normal forms keep such a letter, accents after it or not."""
    if not (one.isascii() and other.isascii() and one.isalpha() and other.isalpha()):
        return False
    return one.lower() != other.lower()


def _letters(text: str) -> bytes:
    """ASCII text without case and blanks: far cheaper than the normal form, and different only where that is."""
    return text.encode().lower().translate(None, _BLANKS)


def _start_otherwise(one: str, other: str) -> bool:
    """Whether ASCII starts already differ; their last letters may be half of an accented one."""
    one, other = one[:_START], other[:_START]
    if not (one.isascii() and other.isascii()):
        return False
    letters, others = _letters(one)[:-1], _letters(other)[:-1]
    length = min(len(letters), len(others))
    return letters[:length] != others[:length]
