"""Pieces of a source that can be read apart, on as many cores as there are, and put together in order."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from rlhf.data.arrowfiles import read_arrow
from rlhf.data.compression import BrokenArchiveError, is_compressed, open_bytes
from rlhf.data.csvtable import read_csv
from rlhf.data.fault import Fault, make_fault
from rlhf.data.files import look_up
from rlhf.data.foreign import foreign_content
from rlhf.data.jsonarray import read_json
from rlhf.data.jsonlines import read_jsonl
from rlhf.data.parquet import read_parquet
from rlhf.data.place import Count, Place, Row
from rlhf.data.report import Offender
from rlhf.data.textlines import read_text
from rlhf.recipe.data import DataSource, FileFormat

BLOCK_BYTES = 8 << 20
_STREAMS: Mapping[FileFormat, Callable[[BinaryIO, str, Count], Iterator[Row | Fault]]] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": partial(read_csv, delimiter="\t"),
    "text": read_text,
}
_FILES: Mapping[FileFormat, Callable[[Path, Count], Iterator[Row | Fault]]] = {
    "parquet": read_parquet,
    "arrow": read_arrow,
}
T = TypeVar("T", Row, Fault, Place, Offender)


@dataclass(frozen=True)
class Block:
    """A part of one file that starts and ends with its lines; all of it where the format has no such parts."""

    path: Path
    format: FileFormat
    start: int = 0
    """First byte."""
    stop: int | None = None
    """Byte behind the last one; None for the file's end."""


class BlockReader:
    """A block's rows and faults in order; lines and rows count from 1 within the block.

    A file that cannot be read, or not to its end, gives a fault at the end of what could be read.
    """

    def __init__(self, block: Block) -> None:
        self._block = block
        self._count = Count()

    @property
    def num_lines(self) -> int:
        """Lines read so far (JSON Lines and text; 0 for formats that are never cut into blocks)."""
        return self._count.lines

    @property
    def num_rows(self) -> int:
        """Rows read so far, broken ones included."""
        return self._count.rows

    @property
    def share(self) -> float:
        """How much of the block is read, from 0 to 1, as far as that is known."""
        return min(self._count.share, 1.0)

    def __iter__(self) -> Iterator[Row | Fault]:
        name = str(self._block.path)
        self._count = Count()
        try:
            yield from self._read(name)
        except BrokenArchiveError as error:
            message = f"cannot be unpacked from line {error.line} on: {error.reason}"
            yield make_fault("bad_compression", Place(name, error.line), message)
        except OSError as error:
            yield make_fault("unreadable", Place(name), f"cannot be read: {error.strerror or error}")

    def _read(self, name: str) -> Iterator[Row | Fault]:
        block, count = self._block, self._count
        if block.start == 0 and (fault := foreign_content(block.path, block.format)):
            yield fault
            return
        if block.format in _FILES:
            yield from _FILES[block.format](block.path, count)
            return
        size = num_bytes(block)

        def on_read(num_read: int) -> None:
            count.share += num_read / size

        with open_bytes(block.path, on_read) as file:
            if block.start == 0 and block.stop is None:
                yield from _STREAMS[block.format](file, name, count)
                return
            file.seek(block.start)
            part = file if block.stop is None else _lines_of(file, block.stop - block.start)
            reader = read_text if block.format == "text" else read_jsonl
            yield from reader(part, name, count, at_start=block.start == 0)


def _lines_of(file: BinaryIO, num_bytes: int) -> Iterator[bytes]:
    if num_bytes > 0:
        for line in file:
            yield line
            num_bytes -= len(line)
            if num_bytes <= 0:
                return


def num_bytes(block: Block) -> int:
    """How long it is on the disk; 1 where it is empty or cannot be read."""
    try:
        stop = block.path.stat().st_size if block.stop is None else block.stop
    except OSError:
        return 1  # its reader tells what is wrong
    return max(stop - block.start, 1)


def list_blocks(source: DataSource, block_bytes: int = BLOCK_BYTES) -> list[Block]:
    """The source's blocks in order; the files are not read, only looked into at each boundary.

    None for a hub data set and for a source that `check_source` finds a fault in: `read_rows` gives all there is.
    """
    found = look_up(source)
    if found.fault is not None or found.format is None:
        return []
    return [block for path in found.paths for block in _cut(path, found.format, block_bytes)]


def _cut(path: Path, fmt: FileFormat, block_bytes: int) -> list[Block]:
    if fmt not in ("jsonl", "text") or is_compressed(path):
        return [Block(path, fmt)]
    blocks: list[Block] = []
    start = 0
    try:
        size = path.stat().st_size
        if size > block_bytes and foreign_content(path, fmt) is not None:
            return [Block(path, fmt)]
        with path.open("rb") as file:
            while start + block_bytes < size:
                file.seek(start + block_bytes - 1)
                file.readline()
                stop = file.tell()
                if stop >= size:
                    break
                blocks.append(Block(path, fmt, start, stop))
                start = stop
    except OSError:
        return [Block(path, fmt)]  # its reader tells what is wrong
    return [*blocks, Block(path, fmt, start, None)]


def move(item: T, lines: int, rows: int) -> T:
    """The same in its file, given how many lines and rows of it come before the block."""
    if isinstance(item, Row):
        return Row(item.values, move(item.place, lines, rows))
    line = None if item.line is None else item.line + lines
    row = None if item.row is None else item.row + rows
    if isinstance(item, Place):
        return Place(item.path, line, row)
    return replace(item, line=line, row=row)
