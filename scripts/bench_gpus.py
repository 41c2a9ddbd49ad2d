"""All three stages under every strategy, with full weights and LoRA: seconds a step, memory, wrappers.

    python scripts/bench_gpus.py --model DIR --gpus 2             # the table; again: what is missing
    python scripts/bench_gpus.py --device cpu --tiny              # a model of seconds, two processes (ZeRO: one)

Calls `rlhf run` on made-up rows, once a combination, each in a workspace of its own under --folder; then loads on the
CPU what was published. results.json there is written after each combination, and a call with the same settings skips
what it holds; `rlhf run` itself goes on where it was. --budget-seconds asks a run to save and stop. Exit codes: 0 all
is there; 1 something failed (why is in results.json; the next call tries it again); 75 out of time: call it again.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rlhf.durable import write_atomic
from rlhf.metrics import read_metrics
from rlhf.recipe import Stage
from rlhf.registry import Registry
from rlhf.stages.inputs import DONE_FILE

STAGES: tuple[Stage, ...] = ("sft", "reward", "ppo")
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp2")
TRAINING_STEPS = 20
"""Of SFT and the reward model, whose losses are logged every 10: the second ten are timed."""
WORDS = re.findall(
    r"\w+", "the a cat dog owl sees likes runs from to old red big small house tree river and or then"
)
WRAPPERS = {"ddp": "DistributedDataParallel", "fsdp2": "FSDPModule"}
STOPPED = 75
_RAN_AS = re.compile(r"^runs as: (\d+) process\(es\), (\w+), (\w+)$", re.MULTILINE)
_PEAK = re.compile(r"^rank \d+: peak memory ([0-9.]+) GiB", re.MULTILINE)
Result = dict[str, Any]
KINDS: dict[str, Result] = {
    "full": {},
    "lora": {"lora": {"r": 16}},
    "qlora": {"lora": {"r": 16, "quantize": "nf4"}},
}


class Combination(NamedTuple):
    """What one `rlhf run` is to show."""

    strategy: str
    kind: str
    processes: int

    def __str__(self) -> str:
        return f"{self.strategy}-{self.kind}-{self.processes}"


def main() -> int:
    """Run what is missing, print the table."""
    arguments = _arguments()
    deadline = time.monotonic() + arguments.budget_seconds
    arguments.folder.mkdir(parents=True, exist_ok=True)
    _write_rows(arguments.folder)
    if arguments.tiny:
        _write_tiny_model(arguments.folder / "base")
        arguments.model = arguments.folder / "base"
    file, setting = arguments.folder / "results.json", _setting(arguments)
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    results: dict[str, Result] = {each["name"]: each for each in known if each["setting"] == setting}
    wanted = _combinations(arguments)
    for combination in wanted:
        name = str(combination)
        if results.get(name, {}).get("stages"):
            print(f"{name}: measured before", flush=True)
            continue
        print(f"{name}: runs", flush=True)
        outcome = _measured(combination, arguments, deadline)
        if outcome is None:
            print(f"{name}: stopped, the time is up; call this again", flush=True)
            return STOPPED
        results[name] = {"name": name, "setting": setting, **combination._asdict(), **outcome}
        write_atomic(file, (json.dumps(list(results.values()), indent=1) + "\n").encode())
    shown = [results[str(combination)] for combination in wanted]
    print(f"\n{table(shown)}")
    return int(any("failed" in each for each in shown))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    base = parser.add_mutually_exclusive_group(required=True)
    base.add_argument("--model", type=Path, help="the base model's folder")
    base.add_argument("--tiny", action="store_true", help="make a base of a few thousand weights instead")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--mixed-precision", choices=("auto", "bf16", "no"), default="auto")
    parser.add_argument("--gpus", type=int, default=2, help="processes (--device cpu: not for ZeRO)")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=("ddp", *STRATEGIES[2:]))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=("full", "lora"))
    parser.add_argument("--batch", type=int, default=8, help="rows in one pass of one process")
    parser.add_argument("--episodes", type=int, default=32, help="of a PPO step, for each process")
    parser.add_argument("--ppo-steps", type=int, default=5, help="the first one is not timed")
    parser.add_argument("--response-tokens", type=int, default=64)
    parser.add_argument("--engine", choices=("auto", "hf", "graph"), default="auto", help="of rollouts")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe")
    parser.add_argument("--budget-seconds", type=float, default=540.0)
    parser.add_argument("--folder", type=Path, default=Path("bench_gpus"))
    arguments = parser.parse_args()
    if arguments.ppo_steps < 2:
        parser.error("--ppo-steps: at least 2, since the first one is not timed")
    arguments.folder = arguments.folder.absolute()
    return arguments


def _setting(arguments: argparse.Namespace) -> Result:
    others = ("tiny", "gpus", "strategies", "kinds", "budget_seconds", "folder")
    values = {name: value for name, value in vars(arguments).items() if name not in others}
    return values | {"model": str(arguments.model.absolute())}


def _combinations(arguments: argparse.Namespace) -> list[Combination]:
    # Accelerate counts one process where two CPUs run DeepSpeed.
    alone = STRATEGIES[1:4] if arguments.device == "cpu" else ()
    return [
        Combination(strategy, kind, 1 if strategy in alone else arguments.gpus)
        for strategy in arguments.strategies
        for kind in arguments.kinds
    ]


def _measured(combination: Combination, arguments: argparse.Namespace, deadline: float) -> Result | None:
    """What its three stages showed, or why it failed; None where time was up."""
    folder: Path = arguments.folder / str(combination)
    folder.mkdir(exist_ok=True)
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps(_recipe(combination, arguments), indent=1), encoding="utf-8")
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if arguments.device == "cpu" else {})
    process = subprocess.Popen(
        [sys.executable, "-m", "rlhf", "run", str(recipe), *(f"--set={each}" for each in arguments.set)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.terminate()
        output, _ = process.communicate()
    if process.returncode == STOPPED:
        _forget_cut_short(folder / "workspace" / "runs" / "bench")
        return None
    if process.returncode:
        print(output, flush=True)
        return {"failed": output[-4000:]}
    stages = {stage: _stage(folder / "workspace", stage, combination) for stage in STAGES}
    wrong = [f"{stage}: {each['wrong']}" for stage, each in stages.items() if each["wrong"]]
    return {"failed": "; ".join(wrong), "seen": stages} if wrong else {"stages": stages}


def _forget_cut_short(run: Path) -> None:
    """Let a stage whose time is that between two lines of metrics begin anew: a pause would count."""
    for stage in STAGES[:2]:
        if not (run / stage / DONE_FILE).is_file():
            shutil.rmtree(run / stage, ignore_errors=True)


def _recipe(combination: Combination, arguments: argparse.Namespace) -> Result:
    processes, batch, rows = combination.processes, arguments.batch, arguments.folder
    training = {
        "learning_rate": 1e-5,
        "max_steps": TRAINING_STEPS,
        "global_batch_size": batch * processes,
        "per_device_batch_size": batch,
        "max_length": 256,
        "save_every_steps": TRAINING_STEPS,
    }
    return {
        "name": "bench",
        "workspace": str(arguments.folder / str(combination) / "workspace"),
        "model": {"path": str(arguments.model.absolute())} | KINDS[combination.kind],
        "launch": {"num_processes": processes, "strategy": combination.strategy}
        | {"mixed_precision": arguments.mixed_precision},
        "data": {name: {"train": str(rows / f"{name}.jsonl")} for name in ("sft", "preference", "prompts")},
        "sft": training,
        "reward": {**training, "num_reference_samples": 16},
        "ppo": {
            "num_steps": arguments.ppo_steps,
            "global_batch_size": arguments.episodes * processes,
            "per_device_batch_size": batch,
            "per_device_rollout_batch_size": arguments.episodes,
            "num_minibatches": 2,
            "num_epochs": 2,
            "learning_rate": 1e-6,
            "max_prompt_length": 128,
            "sampling": {"max_new_tokens": arguments.response_tokens, "engine": arguments.engine},
            "save_every_steps": arguments.ppo_steps,
        },
    }


def _stage(workspace: Path, stage: Stage, combination: Combination) -> Result:
    """What a stage's log and metrics say, and what is wrong with it ("": nothing)."""
    folder = workspace / "runs" / "bench" / stage
    log, lines = (folder / "log.txt").read_text(encoding="utf-8"), read_metrics(folder / "metrics.jsonl")
    ran_as = set(_RAN_AS.findall(log))
    processes, wrapper, device = next(iter(ran_as), ("0", "nothing", "no device"))
    expected = WRAPPERS.get(combination.strategy, "DeepSpeedEngine")
    if combination.strategy == "ddp" and (stage == "ppo" or combination.processes == 1):
        expected = "ActorCritic" if stage == "ppo" else wrapper
    found: Result = {"processes": int(processes), "wrapper": wrapper, "device": device}
    if stage == "ppo":
        timed = [line for line in lines if "eps" in line][1:]
        seconds = [line["time/rollout_seconds"] + line["time/update_seconds"] for line in timed]
        found["seconds_a_step"] = median(seconds)
    else:
        times = {line["step"]: line["time"] for line in lines if "loss" in line}
        found["seconds_a_step"] = (times[TRAINING_STEPS] - times[TRAINING_STEPS - 10]) / 10
    found["peak_gib"] = max(map(float, _PEAK.findall(log)), default=None)
    found["parameters"] = _load(Registry(workspace / "registry"), stage)
    right = len(ran_as) == 1 and (int(processes), wrapper) == (combination.processes, expected)
    return found | {
        "wrong": "" if right else f"ran as {sorted(ran_as)}, not {combination.processes} x {expected}"
    }


