"""Bars for people who wait at a terminal while data are read."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from rlhf.data.progress import Progress

REFRESH_SECONDS = 0.1


@contextmanager
def data_bars(console: Console) -> Generator[Callable[[str], Progress]]:
    """What gives a bar by its name, where the console is a terminal; all of them are gone at the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    # No refreshing thread: processes are forked while the bars are shown.
    with Bars(
        *columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal
    ) as bars:

        def start(name: str) -> Progress:
            task = bars.add_task(name, total=1.0)
            shown = 0.0

            def tell(share: float) -> None:
                nonlocal shown
                now = time.monotonic()
                is_due = share >= 1.0 or now - shown >= REFRESH_SECONDS
                bars.update(task, completed=share, refresh=is_due)
                shown = now if is_due else shown

            return tell

        yield start
