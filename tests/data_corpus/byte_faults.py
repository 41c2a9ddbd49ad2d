"""Faults in a file's bytes, which only some formats can have."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

from data_corpus.planted import AT, CSVS, JSONS
from data_corpus.writers import TEXT_FORMATS, Encoded, Position

LAST = 29
"""Index of the last row."""
HEADER: Position = (1, None)


@dataclass(frozen=True)
class Damaged:
    """A file's bytes after an edit."""

    data: bytes
    position: Position
    """Where the fault must be found."""


@dataclass(frozen=True)
class ByteFault:
    """One fault of a text file's bytes."""

    code: str
    name: str
    """What is done, for the test's name."""
    edit: Callable[[Encoded], Damaged]
    formats: tuple[str, ...]
    base: str = "sft-lines"


def _span(encoded: Encoded, index: int) -> tuple[int, int]:
    """The bytes of one row, its separator excluded."""
    starts = [_offset(encoded.data, line) for line, _ in encoded.positions]
    stop = starts[index + 1] if index < LAST else len(encoded.data)
    raw = encoded.data[starts[index] : stop]
    return starts[index], starts[index] + len(raw.rstrip(b"\n]").rstrip(b"\n,"))


def _offset(data: bytes, line: int | None) -> int:
    assert line is not None
    offset = 0
    for _ in range(line - 1):
        offset = data.index(b"\n", offset) + 1
    return offset


def in_row(change: Callable[[bytes], bytes], index: int = AT) -> Callable[[Encoded], Damaged]:
    """An edit of one row's bytes."""

    def edit(encoded: Encoded) -> Damaged:
        start, stop = _span(encoded, index)
        raw = encoded.data[start:stop]
        changed = change(raw)
        assert changed != raw, "the edit must change something"
        return Damaged(encoded.data[:start] + changed + encoded.data[stop:], encoded.positions[index])

    return edit


def _replaced(old: bytes, new: bytes) -> Callable[[Encoded], Damaged]:
    return in_row(lambda raw: raw.replace(old, new, 1))


def _row_becomes(new: bytes) -> Callable[[Encoded], Damaged]:
    return in_row(lambda raw: new)


def _cut_in_last_row(after: bytes) -> Callable[[Encoded], Damaged]:
    def edit(encoded: Encoded) -> Damaged:
        start, _ = _span(encoded, LAST)
        return Damaged(encoded.data[: encoded.data.index(after, start) + len(after)], encoded.positions[LAST])

    return edit


def _file_becomes(new: bytes, position: Position) -> Callable[[Encoded], Damaged]:
    return lambda encoded: Damaged(new, position)


def _bom(encoded: Encoded) -> Damaged:
    return Damaged(b"\xef\xbb\xbf" + encoded.data, HEADER)


def _header(old: bytes, new: bytes) -> Callable[[Encoded], Damaged]:
    return lambda encoded: Damaged(encoded.data.replace(old, new, 1), HEADER)


def _more_cells(encoded: Encoded) -> Damaged:
    delimiter = b"," if encoded.data.startswith(b"prompt,") else b"\t"
    return in_row(lambda raw: raw + delimiter + b"more")(encoded)


