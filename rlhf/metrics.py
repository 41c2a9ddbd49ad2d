"""`metrics.jsonl`: one line a step, written by rank 0; a resumed stage drops the lines that its checkpoint never saw."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.durable import write_atomic


class MetricsLog:
    """Appends metrics of one stage.

    Args:
        path: the file.
        total_steps: of the stage, repeated in every line so that a reader can show progress.
        resume_step: lines after this step are dropped; 0 begins anew.
        num_lines: how many lines there were at that step's checkpoint, those after them are dropped too; None: not known.
        enabled: False on all ranks but the first.

    Attributes:
        num_lines: how many there are now; 0 where it is not enabled.
    """

    def __init__(
        self,
        path: Path,
        *,
        total_steps: int,
        resume_step: int,
        num_lines: int | None = None,
        enabled: bool = True,
    ) -> None:
        self.path = path
        self.total_steps = total_steps
        self.enabled = enabled
        self.num_lines = 0
        if enabled:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = [line for line in read_metrics(path) if line["step"] <= resume_step] if resume_step else []
            kept = kept[:num_lines]
            self.num_lines = len(kept)
            write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line; a number that is not finite is written as text, since JSON has none."""
        if not self.enabled:
            return
        shown = {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
        line = {"step": step, "total_steps": self.total_steps, "time": round(time.time(), 3), **shown}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.num_lines += 1


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]
