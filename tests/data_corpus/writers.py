"""Rows written as a file of each format, with the line and row at which each of them then stands."""

import csv
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

TEXT_FORMATS = ("jsonl", "json", "csv", "tsv", "text")
FORMATS = (*TEXT_FORMATS, "parquet", "arrow")
COMPRESSIONS = ("", ".gz", ".zst")
_SUFFIX = {"text": "txt"}

Position = tuple[int | None, int | None]
"""(line, row), both from 1."""


@dataclass(frozen=True)
class Encoded:
    """A text file's bytes before compression, and the position of each row."""

    data: bytes
    positions: tuple[Position, ...]


def encode(fmt: str, rows: Sequence[Mapping[str, object]]) -> Encoded:
    """The rows as a text file of this format; `fmt` may carry a compression, which is not applied here."""
    return _ENCODERS[fmt.partition(".")[0]](rows)


def compress(fmt: str, data: bytes) -> bytes:
    """The bytes as the file of `fmt` (`jsonl.gz`) holds them."""
    if fmt.endswith(".gz"):
        return gzip.compress(data, mtime=0)
    return zstandard.ZstdCompressor().compress(data) if fmt.endswith(".zst") else data


def place(folder: Path, fmt: str, data: bytes) -> Path:
    """Write a file's plain bytes under a name of its format, compressed as the format says."""
    base, _, compression = fmt.partition(".")
    path = folder / f"x.{_SUFFIX.get(base, base)}{'.' if compression else ''}{compression}"
    path.write_bytes(compress(fmt, data))
    return path


def write(folder: Path, fmt: str, rows: Sequence[Mapping[str, object]]) -> tuple[Path, tuple[Position, ...]]:
    """Write the rows; the path for a data source, and where each row stands."""
    if fmt in ("parquet", "arrow"):
        table = as_table(rows)
        if fmt == "parquet":
            return write_parquet(folder, table), tuple((None, index + 1) for index in range(len(rows)))
        middle = len(rows) // 2  # rows count within the shard
        positions = ((None, index + 1 - (middle if index >= middle else 0)) for index in range(len(rows)))
        return write_arrow(folder, table), tuple(positions)
    encoded = encode(fmt, rows)
    return place(folder, fmt, encoded.data), encoded.positions


def as_table(rows: Sequence[Mapping[str, object]]) -> pa.Table:
    """All rows as a table; a key that a row lacks is null in it."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


def write_parquet(folder: Path, table: pa.Table) -> Path:
    """A Parquet file with several row groups."""
    path = folder / "x.parquet"
    pq.write_table(table, path, row_group_size=8)
    return path


def write_arrow(folder: Path, table: pa.Table) -> Path:
    """A folder such as `datasets` saves: two shards and their names in `state.json`."""
    path = folder / "saved"
    path.mkdir()
    middle = len(table) // 2
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    for name, shard in zip(names, (table.slice(0, middle), table.slice(middle)), strict=True):
        with pa.OSFile(str(path / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(shard)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (path / "dataset_info.json").write_text("{}")
    return path


def _jsonl(rows: Sequence[Mapping[str, object]]) -> Encoded:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    positions = tuple((index + 1, index + 1) for index in range(len(rows)))
    return Encoded(_bytes("".join(f"{line}\n" for line in lines)), positions)


def _json(rows: Sequence[Mapping[str, object]]) -> Encoded:
    """An array, indented: each element takes as many lines as it has leaves and brackets."""
    text, positions = "[", list[Position]()
    for index, row in enumerate(rows):
        text += ",\n" if index else "\n"
        positions.append((text.count("\n") + 1, index + 1))
        text += json.dumps(row, indent=2, ensure_ascii=index % 2 == 0)
    return Encoded(_bytes(f"{text}\n]\n"), tuple(positions))


def _text(rows: Sequence[Mapping[str, object]]) -> Encoded:
    """A row a line, with a blank line, which holds no row, after the third."""
    text, positions = "", list[Position]()
    for index, row in enumerate(rows):
        positions.append((text.count("\n") + 1, index + 1))
        text += f"{row['text']}\n" + ("\n" if index == 2 else "")
    return Encoded(_bytes(text), tuple(positions))


def _table(rows: Sequence[Mapping[str, object]], delimiter: str) -> Encoded:
    names = list(dict.fromkeys(name for row in rows for name in row))
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter=delimiter, lineterminator="\n")
    writer.writerow(names)
    positions = list[Position]()
    for index, row in enumerate(rows):
        positions.append((sink.getvalue().count("\n") + 1, index + 1))
        writer.writerow([_cell(row.get(name)) for name in names])
    return Encoded(_bytes(sink.getvalue()), tuple(positions))


def _cell(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _bytes(text: str) -> bytes:
    """UTF-8, with half of a surrogate pair written as JSON spells it, since no encoding of text can hold it."""
    return "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in text).encode()


_ENCODERS = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": lambda rows: _table(rows, ","),
    "tsv": lambda rows: _table(rows, "\t"),
    "text": _text,
}
