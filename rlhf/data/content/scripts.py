"""Words in which a look-alike letter of another script stands for the right one."""

import re
from collections.abc import Iterator

_LATIN = r"A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
_CYRILLIC = r"\u0400-\u0481\u048a-\u052f"
_GREEK = r"\u0386\u0388-\u03ff"
_SEAM = re.compile(rf"[{_LATIN}][{_CYRILLIC}{_GREEK}]|[{_CYRILLIC}{_GREEK}][{_LATIN}]")
_LETTERS_BEFORE = re.compile(r"[^\W\d_]{1,40}\Z")
_LETTERS_AFTER = re.compile(r"[^\W\d_]{1,40}")
_IS_LATIN = re.compile(rf"[{_LATIN}]")
_IS_CYRILLIC = re.compile(rf"[{_CYRILLIC}]")
_IS_GREEK = re.compile(rf"[{_GREEK}]")
_INFLECTED_ACRONYM = re.compile(rf"[A-Z]{{2,}}[{_CYRILLIC}]{{1,4}}\Z")
"""`SMSа`: Russian and its neighbours write endings straight after foreign acronyms."""

_CYRILLIC_LIKE_LATIN = frozenset("асеорхуіјѕһԁԛԝАВЕКМНОРСТХІЈЅ")
_LATIN_LIKE_CYRILLIC = frozenset("aceopxyijsABCEHKMOPTXIJS")
_GREEK_LIKE_LATIN = frozenset("οόΑΒΕΖΗΙΚΜΝΟΡΤΥΧ")
"""Without small alpha, nu, rho and the like, which formulas and names of substances join to Latin letters."""
_LATIN_LIKE_GREEK = frozenset("oóvABEZHIKMNOPTYX")
_MIN_LETTERS = 3
"""Shorter words are mostly units and formulas, such as `kΩ` or `Δx`."""
_MIN_GREEK = 4
"""Fewer Greek letters beside Latin ones are mostly a formula."""


def find_mixed_word(text: str) -> str | None:
    """The first word whose letters are of two scripts, where all those of one script look like the other's.

    Latin with Cyrillic or Greek. Words that show their mixture, such as `SMSка`, `TNFα` or `μm`, are meant.
    """
    return next((word for word in _seam_words(text) if _is_disguised(word)), None)


def _seam_words(text: str) -> Iterator[str]:
    end = 0
    for seam in _SEAM.finditer(text):
        if seam.start() < end:
            continue
        middle = seam.start() + 1
        before = _LETTERS_BEFORE.search(text[max(0, middle - 40) : middle])
        after = _LETTERS_AFTER.match(text, middle)
        if before is not None and after is not None:
            end = after.end()
            yield before[0] + after[0]


def _is_disguised(word: str) -> bool:
    if len(word) < _MIN_LETTERS or _INFLECTED_ACRONYM.match(word):
        return False
    latin, cyrillic, greek = (set(pattern.findall(word)) for pattern in (_IS_LATIN, _IS_CYRILLIC, _IS_GREEK))
    if cyrillic:
        return cyrillic <= _CYRILLIC_LIKE_LATIN or latin <= _LATIN_LIKE_CYRILLIC
    num_greek = len(_IS_GREEK.findall(word))
    if greek <= _GREEK_LIKE_LATIN:
        return len(word) - num_greek >= 2
    return latin <= _LATIN_LIKE_GREEK and num_greek >= _MIN_GREEK
