"""Valid data files of every format, kind and shape, and random damage to them, for `scripts/fuzz_data.py` and its test."""

import contextlib
import datetime
import decimal
import json
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

from rlhf.data import CHECKS, check, render_json
from rlhf.recipe.data import DataSource, FileFormat, RecordKind, Shape

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from data_corpus.clean_rows import CLEAN  # pyright: ignore[reportMissingImports]
from data_corpus.writers import (  # pyright: ignore[reportMissingImports]
    COMPRESSIONS,
    TEXT_FORMATS,
    as_table,
    compress,
    write,
    write_arrow,
    write_parquet,
)

FORMATS: tuple[str, ...] = (
    *(fmt + compression for fmt in TEXT_FORMATS for compression in COMPRESSIONS),
    "parquet",
    "arrow",
)
KINDS: tuple[RecordKind, ...] = get_args(RecordKind)
SHAPES: tuple[Shape, ...] = get_args(Shape)
MAX_BYTES = 8192
"""Damaged files are cut to this."""
_ROWS = 3
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|true|false|null|[\[\]{},:\t\n]')

INTERESTING: tuple[bytes, ...] = (
    b"",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xc3",
    b"\r",
    b"\r\n",
    b"\n",
    b'"',
    b'""',
    b"\\",
    b'"\\ud800"',
    b'"\\ud83d\\u0000"',
    b"\xe2\x80\xa8",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-0.0",
    b"9" * 400,
    b"9223372036854775808",
    b"1E-400",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"[" * 1500,
    b'{"a":' * 300,
    b"[" * 120 + b"]" * 120,
    b'{"role": "user", "content": "x"}',
    b'{"from": "human", "value": null}',
    b'"metadata": {"a": 1, "a": 2}',
    b"\n\nHuman: x\n\nAssistant:",
    b"<|im_end|>",
    b"&#x110000;&lt;",
    b"a@b.co +49 221 471012345 4111111111111111",
    b"\xf0\x9f\x91\xa9\xe2\x80\x8d",
    b" " * 200,
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"PAR1",
    b"ARROW1\0\0",
    b"\x1f\x8b\x08",
    b"\x28\xb5\x2f\xfd",
)
"""Bytes that have broken readers before: limits of numbers, broken characters, deep nesting, magic numbers."""


class Edit(NamedTuple):
    """The bytes from `at` on, `length` many, become `payload`; `at` wraps round at the file's end."""

    at: int
    length: int
    payload: bytes


@dataclass(frozen=True)
class Case:
    """One check of one damaged file."""

    format: str
    name: str
    """The data source's path within the folder."""
    files: dict[str, bytes]
    """Path within the folder -> bytes."""
    kind: RecordKind
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Of the data source."""
    chat: bool = False


@cache
def seeds(fmt: str) -> tuple[Case, ...]:
    """Small valid files of one format: each kind and shape that it can hold, and tables with odd types."""
    base = fmt.partition(".")[0]
    found: list[Case] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, clean in enumerate(CLEAN.values()):
            if base not in clean.formats:
                continue
            at = Path(folder) / str(number)
            at.mkdir()
            path, _ = write(at, base, clean.rows[2 : 2 + _ROWS])
            found.append(_case(fmt, path, at, clean.kind))
        if base in ("parquet", "arrow"):
            at = Path(folder) / "odd"
            at.mkdir()
            path = (write_parquet if base == "parquet" else write_arrow)(at, as_table(_odd_rows()))
            found.append(_case(fmt, path, at, "sft", {"extra": "metadata"}))
    return tuple(found)


def _case(
    fmt: str, path: Path, folder: Path, kind: RecordKind, options: dict[str, Any] | None = None
) -> Case:
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return Case(fmt, path.name, files, kind, options or {})


def _odd_rows() -> list[dict[str, Any]]:
    """Rows with every type that a column may have, beside a valid demonstration."""
    return [
        {
            "prompt": "Hello?",
            "completion": text,
            "day": datetime.date(2024, 2, 29),
            "at": datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC),
            "took": datetime.timedelta(seconds=3),
            "price": decimal.Decimal("12.50"),
            "raw": b"\xff\0",
            "nested": [[{"k": [1.5, None]}], []],
            "flag": True,
            "nothing": None,
        }
        for text in ("Hi.", "Hello.", "Good day.")
    ]


def apply(data: bytes, edits: Sequence[Edit]) -> bytes:
    """The bytes after the edits, cut to MAX_BYTES."""
    for at, length, payload in edits:
        at %= len(data) + 1
        data = data[:at] + payload + data[at + length :]
    return data[:MAX_BYTES]


def damaged(case: Case, edits: Sequence[Edit], *, after_compression: bool, file: int = 0) -> Case:
    """The case with edits in one of its files: in the plain bytes, or in the archive's."""
    name = sorted(case.files)[file % len(case.files)]
    data = case.files[name]
    _, dot, compression = case.format.partition(".")
    if dot and not after_compression:
        files = {f"{name}.{compression}": compress(case.format, apply(data, edits))}
    elif dot:
        files = {f"{name}.{compression}": apply(compress(case.format, data), edits)}
    else:
        files = {**case.files, name: apply(data, edits)}
    path = f"{case.name}.{compression}" if dot else case.name
    return Case(case.format, path, files, case.kind, case.options, case.chat)


