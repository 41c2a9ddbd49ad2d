"""What PPO needs with one shared backbone and with four separate models: memory and seconds of a step with LoRA.

    python scripts/bench_memory.py --shape 1.5b --backbone shared [--steps 2] [--batch 4] [--folder DIR] [--json FILE]
    python scripts/bench_memory.py --all --shapes 0.5b 1.5b [--json FILE]

Runs the product's own PPO stage, each time in a new process, on a Qwen2.5-shaped base with random weights and random
SFT and reward adapters on it (written to the folder once a shape). Prints one line a run; `--all` goes through shapes
and backbones and prints a table in Markdown with the ratios. What its weights alone would fill is not loaded: it does
not fit. Without a GPU the columns of peak memory stay empty.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory_shapes import BACKBONES, SHAPES, state_bytes
from memory_table import line, table

if TYPE_CHECKING:
    from memory_setting import Setting


def main() -> None:
    """Measure, print."""
    arguments = _arguments()
    if arguments.all:
        results = _all(arguments)
        print("\n" + table(results))
    else:
        results = [_one(arguments)]
        print(line(results[0]))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--backbone", choices=BACKBONES, default="shared")
    parser.add_argument("--all", action="store_true", help="every shape of --shapes in both ways")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["0.5b", "1.5b"])
    parser.add_argument("--steps", type=int, default=2, help="PPO steps")
    parser.add_argument("--global-batch", type=int, default=16, help="responses in one step")
    parser.add_argument("--batch", type=int, default=4, help="responses in one forward and backward pass")
    parser.add_argument("--rollout-batch", type=int, default=16, help="responses in one generation pass")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--response-tokens", type=int, default=128)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "bench_memory",
        help="where models are made and kept (2 bytes a parameter)",
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


def _all(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    passed_on = (
        "steps",
        "global_batch",
        "batch",
        "rollout_batch",
        "prompt_tokens",
        "response_tokens",
        "folder",
    )
    settings = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in passed_on]
    for shape in arguments.shapes:
        for backbone in BACKBONES:
            with tempfile.TemporaryDirectory() as scratch:
                file = Path(scratch) / "result.json"
                chosen = [f"--shape={shape}", f"--backbone={backbone}", f"--json={file}"]
                subprocess.run([sys.executable, __file__, *chosen, *settings], check=True)
                results += json.loads(file.read_text(encoding="utf-8"))
    return results


def _one(arguments: argparse.Namespace) -> dict[str, Any]:
    """One run in this process; its figures, for JSON and the tables."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from memory_setting import Setting

    shape = SHAPES[arguments.shape]
    setting = Setting(
        backbone=arguments.backbone,
        steps=arguments.steps,
        global_batch_size=arguments.global_batch,
        batch_size=arguments.batch,
        rollout_batch_size=arguments.rollout_batch,
        prompt_tokens=arguments.prompt_tokens,
        response_tokens=arguments.response_tokens,
    )
    has_gpu = torch.cuda.is_available()
    capacity = torch.cuda.get_device_properties(0).total_memory if has_gpu else None
    expected = state_bytes(shape, setting.backbone)
    result: dict[str, Any] = {
        "shape": arguments.shape,
        "num_parameters": shape.num_parameters,
        "setting": asdict(setting),
        "device": torch.cuda.get_device_name(0) if has_gpu else "CPU",
        "capacity_bytes": capacity,
        "torch": torch.__version__,
        "expected_state_bytes": expected,
    }
    if capacity is not None and expected > capacity:
        return result | {"fits": False, "reason": "by arithmetic, not loaded", "record": None}
    return result | _measured(arguments.folder / arguments.shape, arguments.shape, setting)


def _measured(folder: Path, shape_name: str, setting: "Setting") -> dict[str, Any]:
    import torch
    from memory_record import recording
    from memory_setting import prepare_context
    from transformers.utils import logging as transformers_logging

    from rlhf.stages.ppo import run

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    reason = None
    # What the stage prints belongs into a log: standard output has one line a run.
    with (
        (folder / f"{setting.backbone}.log").open("w", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        context = prepare_context(folder, SHAPES[shape_name], setting)
        with recording() as record:
            try:
                run(context)
            except torch.cuda.OutOfMemoryError as error:
                reason = str(error).partition(".")[0]
    figures = asdict(record) | {"state_bytes": record.state_bytes, "peak_allocated": record.peak_allocated}
    return {"fits": reason is None, "reason": reason, "record": figures}


if __name__ == "__main__":
    main()
