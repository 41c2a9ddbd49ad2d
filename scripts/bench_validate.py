"""How long `rlhf validate` takes on a big file of pairs, as a ratio to `datasets.load_dataset("json")` on the same file.

    python scripts/bench_validate.py [--megabytes 500] [--rounds 3] [--folder DIR] [--json FILE]

Makes the file from a seed, then measures in turn, each in a new process and with the file dropped from the page cache
where the system allows that: `load_dataset` with an empty cache folder; `rlhf validate` with syntax and record rules
alone; with all default checks but near-duplicates; with all. Then 1,000 rows, and that neither torch nor `datasets`
is imported for them. Memory is the resident memory of all processes of a tree together, sampled every 0.1 s; pages
that they share are counted for each. Prints tables in Markdown. Linux alone: it reads /proc.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_SECONDS = 0.1
NUM_SHORT_RUNS = 5
SHORT_ROWS = 1000
SEED = 0
VOCABULARY = 20_000
BASELINE = "load_dataset"
LOAD = """
import sys, tempfile, time
import datasets
datasets.disable_progress_bars()
with tempfile.TemporaryDirectory(dir=sys.argv[2]) as cache:
    start = time.perf_counter()
    rows = datasets.load_dataset("json", data_files=sys.argv[1], cache_dir=cache)["train"]
    print(time.perf_counter() - start, len(rows))
"""
"""Prints seconds inside the call and the number of rows."""
RLHF = "import sys; from rlhf.cli import main; sys.argv[0] = 'rlhf'; main()"
IMPORTED = """
import sys
from rlhf.cli import main
sys.argv[0] = "rlhf"
try:
    main()
except SystemExit as end:
    code = end.code
