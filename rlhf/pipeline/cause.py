"""Why a stage died, from what its processes and its log say: one cause, shown once, however many processes fell with it."""

import re
import signal
from pathlib import Path

from rlhf.stages.inputs import ERRORS_FOLDER, LOG_FILE
from rlhf.stages.last_words import first_last_words

LOG_LINES_SHOWN = 25
_FIRST_KILLED = re.compile(
    r"Root Cause \(first observed failure\):\n\[0\]:\n(?: +(?:time|host) .*\n)*"
    r" +rank +: (\d+) \(local_rank: \d+\)\n +exitcode +: -(\d+) "
)
"""In torchrun's account of the processes that had ended; those that it killed itself stand before."""


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
    killed = _FIRST_KILLED.search(text)
    if killed is not None:
        return (
            f"lost process {killed[1]}, which was killed by {signal.Signals(int(killed[2])).name}; the others were ended.\n"
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


def _indented(lines: list[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)