def draw_case(seed: int, index: int) -> Case:
    """Input `index` of a run: the same for the same seed."""
    draw = random.Random(f"{seed}/{index}")
    fmt = FORMATS[index % len(FORMATS)]
    case = draw.choice(seeds(fmt))
    main = sorted(case.files)[0]
    edits = [_draw_edit(draw, fmt, case.files[main]) for _ in range(draw.choice((1, 1, 1, 2, 3, 8)))]
    case = damaged(case, edits, after_compression=draw.random() < 0.5, file=draw.choice((0, 0, 0, 1, 2, 3)))
    kind = case.kind if draw.random() < 0.85 else draw.choice(KINDS)
    options = dict(case.options)
    if draw.random() < 0.15:
        options["shape"] = draw.choice(SHAPES)
    if draw.random() < 0.15:
        options["extra"] = "metadata"
    if draw.random() < 0.05:
        options["columns"] = {draw.choice(("prompt", "chosen", "text", "instruction")): "output"}
    if draw.random() < 0.04:
        formats: list[FileFormat] = ["jsonl", "json", "csv", "tsv", "text", "parquet", "arrow"]
        options["format"] = draw.choice(formats)
    return Case(case.format, case.name, case.files, kind, options, draw.random() < 0.1)


def _draw_edit(draw: random.Random, fmt: str, data: bytes) -> Edit:
    at, length = draw.randrange(len(data) + 1), draw.choice((0, 1, 1, 2, 4, 16, 64, 256))
    match draw.randrange(7):
        case 0:  # flip a bit
            byte = data[at : at + 1] or b"\0"
            return Edit(at, 1, bytes([byte[0] ^ (1 << draw.randrange(8))]))
        case 1:
            return Edit(at, length, draw.randbytes(draw.choice((0, 1, 4, 16))))
        case 2:
            return Edit(at, length if draw.random() < 0.5 else 0, draw.choice(INTERESTING))
        case 3:  # cut the file here
            return Edit(at, len(data), b"")
        case 4:  # duplicate what stands here
            return Edit(at, 0, data[at : at + length])
        case 5:  # splice in a piece of another file
            other = next(iter(draw.choice(seeds(fmt)).files.values()))
            start = draw.randrange(len(other) + 1)
            return Edit(at, length, other[start : start + draw.choice((16, 200, 4000))])
        case _:  # swap a JSON token
            tokens = [match.span() for match in _TOKEN.finditer(data)] or [(at, at)]
            start, stop = draw.choice(tokens)
            return Edit(start, stop - start, draw.choice(INTERESTING))


@contextlib.contextmanager
def on_disk(case: Case, folder: Path) -> Iterator[Path]:
    """The case's files in the folder, gone afterwards; the data source's path."""
    for name, data in case.files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    try:
        yield folder / case.name
    finally:
        for child in folder.iterdir():
            shutil.rmtree(child) if child.is_dir() else child.unlink()


def examine(case: Case, folder: Path) -> None:
    """Check the case as `rlhf validate` does.

    Raises:
        AssertionError: if the report breaks a promise.
    """
    with on_disk(case, folder) as path:
        source = DataSource(path=str(path), **case.options)
        report = check(source, case.kind, chat=case.chat)
        for fault in report.faults:
            assert fault.code in CHECKS, f"unknown code {fault.code}"
            assert fault.path, f"a fault without a place: {fault}"
            assert fault.line is None or fault.line >= 1, f"line {fault.line} of {fault}"
            assert fault.row is None or fault.row >= 1, f"row {fault.row} of {fault}"
            assert "\n" not in str(fault), f"a fault of several lines: {fault}"
        report.as_text().encode()
        json.dumps(render_json([report]), allow_nan=False, ensure_ascii=False).encode()
        assert report.num_records or report.faults, "neither a record nor a finding"
