"""What a stage's process says before it dies, in `<stage>/errors/`: of many processes' words the first are the cause.

The others then lose their connection to the dead one and say so in tracebacks of their own, in the same log.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from rlhf.durable import write_atomic


class LastWords(NamedTuple):
    """One process's.

    Attributes:
        time: Unix seconds.
        rank: which process.
        text: the error, or the traceback of a defect.
    """

    time: float
    rank: int
    text: str


def write_last_words(folder: Path, text: str) -> None:
    """Keep this process's error in a folder of errors; the first one that it writes stays."""
    rank = int(os.environ.get("RANK", "0"))
    path = folder / f"rank-{rank}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(LastWords(time.time(), rank, text)._asdict()).encode())


def first_last_words(folder: Path) -> LastWords | None:
    """The earliest error of a stage's processes, None where none left any."""
    words = [LastWords(**json.loads(path.read_bytes())) for path in folder.glob("rank-*.json")]
    return min(words, default=None)


def keep_tracebacks(folder: Path) -> None:
    """Write the traceback of an uncaught exception to the folder too, and end a rank at once with it.

    One of several processes must not wait for the others while the interpreter tears its communication down.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        write_last_words(folder, "".join(traceback.format_exception(kind, error, trace)).rstrip())
        sys.__excepthook__(kind, error, trace)
        end_rank(1)

    sys.excepthook = hook


def end_rank(code: int) -> None:
    """Exit without the interpreter's teardown where this is one of several processes; else return."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
