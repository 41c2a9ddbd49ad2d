"""`rlhf rollouts`: read what PPO sampled, in the terminal. Loads pyarrow, not torch."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from rlhf.errors import UsageError

console = Console(highlight=False)

_COLUMNS = (
    *("prompt", "response", "response_ids", "logprobs", "ref_logprobs", "score", "shaped_score", "scores"),
    *("finish_reason", "prompt_id", "sample_index", "metadata"),
)
_NUMBERS = ("score", "shaped_score", "kl", "length")


StepOption = Annotated[int | None, typer.Option(min=1, help="The PPO step; the newest where left out.")]
WorstOption = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER",
        help="Lowest first, by score, shaped_score, kl, length or the name of a source of scores.",
    ),
]
MostOption = Annotated[
    str | None, typer.Option(metavar="NUMBER", help="Highest first, by one of the same numbers.")
]
LongestOption = Annotated[bool, typer.Option("--longest", help="The same as --most length.")]


def rollouts(
    run: Annotated[str, typer.Argument(help="A run's name or folder, or any folder with recorded rollouts.")],
    step: StepOption = None,
    worst: WorstOption = None,
    most: MostOption = None,
    longest: LongestOption = False,
    limit: Annotated[int, typer.Option(min=1, help="Responses to show.")] = 5,
    workspace: Annotated[
        Path, typer.Option("--workspace", help="Where RUN is a name: its workspace.")
    ] = Path("workspace"),
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show a PPO step's responses with score, KL, length and how they ended."""
    from rlhf.data.shards import read_step

    orders = [("lowest", worst), ("highest", most), ("highest", "length" if longest else None)]
    given = [(end, number) for end, number in orders if number is not None]
    if len(given) > 1:
        raise UsageError("--worst, --most and --longest exclude each other", "Give one of them.")
    folder, steps = _find(run, workspace)
    shown_step = steps[-1] if step is None else step
    rows = [_summary(shown_step, row) for row in read_step(folder, shown_step, _COLUMNS)]
    if given:
        rows = _sorted(rows, *given[0])
    if as_json:
        print(json.dumps([_finite(row) for row in rows[:limit]], ensure_ascii=False, indent=1))
        return
    order = f"{given[0][0]} {given[0][1]} first" if given else "in the order of the batch"
    told = f"{folder}  step {shown_step}: {min(limit, len(rows))} of {len(rows)} responses, {order}"
    console.print(Text(told), soft_wrap=True)
    for row in rows[:limit]:
        console.print(_panel(row))


def _find(run: str, workspace: Path) -> tuple[Path, list[int]]:
    """The folder of shards that RUN means, and the steps in it.

    Raises:
        UsageError: no such run, or nothing was recorded in it.
    """
    from rlhf.data.shards import recorded_steps

    bases = [base for base in (Path(run), workspace / "runs" / run) if base.is_dir()]
    if not bases:
        raise UsageError(
            f"{run}: neither a folder nor a run in {workspace / 'runs'}",
            "Give the run's folder, or its name and --workspace.",
        )
    for base in bases:
        for folder in (base / "ppo" / "rollouts", base / "rollouts", base):
            steps = recorded_steps(folder)
            if steps:
                return folder, steps
    raise UsageError(
        f"{bases[0]}: no recorded rollouts in it",
        "PPO writes them at each step: run it, or name another run.",
    )


def _summary(step: int, row: dict[str, Any]) -> dict[str, Any]:
    """What is shown of a row; KL is k1 summed over the response, nats."""
    differences = (a - b for a, b in zip(row["logprobs"], row["ref_logprobs"], strict=True))
    return {
        "step": step,
        "prompt_id": row["prompt_id"],
        "sample_index": row["sample_index"],
        "prompt": row["prompt"],
        "response": row["response"],
        "score": row["score"],
        "scores": row["scores"],
        "shaped_score": row.get("shaped_score"),
        "kl": sum(differences),
        "length": len(row["response_ids"]),
        "finish_reason": row["finish_reason"],
        "metadata": row["metadata"],
    }


def _sorted(rows: Sequence[dict[str, Any]], end: str, number: str) -> list[dict[str, Any]]:
    """By a number of theirs; NaN comes first either way, since it is what one looks for."""
    sources = sorted({name for row in rows for name in row["scores"]})

    def value(row: dict[str, Any]) -> float | None:
        return row[number] if number in _NUMBERS else row["scores"].get(number)

    if any(value(row) is None for row in rows):
        raise UsageError(
            f"{number}: not a number that every response of this step has",
            f"Name one of {', '.join((*_NUMBERS, *sources))}.",
        )
    sign = 1 if end == "lowest" else -1

    def key(row: dict[str, Any]) -> tuple[bool, float]:
        number_of_row = float(value(row) or 0.0)
        broken = math.isnan(number_of_row)
        return (not broken, 0.0 if broken else sign * number_of_row)

    return sorted(rows, key=key)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """The row with numbers that JSON has not as text."""

    def plain(value: Any) -> Any:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    scores = {name: plain(score) for name, score in row["scores"].items()}
    return {name: plain(value) for name, value in row.items()} | {"scores": scores}


def _panel(row: dict[str, Any]) -> Panel:
    numbers = [f"score {row['score']:+.3g}"]
    if len(row["scores"]) > 1:
        numbers += [f"{name} {score:+.3g}" for name, score in row["scores"].items()]
    if row["shaped_score"] is not None:
        numbers.append(f"shaped {row['shaped_score']:+.3g}")
    numbers += [f"KL {row['kl']:.3g}", f"{row['length']} tokens", f"ended by {row['finish_reason']}"]
    body = Text.assemble((row["prompt"], "dim"), "\n\n", row["response"] or ("(no text)", "dim"))
    title = Text(f"prompt {row['prompt_id']} sample {row['sample_index']}")
    return Panel(
        body, title=title, title_align="left", subtitle=Text("  ".join(numbers)), subtitle_align="left"
    )
