"""Damage valid data files at random and check them: no exception, no finding without code and place, none above 5 s.

    python scripts/fuzz_data.py --inputs 100000 --seed 0 --jobs 2
    python scripts/fuzz_data.py --replay failure-0-1234.json

Each input depends on the seed and its number alone. A failing one is saved, with its bytes, for --replay.
"""

import argparse
import base64
import json
import multiprocessing
import sys
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

from fuzz_inputs import FORMATS, Case, draw_case, examine

SLOW_S = 5.0
HUNG_S = 60.0
_MEMORY_BYTES = 8 << 30


def main() -> int:
    """Run or replay; 1 if an input failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="how many (default 100,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--folder", type=Path, default=Path("."), help="where failing inputs are saved")
    parser.add_argument("--replay", type=Path, help="a saved input")
    args = parser.parse_args()
    if args.replay is not None:
        return _replay(args.replay)
    started = time.monotonic()
    num_failures = _run(args.inputs, args.seed, args.jobs, args.folder)
    counts = Counter(FORMATS[index % len(FORMATS)] for index in range(args.inputs))
    for fmt in FORMATS:
        print(f"{fmt:12} {counts[fmt]:8,} inputs")
    print(f"{args.inputs:,} inputs, {num_failures} failures, {time.monotonic() - started:.0f} s")
    return 1 if num_failures else 0


def _run(inputs: int, seed: int, jobs: int, folder: Path) -> int:
    """Every worker takes each `jobs`-th input; one that dies or hangs is replaced after the input that did it."""
    spawn = multiprocessing.get_context("spawn")
    queue: Any = spawn.SimpleQueue()
    at = [spawn.Value("q", first) for first in range(jobs)]

    def start(worker: int) -> Any:
        process = spawn.Process(target=_work, args=(inputs, seed, jobs, at[worker], queue), daemon=True)
        process.start()
        return process

    workers = [start(worker) for worker in range(jobs)]
    seen, since = [-1] * jobs, [time.monotonic()] * jobs
    num_failures = told = 0
    while any(counter.value < inputs for counter in at) or not queue.empty():
        time.sleep(0.2)
        if (tenths := 10 * min(counter.value for counter in at) // inputs) > told:
            told = tenths
            print(f"{told * inputs // 10:,} inputs done", flush=True)
        while not queue.empty():
            index, reason = queue.get()
            num_failures += _tell(seed, index, reason, folder)
        for worker, process in enumerate(workers):
            index = at[worker].value
            if index != seen[worker]:
                seen[worker], since[worker] = index, time.monotonic()
            hung = time.monotonic() - since[worker] > HUNG_S
            if index >= inputs or (process.is_alive() and not hung):
                continue
            process.kill()
            process.join()
            reason = f"hung for {HUNG_S:.0f} s" if hung else f"the process died with {process.exitcode}"
            num_failures += _tell(seed, index, reason, folder)
            at[worker].value = index + jobs
            workers[worker] = start(worker)
    for process in workers:
        process.join()
    return num_failures


def _work(inputs: int, seed: int, jobs: int, at: "Synchronized[int]", queue: Any) -> None:
    _limit_memory()
    with tempfile.TemporaryDirectory() as folder:
        for index in range(at.value, inputs, jobs):
            at.value = index
            if (reason := _fault_of(draw_case(seed, index), Path(folder))) is not None:
                queue.put((index, reason))
    at.value = inputs


def _limit_memory() -> None:
    """A damaged length must end as an error, not take the machine's memory."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))


def _fault_of(case: Case, folder: Path) -> str | None:
    """Why the input fails; None where it does not."""
    started = time.monotonic()
    try:
        examine(case, folder)
    except Exception:  # noqa: BLE001  # whatever it is, it is what the run looks for
        return traceback.format_exc()
    took = time.monotonic() - started
    return f"took {took:.1f} s" if took > SLOW_S else None


def _tell(seed: int, index: int, reason: str, folder: Path) -> int:
    case = draw_case(seed, index)
    path = folder / f"failure-{seed}-{index}.json"
    files = {name: base64.b64encode(data).decode() for name, data in case.files.items()}
    path.write_text(json.dumps({**case.__dict__, "files": files, "reason": reason}, indent=1))
    print(f"{path}: {case.format} {case.kind} {case.options}\n{reason}", flush=True)
    return 1


def _replay(path: Path) -> int:
    saved = json.loads(path.read_text())
    saved.pop("reason")
    files = {name: base64.b64decode(data) for name, data in saved.pop("files").items()}
    with tempfile.TemporaryDirectory() as folder:
        reason = _fault_of(Case(files=files, **saved), Path(folder))
    print(reason or "passes")
    return 0 if reason is None else 1


if __name__ == "__main__":
    sys.exit(main())
