"""From a data source to its rows: which format, which reader, which bytes."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rlhf.data.csvtable import read_csv
from rlhf.data.fault import Fault, make_fault
from rlhf.data.hub import hub_name, read_hub
from rlhf.data.jsonarray import read_json
from rlhf.data.jsonlines import read_jsonl
from rlhf.data.parquet import read_parquet
from rlhf.data.place import Place, Row
from rlhf.recipe.data import DataSource, FileFormat

READERS: Mapping[FileFormat, Callable[[Path], Iterator[Row | Fault]]] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "parquet": read_parquet,
}
"""Format -> reader of one file: rows and faults in order, each with its place."""

_SUFFIXES: Mapping[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_format(source: DataSource) -> FileFormat | None:
    """The source's format: as given, else by the suffix, else `hub` where no such file exists and the name fits."""
    if source.format is not None:
        return source.format
    path = Path(source.path)
    by_suffix = _SUFFIXES.get(path.suffix.lower())
    if by_suffix is None and not path.exists() and _HUB_NAME.fullmatch(source.path):
        return "hub"
    return by_suffix


def source_name(source: DataSource) -> str:
    """How places name the source: the path, or the hub data set with its split."""
    return hub_name(source) if find_format(source) == "hub" else source.path


def check_source(source: DataSource) -> Fault | None:
    """What is wrong with the source as a whole, before any row is read."""
    place = Place(source.path)
    fmt = find_format(source)
    if fmt == "hub":
        if source.split is None:
            return make_fault("bad_source", place, "is a hub data set without a split", field="split")
        return None
    for name in ("split", "config", "revision"):
        if getattr(source, name) is not None:
            return make_fault("bad_source", place, f"is a file, which has no {name}", field=name)
    path = Path(source.path)
    if not path.exists():
        return make_fault("file_missing", place, "does not exist")
    if not path.is_file():
        kind = "folder" if path.is_dir() else "special file"
        return make_fault("not_a_file", place, f"is a {kind}, not a file")
    if fmt is None:
        return make_fault(
            "unknown_format", place, f"has a suffix that names no format: {path.suffix or 'none'}"
        )
    return None


def read_rows(source: DataSource) -> Iterator[Row | Fault]:
    """The source's rows as they stand there, and every fault of bytes and syntax, in order; constant memory."""
    fault = check_source(source)
    if fault is not None:
        yield fault
        return
    fmt = find_format(source)
    if fmt is None or fmt == "hub":
        yield from read_hub(source)
        return
    try:
        yield from READERS[fmt](Path(source.path))
    except OSError as error:
        yield make_fault("unreadable", Place(source.path), f"cannot be read: {error.strerror or error}")


def digest_source(source: DataSource) -> str | None:
    """SHA-256 of the file's bytes; of the rows as sorted JSON for a hub data set; None where it cannot be read."""
    if check_source(source) is not None:
        return None
    if find_format(source) == "hub":
        return _digest_rows(source)
    try:
        with Path(source.path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None  # read_rows reports it


def _digest_rows(source: DataSource) -> str | None:
    digest = hashlib.sha256()
    for item in read_hub(source):
        if isinstance(item, Fault):
            return None
        digest.update(json.dumps(item.values, sort_keys=True, default=str).encode())
        digest.update(b"\n")
    return digest.hexdigest()
