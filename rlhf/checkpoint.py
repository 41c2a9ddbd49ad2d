"""A run's checkpoints, `<run>/<stage>/checkpoints/step-N/`: which are complete, which to resume, which to drop.

Says nothing of what lies in a checkpoint. A folder counts only with its marker `COMPLETE.json`, written last, and with
every file that the marker lists at its size. With several processes: rank 0 calls `begin`, all wait, every rank writes
into the folder, all wait, rank 0 calls `commit` (and `prune`). Reading is safe on any rank.
"""

import logging
import os
import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from rlhf.durable import explain_write_errors, rename_folder, sync_tree, write_atomic
from rlhf.errors import CheckpointError, UsageError

MARKER = "COMPLETE.json"
_STEP = re.compile(r"(\.replaced-)?step-(0|[1-9][0-9]*)")
_LEFTOVER = re.compile(r"\.(writing|removing)-step-[0-9]+")
_log = logging.getLogger(__name__)


class _Marker(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    step: int = Field(ge=0)
    created: AwareDatetime
    files: dict[str, int]
    """Relative path -> bytes."""
    metrics: dict[str, float] = Field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    step: int
    path: Path
    metrics: dict[str, float]


class Checkpoints:
    """The checkpoints in one folder; the folder is made by the first `begin`."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._open: Path | None = None

    def begin(self, step: int) -> Path:
        """Return an empty folder to write the checkpoint of `step` into; rank 0 alone.

        Raises:
            UsageError: it cannot be made.
        """
        path = self._writing(step)
        with explain_write_errors(self.folder):
            if path.exists():
                shutil.rmtree(path)
            path.mkdir(parents=True)
        self._open = path
        return path

    def commit(self, step: int, *, metrics: dict[str, float] | None = None) -> Path:
        """Mark what `begin(step)` gave as complete and move it to `step-N`, in place of an older one; rank 0 alone.

        Raises:
            CheckpointError: nothing was begun or written, or a metric is not finite.
            UsageError: the disk is full or cannot be written; older checkpoints are untouched.
        """
        path, target = self._writing(step), self.folder / f"step-{step}"
        files = _sizes(path)
        if not files:
            raise CheckpointError(
                f"{path} holds no file", f"Call begin({step}) and write the state before commit."
            )
        try:
            marker = _Marker(step=step, created=datetime.now(UTC), files=files, metrics=metrics or {})
        except ValidationError as error:
            raise CheckpointError(
                f"checkpoint of step {step}: metrics {metrics} are not finite numbers",
                "Find out where the training became non-finite before it goes on.",
            ) from error
        with explain_write_errors(self.folder):
            sync_tree(path)
            write_atomic(path / MARKER, (marker.model_dump_json(indent=2) + "\n").encode())
            self._place(path, target)
        self._open = None
        return target

    def complete(self) -> list[Checkpoint]:
        """The complete and undamaged checkpoints, by step."""
        return self._scan()[0]

    def problems(self) -> list[str]:
        """One line for each checkpoint that is damaged, with what is wrong with it."""
        return self._scan()[1]

    def newest(self) -> Checkpoint | None:
        """The checkpoint to resume from. Damaged ones are skipped, each with a logged warning (see `problems`)."""
        complete, problems = self._scan()
        for problem in problems:
            _log.warning("skipped a damaged checkpoint: %s", problem)
        return complete[-1] if complete else None

    def best(self, metric: str, *, greater_is_better: bool) -> Checkpoint | None:
        """The checkpoint with the best value of a metric, the earliest of equals; None where none carries it."""
        measured = [checkpoint for checkpoint in self.complete() if metric in checkpoint.metrics]
        sign = -1 if greater_is_better else 1
        return min(measured, key=lambda checkpoint: sign * checkpoint.metrics[metric], default=None)

    def prune(self, keep_last: int, keep_steps: Collection[int] = ()) -> list[Path]:
        """Delete complete checkpoints but the newest `keep_last` and those of `keep_steps`; rank 0 alone.

        Leavings of interrupted writes go too. Damaged checkpoints stay, for a person to look at.

        Returns:
            The folders that are gone.
        """
        if keep_last < 1:
            raise UsageError(f"keep_last={keep_last} would delete every checkpoint", "Keep 1 or more.")
        if not self.folder.is_dir():
            return []
        complete = self.complete()
        old = [each.path for each in complete[:-keep_last] if each.step not in keep_steps]
        in_use = {each.path for each in complete}
        superseded = {self.folder / f".replaced-{each.path.name}" for each in complete} - in_use
        leftovers = [
            entry
            for entry in sorted(self.folder.iterdir())
            if entry in superseded or (_LEFTOVER.fullmatch(entry.name) and entry != self._open)
        ]
        with explain_write_errors(self.folder):
            for path in old:
                doomed = self.folder / f".removing-{path.name.removeprefix('.replaced-')}"
                shutil.rmtree(doomed, ignore_errors=True)
                rename_folder(path, doomed)
                shutil.rmtree(doomed)
            for path in leftovers:
                if path.exists():
                    shutil.rmtree(path)
        return old + leftovers

    def _writing(self, step: int) -> Path:
        return self.folder / f".writing-step-{step}"

    def _place(self, path: Path, target: Path) -> None:
        """Rename into place. Whenever this is cut short, the old checkpoint or the new one is still found."""
        replaced = self.folder / f".replaced-{target.name}"
        if target.exists():
            if replaced.exists():
                shutil.rmtree(replaced)
            rename_folder(target, replaced)
        rename_folder(path, target)
        if replaced.exists():
            shutil.rmtree(replaced)

    def _scan(self) -> tuple[list[Checkpoint], list[str]]:
        found: dict[int, Checkpoint] = {}
        problems: list[str] = []
        # `step-N` sorts after `.replaced-step-N` and so wins where both are whole.
        for entry in sorted(self.folder.iterdir()) if self.folder.is_dir() else []:
            match = _STEP.fullmatch(entry.name)
            if match is None:
                continue
            result = _read(entry, int(match[2]))
            if isinstance(result, Checkpoint):
                found[result.step] = result
            else:
                problems.append(result)
        return [found[step] for step in sorted(found)], problems


def free_disk_bytes(path: Path) -> int:
    """Bytes that this user can still write where `path` lies or will lie."""
    existing = Path(path).absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def require_disk(path: Path, needed_bytes: int, what: str) -> None:
    """Refuse to start what cannot be saved.

    Raises:
        UsageError: with what is needed and what is free.
    """
    free = free_disk_bytes(path)
    if free < needed_bytes:
        raise UsageError(
            f"{what} needs {_gib(needed_bytes)} at {path}, where {_gib(free)} are free",
            "Free space there, keep fewer checkpoints, or choose a workspace on another file system.",
        )


def _read(folder: Path, step: int) -> Checkpoint | str:
    """The checkpoint in a folder, or what is wrong with it."""
    try:
        sizes = _sizes(folder)
        marker = _Marker.model_validate_json((folder / MARKER).read_bytes())
    except OSError as error:
        return f"{folder}: cannot read {error.filename}: {error.strerror}"
    except ValidationError:
        return f"{folder}: {MARKER} is not a marker"
    if marker.step != step:
        return f"{folder}: {MARKER} is that of step {marker.step}"
    for name, size in marker.files.items():
        if name not in sizes:
            return f"{folder}: {name} is missing"
        if sizes[name] != size:
            return f"{folder}: {name} has {sizes[name]} bytes, was saved with {size}"
    return Checkpoint(step, folder, marker.metrics)


def _sizes(folder: Path) -> dict[str, int]:
    """Relative path -> bytes of every file under a folder, but the marker."""
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    sizes = {path.relative_to(folder).as_posix(): path.lstat().st_size for path in paths}
    sizes.pop(MARKER, None)
    return sizes


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
