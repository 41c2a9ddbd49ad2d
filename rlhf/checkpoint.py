"""A run's checkpoints, `<run>/<stage>/checkpoints/step-N/`: which are complete, which to resume, which to drop.

Says nothing of what lies in a checkpoint. A folder counts only with its marker `COMPLETE.json`, written last, and with
every file that the marker lists at its size; what a stage loads is proved by SHA-256 besides (`recover`, `prove`). With
several processes: rank 0 calls `begin`, all wait, every rank writes into the folder, all wait, rank 0 calls `commit`
(and `prune`). Reading is safe on any rank.
"""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from rlhf.durable import explain_write_errors, rename_folder, sync_tree, write_atomic
from rlhf.errors import CheckpointError, UsageError

MARKER = "COMPLETE.json"
_STEP = re.compile(r"(\.replaced-)?step-(0|[1-9][0-9]*)")
_LEFTOVER = re.compile(r"\.(writing|removing)-step-[0-9]+")
_HASHING_THREADS = 4
_log = logging.getLogger(__name__)


class _Marker(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    step: int = Field(ge=0)
    created: AwareDatetime
    files: dict[str, int]
    """Relative path -> bytes."""
    digests: dict[str, str] = Field(default_factory=dict)
    """Relative path -> SHA-256; empty where an older version saved it."""
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

        Every byte is read once more for its digest, from memory where it still lies there: about 1 s for each 1.5 GB of
        the largest file.

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
        with explain_write_errors(self.folder):
            sync_tree(path)
            digests = _digests(path, files)
        try:
            marker = _Marker(
                step=step, created=datetime.now(UTC), files=files, digests=digests, metrics=metrics or {}
            )
        except ValidationError as error:
            raise CheckpointError(
                f"checkpoint of step {step}: metrics {metrics} are not finite numbers",
                "Find out where the training became non-finite before it goes on.",
            ) from error
        with explain_write_errors(self.folder):
            write_atomic(path / MARKER, (marker.model_dump_json(indent=2) + "\n").encode())
            self._place(path, target)
        self._open = None
        return target

    def abandon(self, step: int) -> None:
        """Delete what `begin(step)` gave, to give its room back; any rank, once its write has failed."""
        shutil.rmtree(self._writing(step), ignore_errors=True)

    def complete(self) -> list[Checkpoint]:
        """The complete checkpoints whose files have their sizes, by step."""
        return self._scan()[0]

    def problems(self) -> list[str]:
        """One line for each checkpoint that is damaged, with what is wrong with it; sizes alone are looked at."""
        return list(self._scan()[1].values())

    def newest(self) -> Checkpoint | None:
        """The newest one by its sizes, for a word about it; a stage goes on from what `recover` gives."""
        complete, problems = self._scan()
        for problem in problems.values():
            _log.warning("skipped a damaged checkpoint: %s", problem)
        return complete[-1] if complete else None

    def recover(self) -> Checkpoint | None:
        """The checkpoint to go on from, every byte of it proved; rank 0 alone, before a stage writes anything.

        Damaged ones become `damaged-step-N`, for a person to look at; leavings of interrupted writes are deleted. The
        log has a line about each.

        Raises:
            UsageError: a folder cannot be renamed or deleted.
        """
        complete, problems = self._scan()
        while complete and (damage := _damage(complete[-1])) is not None:
            problems[complete[-1].path] = damage
            self._set_aside(problems)
            complete, problems = self._scan()
        self._set_aside(problems)
        with explain_write_errors(self.folder):
            for path in self._leftovers():
                shutil.rmtree(path)
                _log.warning("removed what an interrupted save left: %s", path)
        return complete[-1] if complete else None

    def prove(self, step: int) -> Checkpoint:
        """The checkpoint of a step, every byte of it proved.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        found = next((each for each in self.complete() if each.step == step), None)
        damage = "it is not there, or incomplete" if found is None else _damage(found)
        if found is None or damage is not None:
            raise CheckpointError(
                f"{self.folder} has no undamaged checkpoint of step {step}, which is the best so far: {damage}",
                "Put it back, or start the stage anew with --fresh.",
            )
        return found

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
        leftovers = self._leftovers()
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

    def _leftovers(self) -> list[Path]:
        """Folders of interrupted writes and deletions, and replaced checkpoints whose replacement is whole."""
        complete = self.complete()
        in_use = {each.path for each in complete}
        superseded = {self.folder / f".replaced-{each.path.name}" for each in complete} - in_use
        return [
            entry
            for entry in (sorted(self.folder.iterdir()) if self.folder.is_dir() else [])
            if entry in superseded or (_LEFTOVER.fullmatch(entry.name) and entry != self._open)
        ]

    def _set_aside(self, problems: dict[Path, str]) -> None:
        for path, problem in problems.items():
            aside = path.with_name(f"damaged-{path.name.removeprefix('.replaced-')}")
            with explain_write_errors(self.folder):
                shutil.rmtree(aside, ignore_errors=True)
                rename_folder(path, aside)
            _log.warning("skipped a damaged checkpoint: %s; it is kept as %s", problem, aside.name)

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

    def _scan(self) -> tuple[list[Checkpoint], dict[Path, str]]:
        found: dict[int, Checkpoint] = {}
        problems: dict[Path, str] = {}
        # `step-N` sorts after `.replaced-step-N` and so wins where both are whole.
        for entry in sorted(self.folder.iterdir()) if self.folder.is_dir() else []:
            match = _STEP.fullmatch(entry.name)
            if match is None:
                continue
            result = _read(entry, int(match[2]))
            if isinstance(result, Checkpoint):
                found[result.step] = result
            else:
                problems[entry] = result
        return [found[step] for step in sorted(found)], problems


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


def _damage(checkpoint: Checkpoint) -> str | None:
    """What differs from the digests of the marker, None where nothing does."""
    try:
        expected = _Marker.model_validate_json((checkpoint.path / MARKER).read_bytes()).digests
        found = _digests(checkpoint.path, expected)
    except OSError as error:
        return f"{checkpoint.path}: cannot read {error.filename}: {error.strerror}"
    changed = [name for name, digest in expected.items() if found[name] != digest]
    return f"{checkpoint.path}: {', '.join(changed)}: not the bytes that were saved" if changed else None


def _digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Relative path -> SHA-256; hashing lets go of the interpreter, so that several files are read at once."""
    names = list(names)

    def digest(name: str) -> str:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        return dict(zip(names, pool.map(digest, names), strict=True))


def _sizes(folder: Path) -> dict[str, int]:
    """Relative path -> bytes of every file under a folder, but the marker."""
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    sizes = {path.relative_to(folder).as_posix(): path.lstat().st_size for path in paths}
    sizes.pop(MARKER, None)
    return sizes