def _load(registry: Registry, stage: Stage) -> int:
    """Prove an artefact's bytes and load it on the CPU, PPO's critic too; its parameters.

    Raises:
        RLHFError: it is not whole.
    """
    from rlhf.models.load import ModelSource, load_causal_lm, load_reward_model

    folder = registry.open_verified(f"bench-{stage}@latest").path
    models = [(load_reward_model if stage == "reward" else load_causal_lm)(ModelSource(str(folder)))]
    if stage == "ppo":
        models.append(load_reward_model(ModelSource(str(folder / "critic"))))
    sizes = [parameter.numel() for model in models for parameter in model.parameters()]
    if not all(sizes):
        raise SystemExit(f"{folder} holds an empty tensor")
    return sum(sizes)


def table(results: list[Result]) -> str:
    """Markdown: a row a stage."""
    lines = [
        "| strategy | weights | stage | processes | wrapper | seconds a step | peak GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in results:
        about = f"| {each['strategy']} | {each['kind']} |"
        if "failed" in each:
            lines.append(f"{about} failed | {each['processes']} | | | |")
        for stage, found in each.get("stages", {}).items():
            peak = "–" if found["peak_gib"] is None else f"{found['peak_gib']:.2f}"
            ran_as = f"{found['processes']} | {found['wrapper']}"
            lines.append(f"{about} {stage} | {ran_as} | {found['seconds_a_step']:.3f} | {peak} |")
    return "\n".join(lines)


def _write_rows(folder: Path) -> None:
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=24)) for _ in range(3 * 256)]
    triples = list(zip(texts[:256], texts[256:512], texts[512:], strict=True))
    files = {
        "sft": [{"prompt": a, "completion": f" {b}"} for a, b, _ in triples],
        "preference": [{"prompt": a, "chosen": f" {b}", "rejected": f" {c}"} for a, b, c in triples],
        "prompts": [{"prompt": a} for a in texts[:256]],
    }
    for name, rows in files.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomic(folder / f"{name}.jsonl", lines.encode())


def _write_tiny_model(folder: Path) -> None:
    if folder.is_dir():
        return
    from rlhf.models.load import scratch_causal_lm
    from rlhf.models.tokenizer import train_tokenizer
    from rlhf.recipe.model import ScratchModel

    spec = ScratchModel(
        vocab_size=300, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, max_positions=256
    )
    model: Any = scratch_causal_lm(spec, eos_token_id=1, pad_token_id=0, seed=0)
    model.save_pretrained(folder)
    train_tokenizer([" ".join(WORDS)], 300).save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