BYTE_FAULTS: tuple[ByteFault, ...] = (
    ByteFault("bom", "bom", _bom, TEXT_FORMATS),
    ByteFault("not_utf8", "latin 1", in_row(lambda raw: raw[:9] + b"\xe9" + raw[9:]), TEXT_FORMATS),
    ByteFault(
        "not_utf8", "utf-16 surrogate", in_row(lambda raw: raw[:9] + b"\xed\xa0\xbd" + raw[9:]), TEXT_FORMATS
    ),
    ByteFault("not_utf8", "overlong", in_row(lambda raw: raw[:9] + b"\xc0\xaf" + raw[9:]), TEXT_FORMATS),
    ByteFault("bad_json", "no colon", _replaced(b'": "', b'" "'), JSONS),
    ByteFault("bad_json", "single quotes", _row_becomes(b"{'text': 'a'}"), JSONS),
    ByteFault("bad_json", "bare tab", _row_becomes(b'{"text": "a\tb"}'), JSONS),
    ByteFault("bad_json", "bare word", _row_becomes(b'{"text": None}'), JSONS),
    ByteFault("bad_json", "bad escape", _row_becomes(b'{"text": "C:\\Users"}'), JSONS),
    ByteFault("bad_json", "comma at the end", _row_becomes(b'{"text": "a",}'), JSONS),
    ByteFault("bad_json", "two objects", _row_becomes(b'{"text": "a"} {"text": "b"}'), JSONS),
    ByteFault("bad_json", "too deep", _row_becomes(b'{"text": ' + b"[" * 3000 + b"]" * 3000 + b"}"), JSONS),
    ByteFault("truncated", "in a string", _cut_in_last_row(b'"text": "Ho'), JSONS),
    ByteFault("truncated", "in a key", _cut_in_last_row(b'"te'), JSONS),
    ByteFault("duplicate_key", "key twice", _replaced(b'"text": "', b'"text": "x", "text": "'), JSONS),
    ByteFault("duplicate_key", "column twice", _header(b"prompt", b"completion"), CSVS, base="sft"),
    ByteFault("not_finite", "nan", _replaced(b"1.0", b"NaN"), JSONS, base="sft"),
    ByteFault("not_finite", "infinity", _replaced(b"1.0", b"-Infinity"), JSONS, base="sft"),
    ByteFault("not_finite", "overflow", _replaced(b"1.0", b"1e999"), JSONS, base="sft"),
    ByteFault("not_object", "array", _row_becomes(b"[1, 2]"), JSONS),
    ByteFault("not_object", "text", _row_becomes(b'"a text"'), JSONS),
    ByteFault("not_object", "null", _row_becomes(b"null"), JSONS),
    ByteFault("not_array", "text", _file_becomes(b"\nhello\n", (2, None)), ("json",)),
    ByteFault("not_array", "number", _file_becomes(b"7\n", (1, None)), ("json",)),
    ByteFault("bad_csv", "text after a quote", in_row(lambda raw: b'"stray" ' + raw), CSVS),
    ByteFault("bad_csv", "never closed", in_row(lambda raw: b'"' + raw.replace(b'"', b""), LAST), CSVS),
    ByteFault("bad_csv", "header", _header(b"prompt", b'"pro"mpt'), CSVS, base="sft"),
    ByteFault("column_count", "more cells", _more_cells, CSVS, base="sft"),
    ByteFault("column_count", "fewer cells", _row_becomes(b"alone"), CSVS, base="sft"),
)
"""Edits of the plain bytes; compressed files are made from the edited ones."""


def _flip(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 0xFF]) + data[index + 1 :]


ARCHIVE_FAULTS: dict[str, Callable[[bytes], bytes]] = {
    "cut in half": lambda data: data[: len(data) // 2],
    "last byte gone": lambda data: data[:-1],
    "no archive": lambda data: b"plain text\n" * 20,
    "head flipped": lambda data: _flip(data, 0),
}
"""What is done to the bytes of a .gz or .zst file."""
BINARY_FAULTS: dict[str, Callable[[bytes], bytes]] = {
    "cut in half": lambda data: data[: len(data) // 2],
    "no such file": lambda data: b"plain text\n" * 20,
    "nothing": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "head only": lambda data: data[:8],
    "backwards": lambda data: data[::-1],
}
"""What is done to the bytes of a Parquet or Arrow file."""


def checksum_broken(data: bytes) -> bytes:
    """A gzip file whose text is whole, but not what its check sum says."""
    wrong = zlib.crc32(b"something else").to_bytes(4, "little")
    return data[:-8] + wrong + data[-4:]
