"""A stream of records through an encoder: in this process at first, over all cores where it takes long."""

import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from typing import Any

from rlhf.data import Located, Place
from rlhf.errors import StageError
from rlhf.stages.signals import die_with_parent
from rlhf.stages.tokens.outcome import Encoder, Outcome, Row

PATIENCE_SECONDS = 10.0
"""How long this process encodes alone: starting others takes seconds."""
MOST_PROCESSES = 32
"""More wait for this process, which reads and checks the rows."""
BATCH = 128
"""Records that a process is given at a time."""


def encode_rows(
    rows: Iterable[Located[Any]],
    encoder: Encoder[Row],
    *,
    num_processes: int | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Iterator[tuple[Place, Outcome[Row]]]:
    """The outcome of every record, in the order of the rows, whatever the number of processes.

    Args:
        rows: read as the outcomes are taken, a bounded number of them ahead.
        encoder: what makes the outcomes.
        num_processes: how many to start where this one takes longer than `patience_seconds`; by default one a core.
            1: none.

    Raises:
        StageError: one of them was killed.
    """
    rows, start = iter(rows), time.monotonic()
    count = _num_processes(encoder) if num_processes is None else num_processes
    for item in rows:
        yield item.place, encoder(item.record)
        if count > 1 and time.monotonic() - start >= patience_seconds:
            break
    else:
        return
    yield from _encode_together(rows, encoder, count)


def _encode_together(
    rows: Iterator[Located[Any]], encoder: Encoder[Row], count: int
) -> Iterator[tuple[Place, Outcome[Row]]]:
    # Spawned, not forked: the tokenizer and torch have threads, whose locks a fork would copy as they are.
    pool = ProcessPoolExecutor(count, get_context("spawn"), _begin, (encoder,))
    waiting: deque[tuple[list[Place], Future[list[Outcome[Any]]]]] = deque()
    try:
        while True:
            while len(waiting) < 2 * count and (batch := list(islice(rows, BATCH))):
                records = [item.record for item in batch]
                waiting.append(([item.place for item in batch], pool.submit(_encode_batch, records)))
            if not waiting:
                return
            places, outcomes = waiting.popleft()
            yield from zip(places, outcomes.result(), strict=True)
    except BrokenProcessPool as error:
        raise StageError(
            "a process that turns rows into tokens was killed", "Look at the memory, and run again."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_encoder: Encoder[Any] | None = None
"""In a process that was started here: what it encodes with."""


def _begin(encoder: Encoder[Any]) -> None:
    global _encoder
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the stage, which goes on until it can save
    _encoder = encoder


def _encode_batch(records: list[Any]) -> list[Outcome[Any]]:
    assert _encoder is not None
    return [_encoder(record) for record in records]


def _num_processes(encoder: Encoder[Any]) -> int:
    """One a core; just this one for a tokenizer of a repository's own code, which another process may not find."""
    tokenizer = encoder.tokenizer
    if type(tokenizer).__module__.startswith("transformers_modules"):
        return 1
    affinity = getattr(os, "sched_getaffinity", None)
    cores = (os.cpu_count() or 1) if affinity is None else len(affinity(0))
    return min(cores, MOST_PROCESSES)
