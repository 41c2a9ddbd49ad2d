"""Whether two runs made the same: metrics but for the clock's, weights by SHA-256, every sampled token and score."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from kill_folder import RunFolder

CLOCK = ("time", "eps")
CLOCK_PARTS = ("runtime", "per_second", "seconds", "memory")
MAX_SHOWN = 5


def differences(whole: RunFolder, killed: RunFolder, stages: Sequence[str]) -> list[str]:
    """What differs between an uninterrupted run and a killed one, in words; empty where nothing does.

    Args:
        whole, killed: the two runs.
        stages: whose metrics count.
    """
    found: list[str] = []
    for stage in stages:
        found += [f"{stage}: {text}" for text in _metrics(whole.lines(stage), killed.lines(stage))]
    found += _same_files("weights", digests(whole.registry), digests(killed.registry))
    folders = [run.path / "ppo" / "rollouts" for run in (whole, killed)]
    found += _rollouts(*folders)
    return found


def comparable(line: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics without what a clock or the machine decides."""
    return {
        name: value
        for name, value in line.items()
        if name not in CLOCK and not any(part in name for part in CLOCK_PARTS)
    }


def digests(registry: Path) -> dict[str, str]:
    """Path under the registry -> SHA-256 of every file of weights in every published version."""
    files = (path for path in registry.rglob("*.safetensors") if ".staging" not in path.parts)
    return {path.relative_to(registry).as_posix(): _sha256(path) for path in files}


def _metrics(whole: list[dict[str, Any]], killed: list[dict[str, Any]]) -> list[str]:
    found: list[str] = []
    if len(whole) != len(killed):
        steps = [sorted({line["step"] for line in lines}) for lines in (whole, killed)]
        found.append(
            f"{len(whole)} lines of metrics, {len(killed)} when killed (steps {steps[0]}, {steps[1]})"
        )
    for first, second in zip(whole, killed, strict=False):
        one, other = comparable(first), comparable(second)
        names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
        shown = ", ".join(f"{name} {one.get(name)} != {other.get(name)}" for name in names[:MAX_SHOWN])
        if names:
            found.append(f"step {first['step']}: {len(names)} metrics differ: {shown}")
    return found


def _same_files(what: str, whole: dict[str, str], killed: dict[str, str]) -> list[str]:
    names = sorted(name for name in whole.keys() | killed.keys() if whole.get(name) != killed.get(name))
    if not whole:
        return [f"{what}: the uninterrupted run has none"]
    return [
        f"{what}: {name}: {_said(whole.get(name))}, {_said(killed.get(name))} when killed" for name in names
    ]


def _rollouts(whole: Path, killed: Path) -> list[str]:
    one, other = ({path.name: path for path in folder.glob("*.parquet")} for folder in (whole, killed))
    found = [f"rollouts: {name} is in one run alone" for name in sorted(one.keys() ^ other.keys())]
    for name in sorted(one.keys() & other.keys()):
        first, second = pq.read_table(one[name]), pq.read_table(other[name])
        columns = [
            column
            for column in sorted({*first.column_names, *second.column_names})
            if column not in first.column_names
            or column not in second.column_names
            or not first[column].equals(second[column])
        ]
        if columns:
            found.append(f"rollouts: {name}: {', '.join(columns)} differ")
    return found


def _said(digest: str | None) -> str:
    return "missing" if digest is None else digest[:12]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
