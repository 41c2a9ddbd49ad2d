"""`rlhf run` in this process on fake stages: what it printed, and which stages ran."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_stages import FakeStages
from rich.console import Console
from tiny import TinyRecipe

from rlhf.errors import StageError
from rlhf.pipeline import RunOptions, run_recipe
from rlhf.recipe import load_recipe

Run = Callable[..., str]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> FakeStages:
    fake = FakeStages()
    monkeypatch.setattr("rlhf.pipeline.run.run_stage", fake)
    return fake


@pytest.fixture
def run(tiny_recipe: TinyRecipe, stages: FakeStages, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls the pipeline with overrides and options; returns its output and leaves in `stages.ran` what this call ran."""
    monkeypatch.chdir(tiny_recipe.folder)

    def call(*overrides: str, **options: Any) -> str:
        stages.ran.clear()
        console = Console(file=io.StringIO(), width=200)
        given = RunOptions(recipe_path="recipe.yaml", overrides=overrides, **options)
        run_recipe(load_recipe(Path("recipe.yaml"), overrides), given, console)
        text = console.file
        assert isinstance(text, io.StringIO)
        return text.getvalue()

    return call


@pytest.fixture
def interrupted(run: Run, stages: FakeStages) -> Run:
    """Calls the pipeline after PPO was interrupted at step 5, with SFT and reward published."""
    stages.fail_in = "ppo"
    with pytest.raises(StageError):
        run()
    stages.fail_in = None
    stages.ran.clear()
    return run
