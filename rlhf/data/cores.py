"""Work on the blocks of a source, on as many cores as there are; the results come in the blocks' order."""

import os
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, NamedTuple, TypeVar

from rlhf.data.blocks import Block, num_bytes
from rlhf.data.progress import Progress, Told
from rlhf.errors import DataError

PARALLEL_BYTES = 32 << 20
"""Below this, starting processes costs more than it saves."""
TELL_SECONDS = 0.3
"""How often progress is told while a block is waited for."""
Result = TypeVar("Result")
Other = TypeVar("Other")


def on_all_cores(
    work: Callable[[Block, Progress], Result],
    blocks: Sequence[Block],
    take: Callable[[Block, Result], None],
    *,
    beside: Callable[[], Other],
    progress: Progress | None,
) -> Other:
    """The result of each block is given to `take`, in order; returns what `beside` gives, which is run meanwhile.

    Args:
        work: makes a result of a block and tells how much of the block is done; it and its results can be pickled.
        blocks: at least one.
        take: called in this process.
        beside: as `work`.
        progress: called now and then; the last time with 1.

    Raises:
        DataError: a process was killed.
    """
    told = Told([num_bytes(block) for block in blocks], progress)
    with _pool(len(blocks), told.total) as pool:
        if pool is None:
            for index, block in enumerate(blocks):
                take(block, work(block, lambda share, index=index: told.tell(index, [share])))
                told.tell(index, [1.0])
            return beside()
        other = pool.processes.submit(beside)
        parts = [pool.processes.submit(_work, work, block, index) for index, block in enumerate(blocks)]
        for index, part in enumerate(parts):
            while not wait([part], TELL_SECONDS).done:
                told.tell(index, pool.shares[index : index + 2 * pool.num_processes])
            take(blocks[index], part.result())
            told.tell(index, [1.0])
        return other.result()


class _Pool(NamedTuple):
    processes: ProcessPoolExecutor
    num_processes: int
    shares: Any
    """An entry a block, in memory that the processes share."""


_shares: Any = None
"""In a process that was started here: the pool's."""


def _begin(shares: Any) -> None:
    global _shares
    _shares = shares


def _work(work: Callable[[Block, Progress], Result], block: Block, index: int) -> Result:
    def tell(share: float) -> None:
        _shares[index] = share

    return work(block, tell)


@contextmanager
def _pool(num_blocks: int, num_bytes: int) -> Generator[_Pool | None]:
    """Processes for the blocks, or None where one does as well."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_processes = min(num_cores, num_blocks)
    if num_processes == 1 or num_bytes < PARALLEL_BYTES:
        yield None
        return
    # Forking a process with threads (torch has some) can lock the child up; else it is the quicker start by far.
    has_threads = threading.active_count() > 1 or "torch" in sys.modules
    context = get_context("fork" if os.name == "posix" and not has_threads else "spawn")
    shares = context.RawArray("d", num_blocks)
    try:
        with ProcessPoolExecutor(num_processes, context, _begin, (shares,)) as pool:
            yield _Pool(pool, num_processes, shares)
    except BrokenProcessPool as error:
        raise DataError(
            "a process that reads the data was killed, perhaps for want of memory",
            "Free memory, or turn near_duplicate off: it needs the most.",
        ) from error
