"""The word of a run that was asked to stop and did."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):  # noqa: N818 - not an error: the run was asked to stop, and everything is saved
    """A signal stopped the run.

    Args:
        signum: the signal.
        where: where it stopped and what became of the work.
        resume_with: the command that goes on.
    """

    def __init__(self, signum: int, where: str, resume_with: str) -> None:
        super().__init__(f"stopped {where}\n  Go on with: {resume_with}")
        self.signum = signum


@contextmanager
def stop_on_sigterm(resume_with: str) -> Iterator[None]:
    """Turn a SIGTERM that comes between two stages into `Stopped`; while a stage runs, it has a handler of its own."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum, "between two stages", resume_with)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
