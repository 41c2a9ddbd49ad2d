"""Tables and figure of the study of KL control, from the JSON that kl_study.py wrote.

usage: python recipes/movie_reviews/kl_report.py FILE [--figure docs/kl_study.svg]

The tables are Markdown, on standard output. The figure needs matplotlib; the same file gives the same figure.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kl_measures import BAND, WINDOW, moving_average

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ModuleNotFoundError:
    sys.exit("error: matplotlib is not installed\n  Install it: pip install -e '.[movie-reviews]'")

Report = Mapping[str, Any]
LAST = 50
BELOW, ABOVE, BEST_OF_N = "tab:blue", "tab:orange", "tab:green"


def main() -> int:
    """Print the tables, draw the figure."""
    parser = argparse.ArgumentParser(description="Tables and figure of the study of KL control.")
    parser.add_argument("file", type=Path, help="what kl_study.py wrote")
    parser.add_argument("--figure", type=Path, help="where the figure goes: .svg, .png or .pdf")
    arguments = parser.parse_args()
    report = json.loads(arguments.file.read_text(encoding="utf-8"))
    print("\n\n".join(markdown(*table) for table in (control_table(report), frontier_table(report))))
    if arguments.figure is not None:
        draw(report, arguments.figure)
    return 0


def control_table(report: Report) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Each adaptive run: where it began, when it settled, where it ended."""
    head = (
        "target",
        "first coefficient",
        "seed",
        "first average within 20%",
        "stays within from",
        f"averages of the last {LAST} updates",
        "last coefficient",
    )
    rows = []
    for run in sorted(report["adaptive"], key=lambda run: (run["target"], run["first_coef"], run["seed"])):
        found = run["settling"]
        averages = moving_average(np.array(run["kl"]), WINDOW)[-LAST:]
        rows.append(
            (
                f"{run['target']:g}",
                f"{run['first_coef']:g}",
                str(run["seed"]),
                _update(found["entered"]),
                _update(found["stays_from"]),
                f"{averages.min():.2f} to {averages.max():.2f}",
                f"{run['coef'][-1]:.3f}",
            )
        )
    return head, rows


def frontier_table(report: Report) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Score and KL of each fixed coefficient and of best-of-n, in order of KL."""
    points = [(f"PPO, coefficient {p['coef']:g}", p["kl"]["value"], p["kl"], p) for p in report["frontier"]]
    points += [(f"best of {p['n']}", p["kl"], None, p) for p in report["best_of_n"]["points"]]
    rows: list[Sequence[str]] = []
    for name, kl, interval, point in sorted(points, key=lambda point: point[1]):
        seeds = ", ".join(f"{seed['score']:.2f} at {seed['kl']:.2f}" for seed in point.get("seeds", []))
        shown = f"{kl:.2f}" if interval is None else f"{kl:.2f} {_range(interval)}"
        rows.append((name, shown, f"{point['score']['value']:.3f} {_range(point['score'])}", seeds))
    return ("", "KL, nats a response [95%]", "score [95%]", "each seed: score at KL"), rows


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(report: Report, path: Path) -> None:
    """One panel a target, and the frontier."""
    targets = sorted({run["target"] for run in report["adaptive"]})
    figure = Figure(figsize=(4.4 * (len(targets) + 1), 3.8), layout="constrained")
    axes = figure.subplots(1, len(targets) + 1)
    for target, panel in zip(targets, axes, strict=False):
        _draw_control(panel, [run for run in report["adaptive"] if run["target"] == target], target)
    _draw_frontier(axes[-1], report)
    # A fixed salt and no date: the same numbers give the same bytes.
    with mpl.rc_context({"svg.hashsalt": "kl_study", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_control(panel: Axes, runs: Sequence[Mapping[str, Any]], target: float) -> None:
    middle = np.mean([run["first_coef"] for run in runs])
    panel.axhspan(target * (1 - BAND), target * (1 + BAND), color="0.9", label=f"target ±{BAND:.0%}")
    for run in runs:
        averages = moving_average(np.array(run["kl"]), WINDOW)
        label = f"first coefficient {run['first_coef']:g}" if run["seed"] == runs[0]["seed"] else None
        color = BELOW if run["first_coef"] < middle else ABOVE
        updates = np.arange(WINDOW, WINDOW + len(averages))
        panel.plot(updates, averages, color=color, linewidth=1, label=label)
    panel.set_title(f"adaptive, target {target:g}")
    panel.set_xlabel("update")
    panel.set_ylabel(f"KL, nats a response: mean of {WINDOW} updates")
    panel.set_ylim(bottom=0)
    panel.legend(fontsize="small")


def _draw_frontier(panel: Axes, report: Report) -> None:
    best = report["best_of_n"]["points"]
    kl, score, low, high = (
        np.array([p["kl"] for p in best]),
        *(np.array([p["score"][key] for p in best]) for key in ("value", "low", "high")),
    )
    panel.plot(kl, score, color=BEST_OF_N, marker=".", label="best of n (SFT model)")
    panel.fill_between(kl, low, high, color=BEST_OF_N, alpha=0.15, linewidth=0)
    for number, point in enumerate(report["frontier"]):
        x, y = point["kl"], point["score"]
        panel.errorbar(
            x["value"],
            y["value"],
            xerr=[[x["value"] - x["low"]], [x["high"] - x["value"]]],
            yerr=[[y["value"] - y["low"]], [y["high"] - y["value"]]],
            color=BELOW,
            marker="o",
            capsize=3,
            label=None if number else "PPO, fixed coefficient, 95%",
        )
        panel.annotate(f"{point['coef']:g}", (x["value"], y["value"]), (6, -12), textcoords="offset points")
        panel.plot(
            *zip(*((seed["kl"], seed["score"]) for seed in point["seeds"]), strict=True),
            color=BELOW,
            linestyle="none",
            marker="x",
            label=None if number else "each seed",
        )
    panel.set_title("score against KL, held-out films")
    panel.set_xlabel("KL from the SFT model, nats a response")
    panel.set_ylabel("reward model's score")
    panel.legend(fontsize="small", loc="lower right")


def _update(number: int | None) -> str:
    return "never" if number is None else str(number)


def _range(estimate: Mapping[str, float]) -> str:
    return f"[{estimate['low']:.2f}, {estimate['high']:.2f}]"


if __name__ == "__main__":
    sys.exit(main())