print("imported:", *sorted({"torch", "datasets", "transformers"} & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""
"""`rlhf`, and then on standard error the heavy packages that it has imported."""
VARIANTS: dict[str, list[str]] = {
    "rules only": ["--rules-only"],
    "all but near duplicates": ["--off", "near_duplicate"],
    "all": [],
}
"""Name -> options of `rlhf validate`."""


@dataclass(frozen=True)
class Measured:
    """One process from its start to its end.

    Attributes:
        wall_seconds: of the whole process, start-up of Python included.
        call_seconds: inside `load_dataset`; None for `rlhf`.
        peak_bytes: the largest sum of the resident memory of the process and its children.
        output: what it printed.
    """

    wall_seconds: float
    call_seconds: float | None
    peak_bytes: int
    output: str


def main() -> None:
    """Make the data, measure, print."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        file, short = Path(folder) / "pairs.jsonl", Path(folder) / "short.jsonl"
        num_rows = write_pairs(file, num_bytes=arguments.megabytes * 1_000_000)
        write_pairs(short, num_rows=SHORT_ROWS)
        rounds = [_round(file, num_rows) for _ in range(arguments.rounds)]
        result = {
            "file": {"bytes": file.stat().st_size, "rows": num_rows, "seed": SEED},
            "cores": len(os.sched_getaffinity(0)),
            "python": sys.version.split()[0],
            "datasets": version("datasets"),
            "rounds": [{name: _figures(one) for name, one in each.items()} for each in rounds],
            "ratios_to_call": {name: _ratios(name, rounds, _call_seconds) for name in VARIANTS},
            "ratios_to_process": {name: _ratios(name, rounds, _wall_seconds) for name in VARIANTS},
            "short_seconds": [_validate(short, []).wall_seconds for _ in range(NUM_SHORT_RUNS)],
            "short_imports": _heavy_imports(short),
        }
    print(_tables(result, rounds))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=500, help="size of the file, in 10^6 bytes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="where the file and the caches are made (needs three times the room)"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


def write_pairs(path: Path, *, num_bytes: int | None = None, num_rows: int | None = None) -> int:
    """Write pairs of random words, about 770 bytes a row, until one of the bounds is reached.

    Returns:
        The number of rows.
    """
    draw = random.Random(SEED)
    words = [
        "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(VOCABULARY)
    ]
    written, count = 0, 0
    with path.open("w", encoding="ascii") as file:
        while (num_bytes is None or written < num_bytes) and (num_rows is None or count < num_rows):
            sizes = {"prompt": (60, 200), "chosen": (210, 400), "rejected": (210, 400)}
            row = {name: _text(draw, words, draw.randint(*size)) for name, size in sizes.items()}
            written += file.write(json.dumps(row) + "\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())  # pages that are not yet on the disk cannot be dropped
    return count


def _text(draw: random.Random, words: Sequence[str], size: int) -> str:
    # a mean word and its blank have 6.5 letters
    return " ".join(draw.choices(words, k=max(size * 2 // 13, 1))).capitalize() + "."


def _figures(measured: Measured) -> dict[str, Any]:
    return {name: value for name, value in asdict(measured).items() if name != "output"}


def _round(file: Path, num_rows: int) -> dict[str, Measured]:
    measured = {BASELINE: _load(file, num_rows)}
    for name, options in VARIANTS.items():
        measured[name] = _validate(file, options)
        if (told := json.loads(measured[name].output)["num_rows"]) != num_rows:
            raise SystemExit(f"{name}: read {told} rows, not {num_rows}")
    return measured


def _load(file: Path, num_rows: int) -> Measured:
    measured = _measure([sys.executable, "-c", LOAD, str(file), str(file.parent)], file)
    seconds, told = measured.output.split()
    if int(told) != num_rows:
        raise SystemExit(f"{BASELINE}: read {told} rows, not {num_rows}")
    return Measured(measured.wall_seconds, float(seconds), measured.peak_bytes, measured.output)


def _validate(file: Path, options: Sequence[str]) -> Measured:
    command = [sys.executable, "-c", RLHF, "validate", str(file), "--as", "preference", "--json", *options]
    return _measure(command, file)


def _measure(command: Sequence[str], file: Path) -> Measured:
    """Run the command with the file out of the page cache.

    Raises:
        SystemExit: the command failed.
    """
    _drop_from_cache(file)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors, cwd=ROOT)
        with _watching(process.pid) as peak:
            process.wait()
            seconds = time.perf_counter() - start
        output.seek(0)
        errors.seek(0)
        if process.returncode != 0:
            told = (errors.read() + output.read()[:2000]).decode()
            raise SystemExit(f"{' '.join(command[3:])}: exit code {process.returncode}\n{told}")
        return Measured(seconds, None, peak[0], output.read().decode())


@contextmanager
def _watching(pid: int) -> Iterator[list[int]]:
    """A list whose one entry is the peak so far of the memory of the process tree."""
    peak, ended = [0], threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            peak[0] = max(peak[0], _resident(pid))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def _drop_from_cache(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _resident(pid: int) -> int:
    """Resident bytes of the process and of all that it started; 0 for those that have ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        # any thread may have started a process
        tasks = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
        started = [Path(f"/proc/{pid}/task/{task}/children").read_text().split() for task in tasks]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(
        _resident(int(child)) for many in started for child in many
    )


def _heavy_imports(file: Path) -> list[str]:
    command = [sys.executable, "-c", IMPORTED, "validate", str(file), "--as", "preference"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return ended.stderr.rpartition("imported:")[2].split()


def _ratios(
    name: str, rounds: Sequence[dict[str, Measured]], baseline: Callable[[Measured], float]
) -> list[float]:
    """The variant's wall time over a time of the baseline, round by round."""
    return [each[name].wall_seconds / baseline(each[BASELINE]) for each in rounds]


def _call_seconds(measured: Measured) -> float:
    """Inside the call: less than what a caller waits for, since the import is left out."""
    assert measured.call_seconds is not None
    return measured.call_seconds


def _wall_seconds(measured: Measured) -> float:
    return measured.wall_seconds


def _tables(result: dict[str, Any], rounds: Sequence[dict[str, Measured]]) -> str:
    file, short = result["file"], result["short_seconds"]
    machine = f"{result['cores']} cores, Python {result['python']}, datasets {result['datasets']}"
    lines = [
        f"{file['bytes'] / 1e6:.0f} MB, {file['rows']:,} rows; {machine}; median (lowest to highest) of {len(rounds)}.",
        "",
        f"| | wall seconds | ratio to the process of `{BASELINE}` | to its call | peak memory, MB |",
        "|---|---|---|---|---|",
        _line(f"`{BASELINE}`, the call alone", [_call_seconds(each[BASELINE]) for each in rounds]),
        _line(f"`{BASELINE}`, the process", *_columns(BASELINE, rounds)),
        *(_line(f"`rlhf validate`, {name}", *_columns(name, rounds)) for name in VARIANTS),
        "",
        f"{SHORT_ROWS:,} rows: {_spread(short)} s; heavy packages imported: {', '.join(result['short_imports']) or 'none'}.",
    ]
    return "\n".join(lines)


def _columns(name: str, rounds: Sequence[dict[str, Measured]]) -> tuple[list[float], ...]:
    each = [one[name] for one in rounds]
    return (
        [one.wall_seconds for one in each],
        _ratios(name, rounds, _wall_seconds),
        _ratios(name, rounds, _call_seconds),
        [one.peak_bytes / 1e6 for one in each],
    )


def _line(name: str, seconds: list[float], *others: list[float]) -> str:
    *ratios, megabytes = [*map(_spread, others[:2]), f"{max(others[2]):.0f}"] if others else [""] * 3
    return f"| {name} | {_spread(seconds)} | {' | '.join(ratios)} | {megabytes} |"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
