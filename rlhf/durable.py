"""Writes that survive a crash: a reader sees the old state or the new one, never half, and a power cut changes nothing.

Shared by the registry, the checkpoints and whoever else writes files that a later run relies on.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rlhf.errors import UsageError


@contextmanager
def explain_write_errors(place: Path) -> Generator[None]:
    """Turn an OSError inside the block (no permission, disk full, read-only) into a UsageError that names the place."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        where = f" ({error.filename})" if error.filename else ""
        remedy = "Choose a workspace that this user can write."
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            remedy = "Free space on that file system, or choose a workspace on another one."
        raise UsageError(f"cannot write to {place}: {reason}{where}", remedy) from error


def sync(path: Path) -> None:
    """Flush one file's bytes, or one folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush every regular file under `folder`, then every folder from the leaves up."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                sync(path)
        sync(Path(parent))


def write_atomic(path: Path, content: bytes) -> None:
    """Replace `path` by a file with `content`: written beside, flushed, renamed."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def replacing(path: Path) -> Generator[TextIO]:
    """A text file to write rows into, which takes the place of `path` once the block ends well.

    Half of a surrogate pair, which UTF-8 has not, is written as JSON escapes it.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def rename_folder(source: Path, target: Path) -> None:
    """Rename a folder and flush both parents.

    Raises:
        OSError: ENOTEMPTY or EEXIST where `target` is a folder with content: rename(2) never replaces one.
    """
    os.rename(source, target)
    sync(target.parent)
    if source.parent != target.parent:
        sync(source.parent)


@contextmanager
def new_folder(target: Path) -> Generator[Path]:
    """A folder to write into, which becomes `target` once the block ends well: flushed, then renamed; else it is gone.

    Raises:
        UsageError: something is at `target` already, or it cannot be written.
    """
    target = Path(target).absolute()
    _refuse_existing(target)
    with explain_write_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        beside.mkdir()
        try:
            yield beside
            sync_tree(beside)
            _refuse_existing(target)  # rename(2) would take the place of an empty folder
            rename_folder(beside, target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _refuse_existing(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target} is there already", "Name a folder that does not exist yet.")


def free_disk_bytes(path: Path) -> int:
    """Bytes that this user can still write where `path` lies or will lie."""
    existing = Path(path).absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def require_disk(path: Path, needed_bytes: int, what: str) -> None:
    """Refuse to start what cannot be saved.

    Raises:
        UsageError: with what is needed and what is free.
    """
    free = free_disk_bytes(path)
    if free < needed_bytes:
        raise UsageError(
            f"{what} needs {_gib(needed_bytes)} at {path}, where {_gib(free)} are free",
            "Free space there, keep fewer checkpoints, or choose a workspace on another file system.",
        )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
