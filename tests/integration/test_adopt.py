"""`--adopt-changes` on a real PPO stage: from the next step on it trains with what was adopted."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from stage_runs import RUNNERS
from test_resume import stop_at
from tiny import write_tiny_recipe

from rlhf.errors import StageError
from rlhf.pipeline import RunOptions, run_recipe
from rlhf.recipe import load_recipe
from rlhf.stages.context import StageContext

PPO = {
    "num_steps": 4,
    "schedule": "constant",
    "kl": {"coef": 0.05},
    "eval_every_steps": 4,
    "shaping": {"normalize": "none"},
}


def run_here(recipe, run_folder, stage, *, on_poll, resume_with):
    """A stage in this process, in place of the pipeline's `run_stage`."""
    if not RUNNERS[stage](StageContext.read(run_folder, stage)):
        raise StageError(f"the {stage} stage was stopped")


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Calls the pipeline on the tiny recipe, its stages in this process; returns PPO's folder."""
    write_tiny_recipe(tmp_path, {"ppo": PPO})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlhf.pipeline.run.run_stage", run_here)

    def called(*overrides, adopt_changes=False):
        options = RunOptions("recipe.yaml", overrides=overrides, adopt_changes=adopt_changes)
        run_recipe(load_recipe(Path("recipe.yaml"), overrides), options, Console(file=io.StringIO()))
        return tmp_path / "workspace" / "runs" / "tiny" / "ppo"

    return called


def test_adopted_learning_rate_and_fixed_kl_coefficient_hold_from_the_next_step_on(call, monkeypatch):
    call("ppo=null")
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(StageError, match="was stopped"):
            call()
    folder = call("ppo.learning_rate=0.003", "ppo.kl.coef=0.2", adopt_changes=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "objective/kl_coef" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert [line["lr"] for line in steps] == [0.001, 0.001, 0.003, 0.003]
    assert [line["objective/kl_coef"] for line in steps] == [0.05, 0.05, 0.2, 0.2]
    notes = json.loads((folder / "adopted.json").read_text())
    assert [(note["from_step"], note["changes"]) for note in notes] == [
        (2, ["ppo.kl.coef 0.05 -> 0.2", "ppo.learning_rate 0.001 -> 0.003"])
    ]
