"""How a stage's process ends: SIGTERM or a file asks it to save and stop; and it never outlives the process that started it."""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
_stop = threading.Event()
_stop_files: list[Path] = []


def stop_requested() -> bool:
    """Whether SIGTERM has come, or the file is there: finish the step, save, exit with 75."""
    return _stop.is_set() or any(file.exists() for file in _stop_files)


def listen_for_stop(stop_file: Path | None = None) -> None:
    """Let SIGTERM, SIGINT and SIGHUP set the flag that the training loops look at after each step.

    Args:
        stop_file: what the pipeline makes to ask the same through a launcher, which would not pass every signal on.
    """
    _stop_files[:] = [] if stop_file is None else [stop_file]

    def request(signum: int, frame: FrameType | None) -> None:
        _stop.set()

    signal.signal(signal.SIGTERM, request)
    signal.signal(signal.SIGINT, request)
    signal.signal(signal.SIGHUP, request)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, SIGKILLed parents included.

    Linux has PR_SET_PDEATHSIG; elsewhere a thread looks at the parent's pid twice a second.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
