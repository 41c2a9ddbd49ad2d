"""Numbers of payment cards and bank accounts, told by their check digits."""

import re

_LONG = re.compile(r"[0-9](?:[ -]?[0-9]){13}")
"""What every card's number has; searched first, since it is searched fast."""
_CARD = re.compile(
    r"(?<![\w.,+/-])(?<![0-9][ -])"
    r"(?:[0-9]{14,19}"
    r"|[0-9]{4}(?P<four>[ -])[0-9]{4}(?P=four)[0-9]{4}(?P=four)[0-9]{4}"
    r"|[0-9]{4}(?P<six>[ -])[0-9]{6}(?P=six)[0-9]{4,5})"
    r"(?![ -]?[0-9]|[.,][0-9]|\w|-\w)"
)
_ISSUED = re.compile(
    r"4(?:[0-9]{15}|[0-9]{18})"
    r"|(?:5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}"
    r"|3[47][0-9]{13}"
    r"|(?:6011|65[0-9]{2}|64[4-9][0-9])[0-9]{12}"
    r"|(?:30[0-5]|3[68][0-9])[0-9]{11}"
    r"|35(?:2[89]|[3-8][0-9])[0-9]{12}"
    r"|62[0-9]{14,17}"
)
"""Prefix and length of Visa, Mastercard, American Express, Discover, Diners Club, JCB and UnionPay."""
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)

_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2} ?[A-Z0-9]{4}")
_IBAN_LENGTHS = {
    country: int(length)
    for length, countries in {
        "15": "NO", "16": "BE", "18": "DK FI FO GL NL", "19": "MK SI", "20": "AT BA EE KZ LT LU XK",
        "21": "CH CR HR LI LV", "22": "BG BH DE GB GE IE ME RS VA", "23": "AE GI IL IQ OM SO TL",
        "24": "AD CZ ES MD PK RO SA SE SK TN VG", "25": "LY PT ST", "26": "IS TR", "27": "BI DJ FR GR IT MC MR SM",
        "28": "AL AZ BY CY DO GT HU LB NI PL SV", "29": "BR EG PS QA UA", "30": "JO KW MU YE", "31": "MT SC",
        "32": "LC", "33": "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
"""Country -> characters of its IBANs."""


def find_card(text: str) -> str | None:
    """The first number with a payment card's prefix, length and check digit, plain or in its usual groups."""
    for found in _CARD.finditer(text) if _LONG.search(text) else ():
        digits = re.sub("[ -]", "", found[0])
        if _ISSUED.fullmatch(digits) and _luhn(digits) == 0:
            return found[0]
    return None


def _luhn(digits: str) -> int:
    numbers = [int(digit) for digit in reversed(digits)]
    return (sum(numbers[::2]) + sum(_DOUBLED[number] for number in numbers[1::2])) % 10


def find_iban(text: str) -> str | None:
    """The first international bank account number with a country's length and right check digits."""
    for found in _IBAN_START.finditer(text):
        length = _IBAN_LENGTHS.get(found[0][:2])
        if length is not None and (written := _take(text, found.start(), length)):
            compact = written.replace(" ", "")
            if int("".join(str(int(char, 36)) for char in compact[4:] + compact[:4])) % 97 == 1:
                return written
    return None


def _take(text: str, start: int, length: int) -> str | None:
    """The next `length` capital letters and digits, with single spaces between; None where others stand there."""
    taken = 0
    for index in range(start, min(len(text), start + 2 * length)):
        char = text[index]
        if char.isascii() and (char.isdigit() or char.isupper()):
            taken += 1
        elif char != " " or text[index - 1] == " ":
            return None
        if taken == length:
            return None if text[index + 1 : index + 2].isalnum() else text[start : index + 1]
    return None
