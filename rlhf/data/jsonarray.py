"""A JSON array of objects, cut into its elements without holding the file.

`json` reads a whole document or nothing: one missing brace would hide every other fault. So the bytes are cut at the
array's own commas first, and each element is parsed alone. Where brackets do not match, the cutting goes on at the
next `{` that stands where JSON allows none.
"""

import re
from collections.abc import Iterator
from itertools import chain, repeat
from typing import BinaryIO, NamedTuple

from rlhf.data.fault import VALUE_LIMIT, Fault, make_fault, shorten
from rlhf.data.jsonlines import read_jsonl
from rlhf.data.jsontext import BOM, parse_row
from rlhf.data.place import Count, Place, Row

PIECE_BYTES = 1 << 20
OBJECT_BYTES = 64 << 20
"""A file that is one object over many lines is read at once, up to here."""
_STRING_REST = re.compile(rb'(?:[^"\\\n]++|\\[^\n])*+"')
_TOKEN = re.compile(rb'"' + _STRING_REST.pattern + rb'|\\[^\n]|["{}\[\],\n]')
"""A whole string on one line, an escape, or one byte; an opening quote stands alone where nothing closes it."""
_OPENER = {b"}": b"{", b"]": b"["}


class Element(NamedTuple):
    """The bytes between two of the array's commas."""

    raw: bytes
    line: int
    """Line of the first byte that is not white space."""
    end: bytes
    """What ended it: a comma, `]`, the `{` of a next element where a comma is missing, or nothing at the file's end."""


class ArrayCutter:
    """Cuts the bytes that follow an array's `[` into elements; remembers open brackets and strings between pieces."""

    def __init__(self, line: int) -> None:
        self.closed = False
        self._line = line
        self._open = bytearray()
        self._in_string = False
        self._held = bytearray()
        self._held_line = line

    def feed(self, piece: bytes) -> Iterator[Element]:
        """The elements that end in this piece, which must not itself end inside an escape."""
        cut = begin = 0
        if self._in_string and (rest := _STRING_REST.match(piece)):
            self._in_string, begin = False, rest.end()
        for token in _TOKEN.finditer(piece, begin):
            byte, start = token.group(), token.start()
            if byte == b"\n":
                self._line += 1
                self._in_string = False  # strings never span lines: an unclosed one must not swallow the rest
            elif byte == b'"':
                self._in_string = not self._in_string
            elif not self._in_string and not self.closed and len(byte) == 1:
                if self._ends_element(byte, piece[cut:start]):
                    yield self._take(piece[cut:start], byte)
                    cut = start if byte == b"{" else token.end()
                self._nest(byte)
        self._held += piece[cut:]

    def rest(self) -> Element:
        """What is left at the file's end: white space, a cut-off element, or text after the array."""
        return self._take(b"", b"")

    def _ends_element(self, byte: bytes, before: bytes) -> bool:
        if byte == b",":
            return not self._open
        if byte == b"]":
            return b"[" not in self._open
        if byte == b"{" and (not self._open or self._open.endswith(b"{")):
            previous = (before.rstrip() or self._held.rstrip())[-1:]
            return previous != b":" if self._open else bool(previous)
        return False

    def _nest(self, byte: bytes) -> None:
        if byte in (b"{", b"["):
            self._open += byte
        elif byte in _OPENER:
            match = self._open.rfind(_OPENER[byte])
            if match >= 0:
                del self._open[match:]
            self.closed = byte == b"]" and match < 0

    def _take(self, more: bytes, end: bytes) -> Element:
        raw = bytes(self._held + more)
        lead = len(raw) - len(raw.lstrip())
        line = self._held_line + raw.count(b"\n", 0, lead)
        self._held.clear()
        self._held_line = self._line
        if end == b"{":
            self._open.clear()
        return Element(raw, line, end)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """Lines, or parts of a very long one, none of which ends inside an escape."""
    while piece := file.readline(PIECE_BYTES):
        while piece.endswith(b"\\") and (more := file.read(1)):
            piece += more
        yield piece


def _rows(element: Element, name: str, row: int) -> list[Row | Fault]:
    place = Place(name, element.line, row)
    if not element.raw.strip():
        if element.end == b",":
            return [make_fault("bad_json", place, "has a comma without an element before it")]
        if element.end == b"]" and row > 1:
            return [make_fault("bad_json", place, "has a comma without an element after it")]
        return []
    parsed = parse_row(element.raw, place, at_end=not element.end)
    if isinstance(parsed, Row) and element.end == b"{":
        return [parsed, make_fault("bad_json", place, "has no comma between this element and the next")]
    return [parsed]


def _read_array(pieces: Iterator[bytes], name: str, line: int, count: Count) -> Iterator[Row | Fault]:
    cutter = ArrayCutter(line)
    for piece in pieces:
        for element in cutter.feed(piece):
            items = _rows(element, name, count.rows + 1)
            count.rows += bool(items)
            yield from items
    rest = cutter.rest()
    if not cutter.closed:
        items = _rows(rest, name, count.rows + 1)
        count.rows += bool(items)
        yield from items
        if not any(isinstance(item, Fault) for item in items):
            last_line = rest.line if rest.raw.strip() else rest.line - rest.raw.endswith(b"\n")
            yield make_fault("truncated", Place(name, last_line), "ends before the array's closing bracket")
    elif rest.raw.strip():
        value = shorten(rest.raw.strip()[:VALUE_LIMIT].decode(errors="replace"))
        yield make_fault("bad_json", Place(name, rest.line), "has text after the array", value=value)


def read_json(file: BinaryIO, name: str, count: Count) -> Iterator[Row | Fault]:
    """Rows and faults of a JSON array of objects, of one object, or of an object a line; see `read_jsonl`."""
    pieces = _pieces(file)
    first = next(pieces, b"")
    if first.startswith(BOM):
        yield make_fault("bom", Place(name, 1), "starts with a byte order mark")
        first = first.removeprefix(BOM)
    line = 1
    while first.isspace():
        line += first.count(b"\n")
        first = next(pieces, b"")
    head = first.strip()
    if head.startswith(b"["):
        yield from _read_array(chain([first.lstrip()[1:]], pieces), name, line, count)
    elif head.startswith(b"{"):
        yield from _read_objects(_lines(chain([first], pieces)), name, line, count)
    elif head:
        yield _no_array(head, name, line)


def _read_objects(lines: Iterator[bytes], name: str, line: int, count: Count) -> Iterator[Row | Fault]:
    """JSON Lines, where a second line starts with a brace even if the first is broken; else one object."""
    read = [next(lines)]
    for other in lines:
        read.append(other)
        if not other.isspace():
            break
    if read[0].rstrip().endswith(b"}") or any(other.lstrip().startswith(b"{") for other in read[1:]):
        yield from read_jsonl(chain(repeat(b"\n", line - 1), read, lines), name, count, at_start=False)
        return
    size = 0
    for other in lines:
        size += len(other)
        if size > OBJECT_BYTES:
            yield _no_array(read[0].strip(), name, line)
            return
        read.append(other)
    count.rows = 1
    yield parse_row(b"".join(read), Place(name, line, 1), at_end=True)


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    for piece in pieces:
        held.append(piece)
        if piece.endswith(b"\n"):
            yield b"".join(held)
            held.clear()
    if held:
        yield b"".join(held)


def _no_array(head: bytes, name: str, line: int) -> Fault:
    value = shorten(head[:VALUE_LIMIT].decode(errors="replace"))
    return make_fault(
        "not_array", Place(name, line), "is neither an array, nor an object, nor JSON Lines", value=value
    )
