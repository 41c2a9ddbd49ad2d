"""How a stage's process ends: SIGTERM or a file asks it to save and stop; and it never outlives the process that started it,
nor for long another one of the same stage."""

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
_may_leave = threading.Event()
SIBLING_SECONDS = 30.0
"""How long a process goes on after another one of the same stage and machine is gone."""


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


def die_with_siblings(grace_seconds: float = SIBLING_SECONDS) -> None:
    """Have this process end some time after another one that the same launcher started here, until `siblings_may_leave`.

    Waiting for a dead one, NCCL would hold it for half an hour: no Python runs in that wait, a handler of SIGTERM neither,
    and the launcher's own grace is as long as a save may take. Linux alone; elsewhere that timeout counts.
    """
    count = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if count > 1 and sys.platform == "linux":
        arguments = (os.getppid(), count, grace_seconds)
        threading.Thread(target=_watch_siblings, args=arguments, daemon=True).start()


def siblings_may_leave() -> None:
    """From here on each process ends by itself."""
    _may_leave.set()


def _watch_siblings(parent: int, count: int, grace_seconds: float) -> None:
    all_seen = False
    while not _may_leave.wait(1.0):
        found = _num_children(parent)
        all_seen = all_seen or found >= count
        if all_seen and found < count and not _may_leave.wait(grace_seconds):
            print("another process of this stage is gone: this one ends", file=sys.stderr, flush=True)
            os._exit(1)


def _num_children(parent: int) -> int:
    """Of all its threads, since the launcher may start processes from any."""
    files = Path(f"/proc/{parent}/task").glob("*/children")
    return sum(len(file.read_text().split()) for file in files)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
