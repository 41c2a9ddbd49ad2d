"""Filler words taken out of texts, with the commas and blanks that set them off."""

import re
from collections.abc import Callable
from pathlib import Path

from rlhf.errors import DataError

_REMEDY = "Give a UTF-8 text file with a word or phrase a line as `prepare.filler_words`."
_BLANK = " \t"


def read_words(path: str) -> list[str]:
    """The words and phrases of a list, one a line; empty lines hold none.

    Raises:
        DataError: it cannot be read, is not UTF-8, or holds nothing.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "is not UTF-8"
        raise DataError(f"{path}: the list of filler words cannot be read: {reason}", _REMEDY) from error
    words = [" ".join(line.split()) for line in lines if line.strip()]
    if not words:
        raise DataError(f"{path}: the list of filler words is empty", _REMEDY)
    return words


def filler_remover(words: list[str]) -> Callable[[str], str]:
    """A function that removes these words and phrases where they stand whole, whatever their case.

    Part of a longer word, also over a hyphen or an apostrophe (`like-minded`), is not whole. Commas go with the word on
    both sides, or with the end of its sentence; a comma on one side alone stays.
    """
    ordered = sorted(words, key=len, reverse=True)  # of two that begin alike, the longer one
    one = "|".join(r"\s+".join(re.escape(part) for part in word.split()) for word in ordered)
    whole = rf"(?<![\w'’-])(?:{one})(?![\w'’-])"
    pattern = re.compile(rf"{whole}(?:[ \t]*+(?:,[ \t]*+)?{whole})*", re.IGNORECASE)

    def remove(text: str) -> str:
        if pattern.search(text) is None:
            return text
        kept, start = "", 0
        for found in pattern.finditer(text):
            kept += text[start : found.start()]
            kept, start = _join(kept, text, found.end())
        return kept + text[start:]

    return remove


def _join(before: str, text: str, start: int) -> tuple[str, int]:
    """Close the gap between what was kept and `text[start:]`: what is kept now, and from where the text goes on."""
    head = before.rstrip(_BLANK)
    comma_before = head.endswith(",")
    stop = _skip_blanks(text, start)
    comma_after = text[stop : stop + 1] == ","
    if comma_after:
        stop = _skip_blanks(text, stop + 1)
    following = text[stop : stop + 1]
    if not head or head[-1] in "\n([{":
        return head, stop
    if not following or following in "\n.!?;:)]}":
        return head.rstrip("," + _BLANK), stop
    if comma_before and comma_after:
        return head[:-1] + " ", stop
    if comma_before or comma_after:
        return head.removesuffix(",") + ", ", stop
    apart = len(head) < len(before) or stop > start
    return head + (" " if apart else ""), stop


def _skip_blanks(text: str, start: int) -> int:
    while text[start : start + 1] in (" ", "\t"):
        start += 1
    return start
