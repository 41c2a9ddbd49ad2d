"""A recipe and data of seconds for the kill test: a model from scratch, and which of two answers is kind."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ANIMALS = ("cat", "dog", "owl", "fox", "hen", "bee", "ant", "elk")
KIND, UNKIND = ("good", "kind", "fine"), ("bad", "mean", "vile")
NUM_HELD_OUT = 4
TRAINING: dict[str, Any] = {
    "learning_rate": 0.01,
    "max_steps": 40,
    "global_batch_size": 8,
    "per_device_batch_size": 8,
    "max_length": 64,
    "eval_every_steps": 2,
    "save_every_steps": 10,
}
RECIPE: dict[str, Any] = {
    "name": "kill-test",
    "model": {
        "scratch": {
            "vocab_size": 320,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 2,
            "intermediate_size": 64,
            "max_positions": 64,
        }
    },
    "data": {"chat": True},
    # A best checkpoint is saved as soon as it is found: the reward model's beside the regular ones, SFT's not.
    "sft": {**TRAINING, "select_best": False},
    "reward": {**TRAINING, "num_reference_samples": 16},
    "ppo": {
        "num_steps": 12,
        "global_batch_size": 8,
        "per_device_batch_size": 8,
        "num_minibatches": 2,
        "num_epochs": 2,
        "learning_rate": 0.001,
        "max_prompt_length": 32,
        "kl": {"coef": 0.1, "target": 0.5, "horizon": 40},
        "sampling": {"max_new_tokens": 12},
        "shaping": {"normalize": "running"},
        "eval_every_steps": 4,
        "save_every_steps": 3,
    },
}


def write_recipe(folder: Path) -> Path:
    """Write recipe and data into a folder, which the recipe names; the recipe's path."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts = [f"The {animal}?" for animal in ANIMALS for _ in KIND]
    good = [f"The {animal} is {word}." for animal in ANIMALS for word in KIND]
    bad = [f"The {animal} is {word}." for animal in ANIMALS for word in UNKIND]
    rows = {
        "sft": [{"prompt": p, "completion": a} for p, a in zip(prompts, good, strict=True)],
        "preference": [
            {"prompt": p, "chosen": a, "rejected": b} for p, a, b in zip(prompts, good, bad, strict=True)
        ],
        "prompts": [{"prompt": f"The {animal}?{end}"} for end in ("", " Say.") for animal in ANIMALS],
    }
    data: dict[str, Any] = dict(RECIPE["data"])
    for name, split in rows.items():
        data[name] = {
            "train": _written(folder / f"{name}.train.jsonl", split),
            "eval": _written(folder / f"{name}.eval.jsonl", split[-NUM_HELD_OUT:]),
        }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "data": data}, sort_keys=False), encoding="utf-8")
    return path


def _written(path: Path, rows: Sequence[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)
