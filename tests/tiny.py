"""The tiny recipe: which of two answers repeats the prompt's word is easy to learn, and every stage takes seconds."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ANIMALS = ("cat", "dog", "owl", "fox", "hen", "bee", "ant", "elk")
GOOD, BAD = ("is good", "is kind", "is fine"), ("is bad", "is mean", "is vile")
SECTIONS: dict[str, Any] = {
    "name": "tiny",
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
    "data": {
        "chat": True,
        "sft": {"train": "sft.train.jsonl", "eval": "sft.eval.jsonl"},
        "preference": {"train": "preference.train.jsonl", "eval": "preference.eval.jsonl"},
        "prompts": {"train": "prompts.train.jsonl", "eval": "prompts.eval.jsonl"},
    },
    "sft": {
        "learning_rate": 0.01,
        "max_steps": 4,
        "global_batch_size": 8,
        "per_device_batch_size": 8,
        "max_length": 64,
        "eval_every_steps": 2,
        "save_every_steps": 2,
    },
    "reward": {
        "learning_rate": 0.01,
        "max_steps": 4,
        "global_batch_size": 8,
        "per_device_batch_size": 8,
        "max_length": 64,
        "eval_every_steps": 2,
        "save_every_steps": 2,
        "num_reference_samples": 16,
    },
    "ppo": {
        "num_steps": 2,
        "global_batch_size": 8,
        "per_device_batch_size": 8,
        "num_minibatches": 2,
        "num_epochs": 1,
        "learning_rate": 0.001,
        "max_prompt_length": 32,
        "sampling": {"max_new_tokens": 12},
        "shaping": {"normalize": "reference", "missing_eos": "subtract"},
        "eval_every_steps": 2,
        "evaluation": {"samples_per_prompt": 1},
        "save_every_steps": 1,
    },
}


@dataclass(frozen=True)
class TinyRecipe:
    """A recipe file and the folder that everything of it lies in."""

    path: Path

    @property
    def folder(self) -> Path:
        """Where the commands are called, since the recipe's paths are relative."""
        return self.path.parent

    @property
    def workspace(self) -> Path:
        """Runs and registry."""
        return self.folder / "workspace"

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.workspace / "runs" / "tiny"

    def sections(self) -> dict[str, Any]:
        """The recipe as it stands in the file."""
        return yaml.safe_load(self.path.read_text(encoding="utf-8"))

    def write(self, sections: Mapping[str, Any]) -> None:
        """Replace the file."""
        self.path.write_text(yaml.safe_dump(dict(sections), sort_keys=False), encoding="utf-8")

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start `rlhf` with arguments, in the recipe's folder."""
        return subprocess.Popen(
            [sys.executable, "-m", "rlhf", *arguments],
            cwd=self.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def call(self, *arguments: str) -> tuple[int, str]:
        """Run `rlhf` with arguments to its end: exit code and output."""
        return finish(self.start(*arguments))


def finish(process: "subprocess.Popen[str]", timeout_seconds: float = 180) -> tuple[int, str]:
    """Wait for a started command: exit code and output."""
    output, _ = process.communicate(timeout=timeout_seconds)
    return process.returncode, output


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without a network and with one thread, since tests share the cores."""
    return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"} | extra


def write_tiny_recipe(folder: Path, changes: Mapping[str, Mapping[str, Any]] | None = None) -> TinyRecipe:
    """Write data and recipe; `changes` replace single values of sections."""
    write_tiny_data(folder)
    recipe = TinyRecipe(folder / "recipe.yaml")
    recipe.write({key: changed(value, (changes or {}).get(key)) for key, value in SECTIONS.items()})
    return recipe


def changed(section: Any, changes: Mapping[str, Any] | None) -> Any:
    """A section with some values replaced."""
    return section if changes is None else {**section, **changes}


def write_tiny_data(folder: Path) -> None:
    """Six files: 24 demonstrations, 24 pairs (the kind word wins), 16 prompts; fewer held out."""
    asked = [f"The {animal}?" for animal in ANIMALS]
    answers = [
        (f"The {animal} {good}.", f"The {animal} {bad}.")
        for animal in ANIMALS
        for good, bad in zip(GOOD, BAD, strict=True)
    ]
    prompts = [f"The {animal}?" for animal in ANIMALS for _ in GOOD]
    demonstrations = [{"prompt": p, "completion": a} for p, (a, _) in zip(prompts, answers, strict=True)]
    pairs = [{"prompt": p, "chosen": a, "rejected": b} for p, (a, b) in zip(prompts, answers, strict=True)]
    questions = [{"prompt": prompt} for prompt in asked] + [{"prompt": f"{prompt} Say."} for prompt in asked]
    for name, rows, num_held_out in (
        ("sft", demonstrations, 4),
        ("preference", pairs, 4),
        ("prompts", questions, 4),
    ):
        write_rows(folder / f"{name}.train.jsonl", rows)
        write_rows(folder / f"{name}.eval.jsonl", rows[-num_held_out:])


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
