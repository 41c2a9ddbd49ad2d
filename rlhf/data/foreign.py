"""Files that are something else than their name or `format` says: told once, by their first bytes, not once a row."""

import codecs
from pathlib import Path

from rlhf.data.fault import Fault, make_fault
from rlhf.data.place import Place
from rlhf.recipe.data import FileFormat

HEAD_BYTES = 64
_UNPACK = "Unpack it; gzip and zstd are read as they are, under names that end in .gz and .zst."
_ARCHIVES = {
    b"\x1f\x8b": ("gzip data", ".gz"),
    b"\x28\xb5\x2f\xfd": ("zstd data", ".zst"),
    b"PK\x03\x04": ("a zip archive or a spreadsheet", None),
    b"BZh": ("bzip2 data", None),
    b"\xfd7zXZ\x00": ("xz data", None),
}
_TABLES: dict[bytes, tuple[str, FileFormat]] = {
    b"PAR1": ("a Parquet file", "parquet"),
    b"ARROW1": ("an Arrow file", "arrow"),
}
_TABLES_READ = ("parquet", "arrow")
_POINTER = b"version https://git-lfs.github.com/spec/"
_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""The longer marks first: one of them starts as a shorter one does."""


def foreign_content(path: Path, fmt: FileFormat) -> Fault | None:
    """What the file holds in place of its format; None for all that its reader had better look at.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        head = file.read(HEAD_BYTES)
    found = _found(head, path, fmt)
    if found is not None:
        what, remedy = found
        return make_fault("other_content", Place(str(path)), f"is {what}, not {fmt}", remedy=remedy)
    mark = next((mark for mark in _ENCODINGS if head.startswith(mark)), None)
    if mark is None or fmt in _TABLES_READ:
        return None
    name = _ENCODINGS[mark]
    remedy = f"Save the file as UTF-8, such as by `iconv -f {name} -t UTF-8`."
    return make_fault("not_utf8", Place(str(path), 1), f"is {name}, by its byte order mark", remedy=remedy)


def _found(head: bytes, path: Path, fmt: FileFormat) -> tuple[str, str] | None:
    if head.startswith(_POINTER):
        return "a pointer of Git LFS", "Fetch the data that it stands for: `git lfs pull`."
    for magic, (what, suffix) in _ARCHIVES.items():
        if head.startswith(magic) and path.suffix.lower() != suffix:
            is_read = suffix is not None and fmt not in _TABLES_READ
            return what, f"Name it {path.name}{suffix}, or unpack it." if is_read else _UNPACK
    for magic, (what, real) in _TABLES.items():
        if head.startswith(magic) and fmt not in _TABLES_READ:
            return what, f"Set `format` (--format) to {real}, or correct its name."
    if fmt != "text" and head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        remedy = "Download the file itself: this is a page about it, or one that tells an error."
        return "an HTML page", remedy
    return None
