"""The end of a run: what each stage made, how good it is, where it is; and both models' answers side by side."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from rlhf.pipeline.folders import find_work
from rlhf.recipe import Stage
from rlhf.registry import Artefact

SAMPLES_FILE = "samples.json"
SHOWN: dict[Stage, dict[str, str]] = {
    "sft": {"eval_loss": "held-out loss"},
    "reward": {
        "eval/accuracy": "held-out accuracy",
        "eval/accuracy_ci_low": "95% from",
        "eval/accuracy_ci_high": "to",
        "eval/calibration_error": "calibration error",
    },
    "ppo": {
        "eval/sft_scores": "SFT's score",
        "eval/scores": "PPO's score",
        "eval/kl": "KL",
        "eval/response_tokens": "tokens",
    },
}


def print_summary(console: Console, run_folder: Path, artefacts: Mapping[Stage, Artefact]) -> None:
    """Print each stage's artefact with its measurements and its place, then the samples."""
    for stage, artefact in artefacts.items():
        console.print(Text(f"\n{stage:<7} {artefact.reference}", style="bold"), soft_wrap=True)
        for line in (_measured(stage, artefact), str(artefact.path)):
            if line:
                console.print(Text(f"        {line}"), soft_wrap=True)
    if "ppo" in artefacts:
        work = find_work(run_folder, "ppo", artefacts["ppo"].manifest.inputs_digest)
        if work is not None and (work / SAMPLES_FILE).is_file():
            _print_samples(console, json.loads((work / SAMPLES_FILE).read_text(encoding="utf-8")))


def _measured(stage: Stage, artefact: Artefact) -> str:
    metrics = artefact.manifest.metrics
    return ", ".join(f"{name} {metrics[key]:.3g}" for key, name in SHOWN[stage].items() if key in metrics)


def _print_samples(console: Console, samples: list[dict[str, Any]]) -> None:
    console.print("\nThe same prompts, answered by both models (score of the reward model in front):")
    for sample in samples:
        console.print(Text(f"\n{sample['prompt']}", style="bold"))
        for name in ("sft", "ppo"):
            line = f"  {name} {sample[f'{name}_score']:+.2f}  {sample[name]}"
            console.print(Text(line), soft_wrap=True)
