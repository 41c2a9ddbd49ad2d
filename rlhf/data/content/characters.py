"""Characters that no text should hold."""

import re

CONTROL = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
"""Control characters but NUL, tab and the line breaks (line feed, carriage return, next line)."""


def find_nul(text: str) -> str | None:
    """A NUL character with what stands around it."""
    return _around(text, text.find("\0"))


def find_control(text: str) -> str | None:
    """The first control character with what stands around it."""
    found = CONTROL.search(text)
    return None if found is None else _around(text, found.start())


def find_replacement(text: str) -> str | None:
    """The first U+FFFD with what stands around it."""
    return _around(text, text.find("\ufffd"))


def _around(text: str, index: int) -> str | None:
    return None if index < 0 else text[max(0, index - 20) : index + 20]
