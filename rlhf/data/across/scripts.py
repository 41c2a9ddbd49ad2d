"""In which script a record is written, and which records stand apart by theirs."""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator

from rlhf.data.across.finding import Finding
from rlhf.data.across.parts import Parts, content_of

MIN_ROWS = 20
COMMON = 0.9
RARE = 0.05
SAMPLE = 256
"""Characters, evenly spaced, by which a text outside ASCII is judged."""

SCRIPTS = (
    "none", "latin", "greek", "cyrillic", "armenian", "hebrew", "arabic", "devanagari", "bengali", "tamil", "thai",
    "georgian", "hangul", "ethiopic", "khmer", "han", "other",
)  # fmt: skip
"""By number. `han` is Chinese and Japanese, kana included; `none` has no letters."""

_RANGES = [
    (0x41, 0x24F, "latin"), (0x250, 0x2AF, "latin"), (0x370, 0x3FF, "greek"), (0x400, 0x52F, "cyrillic"),
    (0x531, 0x58F, "armenian"), (0x591, 0x5FF, "hebrew"), (0x600, 0x6FF, "arabic"), (0x750, 0x77F, "arabic"),
    (0x8A0, 0x8FF, "arabic"), (0x900, 0x97F, "devanagari"), (0x980, 0x9FF, "bengali"), (0xB80, 0xBFF, "tamil"),
    (0xE00, 0xE7F, "thai"), (0x10A0, 0x10FF, "georgian"), (0x1100, 0x11FF, "hangul"), (0x1200, 0x139F, "ethiopic"),
    (0x1780, 0x17FF, "khmer"), (0x1C80, 0x1C8F, "cyrillic"), (0x1E00, 0x1EFF, "latin"), (0x1F00, 0x1FFF, "greek"),
    (0x2DE0, 0x2DFF, "cyrillic"), (0x3005, 0x3007, "han"), (0x3040, 0x30FF, "han"), (0x3130, 0x318F, "hangul"),
    (0x31F0, 0x31FF, "han"), (0x3400, 0x9FFF, "han"), (0xA640, 0xA69F, "cyrillic"), (0xAC00, 0xD7FF, "hangul"),
    (0xF900, 0xFAFF, "han"), (0xFB1D, 0xFB4F, "hebrew"), (0xFB50, 0xFDFF, "arabic"), (0xFE70, 0xFEFF, "arabic"),
    (0xFF21, 0xFF5A, "latin"), (0xFF66, 0xFF9F, "han"), (0x20000, 0x3FFFF, "han"),
]  # fmt: skip
_STARTS = [start for start, _, _ in _RANGES]
_NONE, _LATIN = 0, 1
_ASCII_LETTER = re.compile("[A-Za-z]")
_NOT_ASCII_LETTERS = bytes(byte for byte in range(256) if not chr(byte).isalpha() or byte > 127)


class ScriptColumn:
    """The script of each of many records: a byte a record."""

    def __init__(self) -> None:
        self._scripts = bytearray()

    def add(self, parts: Parts) -> None:
        """Take in the next record."""
        self._scripts.append(find_script("\n".join(map(content_of, parts))))

    def extend(self, other: "ScriptColumn") -> None:
        """Take in the records that follow."""
        self._scripts += other._scripts

    def facts(self) -> dict[str, float]:
        """Each script's share of the records with letters, such as `script_latin_share`."""
        return {f"script_{SCRIPTS[script]}_share": share for script, share in self._shares().items()}

    def findings(self) -> Iterator[Finding]:
        """Records in a script that less than RARE of all have, where one script has more than COMMON."""
        shares = self._shares()
        common = max(shares, key=lambda script: shares[script], default=_NONE)
        if len(self._scripts) - self._scripts.count(_NONE) < MIN_ROWS or shares[common] <= COMMON:
            return
        rare = {script for script, share in shares.items() if share < RARE}
        for ordinal, script in enumerate(self._scripts if rare else b""):
            if script in rare:
                message = (
                    f"is mostly in {SCRIPTS[script]} script ({shares[script]:.2%} of the rows are), "
                    f"where {shares[common]:.1%} are in {SCRIPTS[common]}"
                )
                yield Finding("mixed_languages", ordinal, message)

    def _shares(self) -> dict[int, float]:
        counts = {script: self._scripts.count(script) for script in range(1, len(SCRIPTS))}
        total = sum(counts.values())
        return {script: count / total for script, count in counts.items() if count}


def find_script(text: str) -> int:
    """The number in SCRIPTS of the script that most letters belong to."""
    if text.isascii():
        return _LATIN if _ASCII_LETTER.search(text) else _NONE
    ascii_part = text.encode("ascii", "ignore")
    num_letters = len(ascii_part.translate(None, _NOT_ASCII_LETTERS))
    if num_letters >= len(text) - len(ascii_part):
        return _LATIN
    letters = filter(str.isalpha, text[:: max(1, len(text) // SAMPLE)])
    counts = Counter(map(_script_of, letters))
    return SCRIPTS.index(max(counts, key=lambda script: counts[script], default="none"))


def _script_of(letter: str) -> str:
    code = ord(letter)
    index = bisect_right(_STARTS, code) - 1
    if index < 0 or code > _RANGES[index][1]:
        return "other"
    return _RANGES[index][2]
