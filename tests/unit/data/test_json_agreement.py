"""The fast parser takes nothing that the strict one refuses, and reads the same values."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.fault import Fault
from rlhf.data.jsonlines import read_jsonl
from rlhf.data.jsontext import MAX_DEPTH, parse_row_strictly
from rlhf.data.place import Count, Place, Row

TRICKY = [
    *(
        b"1e999",
        b"-1e999",
        b"9" * 4300,
        b"9" * 4301,
        b"-0",
        b"-0.0",
        b"5e-324",
        b"2.4703282292062327208e-324",
    ),
    *(
        b"123456789012345678901234567890.5",
        b"18446744073709551616",
        b"0." + b"1" * 5000,
        b"1E5",
        b"01",
        b"1.",
    ),
    *(b".5", b"+1", b"NaN", b"-Infinity", b"true", b"nul", b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\\u12"'),
    *(
        b'"\xed\xa0\x80"',
        b'"\x7f"',
        b'"\t"',
        b'"\x00"',
        b'"\\x"',
        b'"\\/"',
        b"\xef\xbb\xbf",
        b"\xff",
        b"\x0c",
    ),
    *(b"[" * 199 + b"]" * 199, b"[" * 240 + b"]" * 240, b"[" * 260 + b"]" * 260, b"[" * 9000, b'{"a":' * 300),
    *(
        b'"a":1,"\\u0061":2',
        b'"a"',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b'"',
        b"\\",
        b" ",
        b"\r",
        b"/**/",
        b"'",
    ),
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
EDITS = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 4), st.sampled_from(TRICKY)), max_size=4)


def both(raw: bytes) -> tuple[Row | Fault, Row | Fault]:
    """The line as the reader gives it, and as the strict parser alone does."""
    (item,) = read_jsonl([raw], "x", Count())
    return item, parse_row_strictly(raw, Place("x", 1, 1), at_end=not raw.endswith(b"\n"))


def same(fast: Row | Fault, strict: Row | Fault) -> bool:
    # by repr: 1 == 1.0 == True and -0.0 == 0.0
    return repr(fast) == repr(strict)


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(values=st.dictionaries(st.text(max_size=4), VALUES, max_size=4), ascii_only=st.booleans(), edits=EDITS)
def test_both_parsers_end_the_same(
    values: dict[str, object], ascii_only: bool, edits: list[tuple[int, int, bytes]]
) -> None:
    raw = bytearray(json.dumps(values, ensure_ascii=ascii_only).encode(errors="surrogatepass"))
    for start, removed, added in edits:
        raw[start : start + removed] = added
    line = bytes(raw).replace(b"\n", b"") + b"\n"
    if not line.isspace() and not line.startswith(b"\xef\xbb\xbf"):
        assert same(*both(line))


@pytest.mark.parametrize("token", TRICKY)
def test_both_parsers_agree_on_each_tricky_value(token: bytes) -> None:
    for raw in (b'{"k": ' + token + b"}\n", b'{"k": [0, ' + token + b'], "z": 1}', b'{"k": 1}' + token):
        assert same(*both(raw))


def nested(depth: int) -> bytes:
    return b'{"k": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}\n"


def test_nesting_is_limited_by_its_depth_alone() -> None:
    assert isinstance(both(nested(MAX_DEPTH))[0], Row)
    fault = both(nested(MAX_DEPTH + 1))[0]
    assert isinstance(fault, Fault)
    assert (fault.code, fault.message) == ("bad_json", "is nested too deeply")
    # side by side, and inside a string, is no nesting
    assert isinstance(both(b'{"k": [' + b"[]," * 999 + b"0]}\n")[0], Row)
    assert isinstance(both(b'{"k": "\\"' + b"[" * 999 + b'", "half": "\\ud800"}\n')[0], Row)
