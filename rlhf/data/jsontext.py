"""JSON read strictly: one object a row, no duplicate keys, no NaN, UTF-8 alone."""

import json
import re
from typing import NoReturn, cast

from jiter import from_json

from rlhf.data.fault import Fault, make_fault, shorten
from rlhf.data.place import Place, Row

BOM = b"\xef\xbb\xbf"
MAX_DEPTH = 250
"""Objects and lists in each other. Not less than jiter takes, and far from the depth at which Python gives up."""
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?|[{}\[\]]', re.DOTALL)


class BrokenJSONError(Exception):
    """Text that is not the JSON we take; carries the fault's code and message to the reader that knows the place."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise BrokenJSONError("duplicate_key", f"has the key {shorten(key)} twice")
            seen.add(key)
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise BrokenJSONError("not_finite", f"holds {name}, which JSON has not")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


def _is_too_deep(text: str) -> bool:
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return False
    depth = 0
    for match in _BRACKET.finditer(text):
        token = match.group()
        if token in "{[":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif token in "}]":
            depth -= 1
    return False


def parse_json(text: str) -> object:
    """The value of a JSON text.

    Raises:
        BrokenJSONError: what `json` refuses, and what it lets pass: duplicate keys, NaN, Infinity, more than MAX_DEPTH levels.
    """
    if _is_too_deep(text):
        raise BrokenJSONError("bad_json", "is nested too deeply")
    try:
        return cast(object, _DECODER.decode(text))
    except json.JSONDecodeError as error:
        place = (
            f"line {error.lineno}, column {error.colno} of the row"
            if "\n" in text.strip()
            else f"column {error.colno}"
        )
        cut = error.msg.startswith("Unterminated string") or error.pos >= len(text.rstrip())
        code = "truncated" if cut else "bad_json"
        raise BrokenJSONError(code, f"is not JSON: {error.msg} at {place}") from error
    except RecursionError as error:
        raise BrokenJSONError("bad_json", "is nested too deeply") from error
    except ValueError as error:
        # Python's own limit, against numbers that take it minutes
        raise BrokenJSONError("bad_json", "has a number of thousands of digits") from error


def undecodable(raw: bytes, place: Place, error: UnicodeDecodeError, *, at_end: bool) -> Fault:
    """The fault of a row whose bytes are not UTF-8; see `parse_row_strictly` for the arguments."""
    if at_end and error.reason == "unexpected end of data":
        return make_fault("truncated", place, "is cut off in the middle of a character")
    bad = f"byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the row"
    return make_fault("not_utf8", place, f"is not UTF-8: {bad}", value=shorten(raw[:40]))


def parse_row(raw: bytes, place: Place, *, at_end: bool = False) -> Row | Fault:
    """A row from the bytes of one JSON object: by a fast parser, and by ours where that one takes it for broken.

    Args: see `parse_row_strictly`.
    """
    try:
        values = from_json(raw, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys")
    except ValueError:
        values = None
    if type(values) is dict:
        return Row(cast(dict[str, object], values), place)
    return parse_row_strictly(raw, place, at_end=at_end)


def _remedy(error: BrokenJSONError, raw: bytes) -> str | None:
    """What to do about objects that do not end where their lines do; None: what the code says."""
    row = raw.strip()
    if row not in (b"{", b"[") and not ("Extra data" in error.message and row.startswith(b"{")):
        return None
    return "Write one whole object a line, without commas between them, as `jq -c` does; an array needs `format: json`."


def parse_row_strictly(raw: bytes, place: Place, *, at_end: bool = False) -> Row | Fault:
    """A row from the bytes of one JSON object, or what is wrong with it.

    Args:
        raw: the object's bytes, white space around them allowed.
        place: where the object starts.
        at_end: the file ends with these bytes, so that an object that is cut off is the file's fault, not the row's.
    """
    try:
        values = parse_json(raw.decode())
    except UnicodeDecodeError as error:
        return undecodable(raw, place, error, at_end=at_end)
    except BrokenJSONError as error:
        value = shorten(raw[:200].decode(errors="replace").strip())
        cut = error.code == "truncated" or (error.code == "bad_json" and not raw.rstrip().endswith(b"}"))
        if at_end and cut:
            return make_fault("truncated", place, f"is cut off: it {error.message}", value=value)
        code = "bad_json" if error.code == "truncated" else error.code
        return make_fault(code, place, error.message, value=value, remedy=_remedy(error, raw))
    if not isinstance(values, dict):
        return make_fault("not_object", place, "is not a JSON object", value=shorten(values))
    return Row(cast(dict[str, object], values), place)
