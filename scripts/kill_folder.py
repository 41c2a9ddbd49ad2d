"""What a run's folder tells from outside: the lines of its metrics, its checkpoints, what is being written."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARKER = "COMPLETE.json"
_STEP = re.compile(r"(?:\.replaced-)?step-(\d+)")
_WRITING = re.compile(r"\.writing-step-(\d+)")


@dataclass(frozen=True)
class Pace:
    """How long the parts of a stage took without a kill, in seconds.

    Attributes:
        loading: from its start to its first line of metrics.
        training: from one step with lines to the next such step.
        saving: one checkpoint.
        publishing: from the last line to the end.
    """

    loading: float
    training: float
    saving: float
    publishing: float


@dataclass(frozen=True)
class RunFolder:
    """One run in one workspace.

    Attributes:
        workspace: with the registry.
        name: of the run.
    """

    workspace: Path
    name: str

    @property
    def path(self) -> Path:
        """The run's own folder."""
        return self.workspace / "runs" / self.name

    @property
    def registry(self) -> Path:
        """Where the artefacts lie."""
        return self.workspace / "registry"

    def recipe(self) -> dict[str, Any]:
        """The recipe as it was resolved."""
        return json.loads((self.path / "recipe.json").read_text(encoding="utf-8"))

    def lines(self, stage: str, since: float = 0.0) -> list[dict[str, Any]]:
        """The whole lines of the stage's metrics that were written at `since` (Unix seconds) or later."""
        path = self.path / stage / "metrics.jsonl"
        if not path.is_file():
            return []
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
        return [line for line in found if line["time"] >= since]

    def newest(self, stage: str) -> int:
        """The step of the newest checkpoint with a marker; 0 where there is none."""
        steps = (
            int(match[1])
            for entry in _entries(self.path / stage / "checkpoints")
            if (match := _STEP.fullmatch(entry.name)) and (entry / MARKER).is_file()
        )
        return max(steps, default=0)

    def writing(self, stage: str) -> dict[int, tuple[int, int]]:
        """Step -> identity (inode, change time) of each checkpoint that is being written or was left half-written."""
        found: dict[int, tuple[int, int]] = {}
        for entry in _entries(self.path / stage / "checkpoints"):
            if match := _WRITING.fullmatch(entry.name):
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue
                found[int(match[1])] = (status.st_ino, status.st_ctime_ns)
        return found

    def staging(self) -> set[str]:
        """The slots of artefacts that are being written, or were left."""
        return {entry.name for entry in _entries(self.registry / ".staging")}

    def is_published(self, artefact: str) -> bool:
        """Whether the registry has a version of that name."""
        return any((entry / "manifest.json").is_file() for entry in _entries(self.registry / artefact))

    def pace(self, stage: str) -> Pace:
        """How long its parts took, from the times of its files; of a run that ended."""
        folder, lines = self.path / stage, self.lines(stage)
        begun, published = _changed(folder / "inputs.json"), _changed(folder / "published.json")
        first, last = lines[0], lines[-1]
        num_gaps = max(1, len({line["step"] for line in lines}) - 1)
        saves = [_saving_seconds(entry) for entry in _entries(folder / "checkpoints")]
        return Pace(
            loading=max(0.0, first["time"] - begun),
            training=(last["time"] - first["time"]) / num_gaps,
            saving=max(saves, default=0.0),
            publishing=max(0.0, published - last["time"]),
        )


def executed_at_most(start: int, last: int, usual: Iterable[int], newest: int, interval: int) -> int:
    """How many steps a process can have trained, from what it left behind.

    It may have been in the step after its last line, and steps without a line may follow one with a line; but it never
    trains past a save that is due.

    Args:
        start: the step that it went on from.
        last: the step of its last line, `start` where it wrote none.
        usual: the steps that have a line in an uninterrupted run.
        newest: the newest checkpoint that it left.
        interval: steps between two saves.
    """
    following = min((step for step in usual if step > last), default=last)
    return max(last, newest, min(following, newest + interval)) - start


def _saving_seconds(checkpoint: Path) -> float:
    times = [_changed(path) for path in checkpoint.rglob("*") if path.is_file()]
    return max(times) - min(times) if times else 0.0


def _changed(path: Path) -> float:
    return path.stat().st_mtime


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
