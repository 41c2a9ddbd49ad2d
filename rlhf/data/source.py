"""From a data source to its rows and its digest."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from rlhf.data.blocks import Block, BlockReader, num_bytes
from rlhf.data.fault import Fault
from rlhf.data.files import Files, look_up
from rlhf.data.hub import hub_name, read_hub
from rlhf.data.place import Row
from rlhf.data.progress import TOLD_ROWS, Progress, Told
from rlhf.recipe.data import DataSource, FileFormat


def find_format(source: DataSource) -> FileFormat | None:
    """The source's format: as given, else by its files' suffix, else `hub` where no such file exists and the name fits."""
    return source.format or look_up(source).format


def list_files(source: DataSource) -> list[Path]:
    """The source's files in the order in which they are read: by name, numbers in names by size.

    None for a hub data set and for a source that `check_source` finds a fault in.
    """
    return list(look_up(source).paths)


def source_name(source: DataSource) -> str:
    """How places name the source as a whole: the path, or the hub data set with its split."""
    return hub_name(source) if find_format(source) == "hub" else source.path


def check_source(source: DataSource) -> Fault | None:
    """What is wrong with the source, or one mixed into it, as a whole, before any row is read."""
    fault = look_up(source).fault
    mixed = (check_source(one) for one in source.mix_in)
    return fault or next((other for other in mixed if other is not None), None)


def read_rows(source: DataSource, progress: Progress | None = None) -> Iterator[Row | Fault]:
    """The source's rows as they stand there, and every fault of bytes and syntax, in order; constant memory.

    Lines and rows count within each file. Sources that are mixed in are not read.

    Args:
        source: where they come from.
        progress: told now and then how much of the source is read, from 0 to 1.
    """
    found = look_up(source)
    if found.fault is not None:
        yield found.fault
    elif found.format is None or found.format == "hub":
        yield from read_hub(source, progress)
    else:
        yield from _read_files([Block(path, found.format) for path in found.paths], progress)


def _read_files(blocks: list[Block], progress: Progress | None) -> Iterator[Row | Fault]:
    if progress is None:
        for block in blocks:
            yield from BlockReader(block)
        return
    told = Told([num_bytes(block) for block in blocks], progress)
    for index, block in enumerate(blocks):
        reader = BlockReader(block)
        for number, item in enumerate(reader):
            # not at the first row: a survey may read that one for the shape alone, and start again in blocks
            if number > 0 and number % TOLD_ROWS == 0:
                told.tell(index, [reader.share])
            yield item
        told.tell(index, [1.0])


def digest_source(source: DataSource) -> str | None:
    """SHA-256 of what the source holds, wherever it lies; None where that cannot be read.

    Of one file: its bytes. Of several: a line `<SHA-256>  <name relative to their folder>` for each, as sha256sum writes
    them. Of a hub data set: its rows as sorted JSON. With sources mixed in: a line with the digest of each, its own first.
    """
    found = look_up(source)
    own = _digest_rows(source) if found.format == "hub" and found.fault is None else _digest_files(found)
    if not source.mix_in or own is None:
        return own
    digests = [own]
    for mixed in source.mix_in:
        digest = digest_source(mixed)
        if digest is None:
            return None
        digests.append(digest)
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def _digest_files(found: Files) -> str | None:
    if found.fault is not None:
        return None
    try:
        digests = [_digest_file(path) for path in found.paths]
    except OSError:
        return None  # read_rows reports it
    if len(digests) == 1:
        return digests[0]
    folder = os.path.commonpath([path.parent for path in found.paths])
    lines = [
        f"{digest}  {Path(os.path.relpath(path, folder)).as_posix()}\n"
        for digest, path in zip(digests, found.paths, strict=True)
    ]
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_rows(source: DataSource) -> str | None:
    digest = hashlib.sha256()
    for item in read_hub(source):
        if isinstance(item, Fault):
            return None
        digest.update(json.dumps(item.values, sort_keys=True, default=str).encode())
        digest.update(b"\n")
    return digest.hexdigest()
