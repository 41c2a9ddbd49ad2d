"""One pipeline a run: a lock that the kernel drops with its owner, so that a dead one never blocks."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rlhf.durable import explain_write_errors
from rlhf.errors import LockError, UsageError

LOCK_FILE = "lock"


@contextmanager
def hold(run_folder: Path) -> Iterator[None]:
    """Own the run for the block.

    Raises:
        LockError: another live process owns it (named).
        UsageError: the folder cannot be written.
    """
    with explain_write_errors(run_folder):
        run_folder.mkdir(parents=True, exist_ok=True)
        file = (run_folder / LOCK_FILE).open("a+", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise LockError(
                f"{run_folder} is in use by {_owner(file.read())}",
                "Wait for it, or stop it; a second run needs another name or workspace.",
            ) from error
        except OSError as error:
            raise UsageError(
                f"{run_folder}: this file system cannot lock files: {error.strerror or error}",
                "Choose a workspace on one that can: two runs at once would spoil each other.",
            ) from error
        file.truncate(0)
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat("T", "seconds"),
        }
        file.write(json.dumps(owner))
        file.flush()
        yield


def _owner(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (ValueError, KeyError):
        return "another process, which is just starting"
