"""Telephone numbers."""

import re

_LIKELY = re.compile(r"[0-9][0-9 ().\-/]{5,30}[0-9]")
"""What every phone number has; searched first, since it is searched fast."""
_AMERICAN = re.compile(
    r"(?<![\w.+/-])(?:\+?1[ .-]?)?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[.-])[0-9]{3}[.-][0-9]{4}(?![\w-]|[.,][0-9])"
    r"|(?<![\w+.,/-])\+1[ .-]?\(?[2-9][0-9]{2}\)?[ .-]?[0-9]{3}[ .-]?[0-9]{4}(?![\w-]|[.,][0-9])"
)
_CANDIDATE = re.compile(r"(?<![\w+.,/=-])(?<![0-9] )(?:\+|00(?=[1-9]))\(?([1-9][0-9 ().\-/]{6,24})")
_CUT = re.compile(r" {2}| [-/.]|[-/.] |[-/.]{2}|\)\(")
_SEPARATOR = re.compile(r"[ ().\-/]+")
_COUNTRY = re.compile(
    "20|27|3[0-469]|4[013-9]|5[1-8]|6[0-6]|7|8[1246]|9[0-58]|2[1-69][0-9]|3[578][0-9]|42[0-9]|50[0-9]|59[0-9]"
    "|6[789][0-9]|80[0-9]|85[0-9]|88[0-9]|96[0-9]|97[0-9]|99[0-9]"
)
_DATE = re.compile(
    r"(?:19|20)[0-9]{2}[-./][0-9]{2}[-./][0-9]{2}|[0-9]{1,2}[-./][0-9]{1,2}[-./](?:19|20)[0-9]{2}"
)
_DECIMAL = re.compile(r"[0-9]+\.[0-9]+")
_THOUSANDS = re.compile(r"[0-9]{1,3}(?:[ .][0-9]{3})+")
_NAMED = re.compile(
    r"\b(?:tel|telephone|telefon|phone|fax|mobile|whatsapp)\b\.?(?: ?(?:number|no\.?|nr\.?))?(?: is)?[: ]{1,3}"
    r"(\(?0[0-9 ()\-/]{6,18}[0-9]|[0-9]{3}-[0-9]{4})(?![\w-])",
    re.IGNORECASE,
)
_MIN_DIGITS = 7
_MAX_DIGITS = 15
"""E.164's longest number, country code included."""


def find_phone(text: str) -> str | None:
    """The first phone number.

    With an international prefix and a country's code; in the American form with its separators; or named as a phone
    number. Bare digits, dates, coordinates and amounts are none.
    """
    if not _LIKELY.search(text):
        return None
    if (found := _AMERICAN.search(text)) and not _DATE.search(found[0]):
        return found[0]
    for found in _CANDIDATE.finditer(text):
        number = _CUT.split(found[1], maxsplit=1)[0].rstrip(" ().-/")
        plus = found[0].startswith("+")
        if _is_international(number, plus=plus):
            return ("+" if plus else "00") + number
    if (found := _NAMED.search(text)) and _has_enough_digits(found[1]) and not _DATE.search(found[1]):
        return found[1]
    return None


def _has_enough_digits(number: str) -> bool:
    return sum(char.isdigit() for char in number) >= _MIN_DIGITS


def _is_international(number: str, *, plus: bool) -> bool:
    groups = [group for group in _SEPARATOR.split(number) if group]
    digits = "".join(groups)
    if len(digits) > _MAX_DIGITS or _is_amount(number, len(digits)) or not _has_country(groups[0]):
        return False
    if not plus:
        # tables of numbers with leading zeros have columns of one width
        return (
            len(digits) >= 10 and len(groups) > 1 and len({len("00" + groups[0]), *map(len, groups[1:])}) > 1
        )
    return len(digits) >= (9 if len(groups) > 1 else 10)


def _is_amount(number: str, num_digits: int) -> bool:
    grouped = _THOUSANDS.fullmatch(number) and num_digits <= 10
    rounded = number.endswith("00000")
    return bool(_DATE.search(number) or _DECIMAL.fullmatch(number) or grouped or rounded)


def _has_country(group: str) -> bool:
    return (_COUNTRY.fullmatch if len(group) <= 3 else _COUNTRY.match)(group) is not None
