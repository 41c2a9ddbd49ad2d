"""Which checks a row needs at all: one cheap pass over all its texts, since nearly every row is clean."""

import re

_TRACES: dict[bytes, tuple[str, ...]] = {
    b"\x00": ("nul",),
    b"\x01": ("control_char",),
    b"\xc2": ("control_char",),
    b"\xef": ("replacement_char", "special_token"),
    b"\xcd": ("mixed_scripts",),
    b"@": ("email",),
    b"&": ("html",),
    b"<": ("html", "special_token"),
    b"#": ("prompt_marker",),
    b"_": ("secret",),
    b"0": (),
    b".": (),
}
"""What stands for a byte of the text in UTF-8 -> the codes that it alone can belong to.

A digit stands as 0, a control character as 1, the first byte of Greek and Cyrillic as 0xCD; C1 characters start with
0xC2, U+FFFD and the full-width bar with 0xEF.
"""
_LITERALS: dict[bytes, tuple[tuple[str, str], ...]] = {
    b":": tuple((who, "prompt_marker") for who in ("Human:", "Assistant:", "User:", "USER:")),
    b"[": (("[INST]", "special_token"), ("[/INST]", "special_token")),
    b"-": (("-----BEGIN ", "secret"), ("glpat-", "secret")),
    b"K": (("AKIA", "secret"),),
    b"S": (("ASIA", "secret"),),
    b"J": (),
    b"z": (),
}
"""A byte of a literal that is rare elsewhere -> literals with it, each with its code, to look for where it occurs."""
_TOKEN_STARTS = {b"-": ("sk-", "xox", "pypi-"), b"S": ("SG.",), b"z": ("AIza",), b"J": ("eyJ",)}
"""The same for starts of secrets that have a digit somewhere: looked for in texts with digits alone."""


def _stand_in(byte: int) -> int:
    if 0x30 <= byte <= 0x39:
        return 0x30
    if (0 < byte < 0x20 and byte not in b"\t\n\r") or byte == 0x7F:
        return 0x01
    return 0xCD if 0xCD <= byte <= 0xD4 else byte


_STAND_INS = bytes(_stand_in(byte) for byte in range(256))
_KEPT = {*_TRACES, *_LITERALS}
_HARMLESS = bytes(byte for byte in range(256) if bytes([_STAND_INS[byte]]) not in _KEPT)
_BY_BYTE = {byte[0]: (_TRACES.get(byte, ()), _LITERALS.get(byte, ())) for byte in _KEPT}
_STARTS = {byte[0]: starts for byte, starts in _TOKEN_STARTS.items()}
_DIGIT = ord("0")
_FOUR_NUMBERS = re.compile(rb"0\.0{1,3}\.0{1,3}\.0")


def suspect(text: str) -> set[str]:
    """The codes of checks that could find something in the text; those of words, pairs and lengths left out.

    Never too few: what a check looks for leaves its bytes, in their order, after the harmless ones are taken out.
    """
    left = text.encode().translate(_STAND_INS, _HARMLESS)
    codes: set[str] = set()
    bytes_left = set(left)
    for byte in bytes_left:
        traced, literals = _BY_BYTE[byte]
        codes.update(traced)
        for literal, code in literals:
            if literal in text:
                codes.add(code)
    if _DIGIT in bytes_left:
        codes.update(_numbers(left))
        if any(start in text for byte in bytes_left & _STARTS.keys() for start in _STARTS[byte]):
            codes.add("secret")
    return codes


def _numbers(left: bytes) -> list[str]:
    """What the digits can be, by how many there are."""
    codes: list[str] = []
    num_digits = left.count(b"0")
    if _FOUR_NUMBERS.search(left) or left.count(b":") >= 2:
        codes.append("ip_address")
    if num_digits >= 7:
        codes.append("phone")
    if num_digits >= 8:
        codes.append("iban")
    if num_digits >= 14:
        codes.append("card_number")
    return codes
