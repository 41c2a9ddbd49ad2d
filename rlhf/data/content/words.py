"""Words and phrases that the user wants to be told of."""

import re
import unicodedata
from pathlib import Path

from rlhf.data.normalise import normalise
from rlhf.errors import DataError

_WORD = re.compile(r"\w+")
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Letters of Thai, Lao, Burmese, Khmer, Japanese and Chinese, which put no space between words."""


class SensitiveWords:
    """A list of words and phrases, found whole, whatever their case, white space and Unicode form.

    In scripts without spaces between words, and where an entry has no letter, an entry is found anywhere.
    """

    def __init__(self, path: str) -> None:
        """Read the file, UTF-8 with an entry a line; blank lines hold none.

        Raises:
            DataError: the file cannot be read, is not UTF-8, or has no entry.
        """
        self._by_first_word: dict[str, list[str]] = {}
        self._anywhere: dict[str, list[str]] = {}
        for entry in _read(path):
            first = _WORD.search(entry)
            if first is None or _UNSPACED.search(entry):
                self._anywhere.setdefault(entry[0], []).append(entry)
            else:
                self._by_first_word.setdefault(first[0], []).append(entry)

    def find(self, text: str) -> str | None:
        """An entry that the text holds, in normal form, or None."""
        text = normalise(text)
        for word in self._by_first_word.keys() & set(_WORD.findall(text)):
            for entry in self._by_first_word[word]:
                if _stands_alone(entry, text):
                    return entry
        for char in self._anywhere.keys() & set(text) if self._anywhere else ():
            for entry in self._anywhere[char]:
                if entry in text:
                    return entry
        return None


def _read(path: str) -> list[str]:
    remedy = (
        "Name a UTF-8 text file with a word or phrase a line in data.checks.sensitive_words, or leave it out."
    )
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot read the sensitive words: {error.strerror}", remedy) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the sensitive words are not UTF-8 at byte {error.start}", remedy) from error
    entries = sorted({normalise(line) for line in lines} - {""})
    if not entries:
        raise DataError(f"{path}: no sensitive word in the file", remedy)
    return entries


def _stands_alone(entry: str, text: str) -> bool:
    start = text.find(entry)
    while start >= 0:
        end = start + len(entry)
        if not (_joins(entry[0], text[start - 1 : start]) or _joins(entry[-1], text[end : end + 1])):
            return True
        start = text.find(entry, start + 1)
    return False


def _joins(edge: str, neighbour: str) -> bool:
    """Whether the entry's edge and the character beside it are of one word; `c++` may stand before a letter."""
    return _is_of_word(neighbour) and _is_of_word(edge)


def _is_of_word(char: str) -> bool:
    return char != "" and (char.isalnum() or char == "_" or unicodedata.category(char)[0] == "M")
