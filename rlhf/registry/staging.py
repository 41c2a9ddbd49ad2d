"""Where artefacts are written before they are published, and the locks that tell a live writer from a dead one.

A slot is `<root>/.staging/<name>.<random>/`: a `lock` file, held by its owner as long as that process lives, and the
folder `files` that becomes the artefact. The kernel drops a lock with its process, however that dies, so no process
id is ever guessed at. Some network mounts keep locks to one host: a slot of another host is taken for dead after a day
at the earliest. On a file system without locks nothing is swept.
"""

import errno
import fcntl
import os
import shutil
import socket
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from rlhf.durable import rename_folder

FILES = "files"
_LOCK = "lock"
_FOREIGN_SECONDS = 24 * 3600
_owned: dict[Path, int] = {}
"""Slot -> the lock's descriptor, kept open: dropping a Registry must not free the slots of a process that lives."""
_UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})


@contextmanager
def exclusive(path: Path) -> Generator[bool]:
    """Hold the lock file at `path`, waiting for it; yields False where the file system has no locks."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield _lock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


def open_slot(area: Path, name: str) -> Path:
    """Make a slot that this process owns until it ends or closes it."""
    slot = area / f"{name}.{uuid.uuid4().hex}"
    (slot / FILES).mkdir(parents=True)
    descriptor = os.open(slot / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    _lock(descriptor, fcntl.LOCK_EX)
    os.write(descriptor, socket.gethostname().encode())
    _owned[slot] = descriptor
    return slot


def owns_slot(slot: Path, name: str) -> bool:
    """Whether this process opened the slot under this name and has not closed it."""
    return slot in _owned and slot.name.rpartition(".")[0] == name


def close_slot(slot: Path) -> None:
    """Remove a slot whose files were published. What cannot be removed now is swept later."""
    os.close(_owned.pop(slot))
    shutil.rmtree(slot, ignore_errors=True)


def abandoned_slots(area: Path) -> list[Path]:
    """The slots whose owner is dead. Call it while the registry's lock is held, as slots are made."""
    return [slot for slot in sorted(area.iterdir()) if _is_abandoned(slot)] if area.is_dir() else []


def discard(folder: Path, area: Path) -> None:
    """Delete a folder that readers may look at: it vanishes at once, and an interrupted deletion is swept later."""
    trash = area / f"trash.{uuid.uuid4().hex}"
    area.mkdir(parents=True, exist_ok=True)
    rename_folder(folder, trash)
    shutil.rmtree(trash)


def _is_abandoned(slot: Path) -> bool:
    try:
        descriptor = os.open(slot / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        return True
    except PermissionError:
        return False
    try:
        host = os.read(descriptor, 256).decode(errors="replace")
        age_seconds = time.time() - os.fstat(descriptor).st_mtime
        if host not in {"", socket.gethostname()} and age_seconds < _FOREIGN_SECONDS:
            return False
        return _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _lock(descriptor: int, operation: int) -> bool:
    """Take the lock; False where the file system has none."""
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    return True
