"""Why a stage died, from what its processes and its log say: one cause, shown once, however many processes fell with it."""

import re
import signal
from pathlib import Path

from rlhf.stages.inputs import ERRORS_FOLDER, LOG_FILE
from rlhf.stages.last_words import first_last_words

LOG_LINES_SHOWN = 25
_ROOT_CAUSE = "Root Cause (first observed failure):"
_ENTRY = re.compile(
    r" +time +: (\S+)\n +host .*\n +rank +: (\d+) \(local_rank: \d+\)\n +exitcode +: (-?\d+) "
)
"""Of a process in torchrun's account: when it was seen to have ended, its rank, its exit code."""


def cause_of_death(folder: Path, code: int, start_of_log: int) -> str:
    """What a message says after `the STAGE stage `.

    Args:
        folder: the stage's.
        code: the launcher's exit code, negative for a signal.
        start_of_log: where this try's part of the log begins.
    """
    with (folder / LOG_FILE).open("rb") as log:
        log.seek(start_of_log)
        text = log.read().decode("utf-8", errors="replace").rstrip()
    killed = _killed(text)
    if killed is not None:
        rank, by = killed
        return (
            f"lost process {rank}, which was killed by {by.name}; the others were ended.\n"
            "  If nobody killed it, memory was short: see the kernel's log."
        )
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
    words = first_last_words(folder / ERRORS_FOLDER)
    if words is not None:
        return f"{how}:\n{_indented(words.text.splitlines()[-2 * LOG_LINES_SHOWN :])}"
    lines = text.split("\n")
    told = next((number for number, line in enumerate(lines) if line.startswith("error: ")), None)
    shown = lines[told:] if told is not None else lines[-LOG_LINES_SHOWN:]
    return f"{how}:\n{_indented(shown[: 2 * LOG_LINES_SHOWN])}"


def _killed(text: str) -> tuple[int, signal.Signals] | None:
    """Which process was killed, and by what, where torchrun's account says so.

    Of what it saw first: it asks the others to end (SIGTERM), and kills them half a minute later. One that loses its
    connection to a killed process can fail, or abort, in the same second.
    """
    root = _ENTRY.search(text.partition(_ROOT_CAUSE)[2])
    if root is None:
        return None
    codes = {int(entry[2]): -int(entry[3]) for entry in _ENTRY.finditer(text) if entry[1] == root[1]}
    killed = [
        (rank, signal.Signals(code)) for rank, code in codes.items() if code > 0 and code != signal.SIGTERM
    ]
    return min(killed, key=lambda each: each[1] == signal.SIGABRT, default=None)


def _indented(lines: list[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)
