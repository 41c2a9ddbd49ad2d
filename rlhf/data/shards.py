"""PPO's recorded rollouts: which steps a folder holds, and a step's rows in the order of its global batch. No torch."""

import json
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from rlhf.errors import DataError, UsageError

_SHARD = re.compile(r"step-([0-9]+)(?:-rank-([0-9]+))?\.parquet")
_JSON_COLUMNS = ("scores", "metadata")


def recorded_steps(folder: Path) -> list[int]:
    """The steps that a folder of shards holds, counted from 1, ascending; none where there is no such folder."""
    return sorted(_shards(folder))


def read_step(folder: Path, step: int, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """A step's rows, of all ranks, in the order of the global batch.

    Args:
        folder: `<run>/ppo/rollouts`.
        step: counts from 1.
        columns: those to read; all where left out, and those that the file has not are left out.

    Raises:
        UsageError: the folder does not hold the step.
        DataError: a shard that cannot be read, or one that is missing among the step's.
    """
    shards = _shards(folder)
    if step not in shards:
        raise UsageError(f"{folder}: no rollouts of step {step}", f"It holds {_describe(sorted(shards))}.")
    ranks = shards[step]
    parts = [_read(ranks[rank], columns) for rank in sorted(ranks)]
    sizes = [len(part) for part in parts]
    # Rank r of n has rows r, r + n, …: where a shard is missing, ranks or sizes have a gap.
    if (
        sorted(ranks) != list(range(len(ranks)))
        or sizes != sorted(sizes, reverse=True)
        or sizes[0] - sizes[-1] > 1
    ):
        told = ", ".join(
            f"{ranks[rank].name} ({size} rows)" for rank, size in zip(sorted(ranks), sizes, strict=True)
        )
        raise DataError(
            f"{folder}: step {step} is not whole: {told}", "Take another step, or record it anew."
        )
    return [parts[place % len(parts)][place // len(parts)] for place in range(sum(sizes))]


def _shards(folder: Path) -> dict[int, dict[int, Path]]:
    """Step -> rank -> file."""
    found: dict[int, dict[int, Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = _SHARD.fullmatch(path.name)
        if match is not None:
            found.setdefault(int(match[1]), {})[int(match[2] or 0)] = path
    return found


def _describe(steps: list[int]) -> str:
    if not steps:
        return "none"
    whole = steps == list(range(steps[0], steps[-1] + 1))
    if whole or len(steps) > 20:
        gaps = "" if whole else ", with gaps"
        return f"steps {steps[0]} to {steps[-1]}{gaps}"
    return f"steps {', '.join(str(step) for step in steps)}"


def _read(path: Path, columns: Sequence[str] | None) -> list[dict[str, Any]]:
    # imported here: pyarrow takes longer to load than the rest of the command line
    arrow: Any = import_module("pyarrow")
    parquet: Any = import_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            present = [name for name in file.schema_arrow.names if columns is None or name in columns]
            rows = cast(list[dict[str, Any]], file.read(columns=present).to_pylist())
    except (arrow.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise DataError(f"{path}: cannot be read as Parquet: {reason}", "Take another step.") from error
    for row in rows:
        for name in _JSON_COLUMNS:
            if name in row:
                row[name] = json.loads(row[name])
    return rows
