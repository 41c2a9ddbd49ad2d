"""A bar a stage with the numbers that people watch, read from its metrics.jsonl; nothing where there is no terminal."""

from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rlhf.metrics import read_metrics
from rlhf.recipe import Stage

WATCHED: dict[Stage, dict[str, str]] = {
    "sft": {"loss": "loss", "eval_loss": "held-out"},
    "reward": {"loss": "loss", "accuracy": "accuracy", "eval_accuracy": "held-out"},
    "ppo": {
        "objective/scores": "score",
        "objective/kl": "KL",
        "val/response_tokens": "length",
        "eps": "episodes/s",
        "eval/scores": "held-out",
    },
}
"""Metric -> what the bar calls it."""


class StageProgress:
    """Shows one stage's progress while it runs; poll it."""

    def __init__(self, console: Console, stage: Stage, metrics: Path) -> None:
        self.console = console
        self.stage: Stage = stage
        self.metrics = metrics
        self.size = -1
        self.bar: Progress | None = None
        self.task: TaskID | None = None

    def __enter__(self) -> "StageProgress":
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("[bold]{task.description:<7}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[numbers]}"),
                console=self.console,
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task(self.stage, total=None, numbers="loading")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def poll(self) -> None:
        """Read new metrics, if any, and show them."""
        if self.bar is None or self.task is None or not self.metrics.is_file():
            return
        size = self.metrics.stat().st_size
        if size == self.size:
            return
        self.size = size
        lines = read_metrics(self.metrics)
        if lines:
            latest: dict[str, Any] = {}
            for line in lines[-200:]:
                latest |= line
            self.bar.update(
                self.task,
                completed=latest["step"],
                total=latest["total_steps"],
                numbers=_numbers(self.stage, latest),
            )


def _numbers(stage: Stage, latest: dict[str, Any]) -> str:
    parts = [
        f"{name} {latest[metric]:.3g}"
        for metric, name in WATCHED[stage].items()
        if isinstance(latest.get(metric), float)
    ]
    return "  ".join(parts)
