"""A stage that one process begins, two go on with and one ends, is as if nobody had stopped it."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from stage_runs import run_stage_here, tiny
from strategy_runs import run_spread_stages

from rlhf.checkpoint import Checkpoints
from rlhf.recipe import Recipe
from rlhf.recipe.launch import LaunchSection

pytestmark = pytest.mark.distributed

STAGES = ("sft", "reward", "ppo")
TRAINING = {
    "max_steps": 5,  # three are one pass
    "per_device_batch_size": 4,
    "learning_rate": 0.001,
    "save_every_steps": 2,
    "select_best": False,
    "keep_checkpoints": 9,
}
CHANGES = {
    "sft": TRAINING,
    "reward": TRAINING,
    "ppo": {
        "num_steps": 3,
        "per_device_batch_size": 2,
        "learning_rate": 0.003,
        "ema_decay": 0.5,
        "keep_checkpoints": 9,
        "shaping": {"normalize": "running", "missing_eos": "subtract"},
        "kl": {"target": 1.0, "horizon": 50},
    },
}
ONE_STOPS_AT = {"sft": 2, "reward": 2, "ppo": 1}
TWO_STOP_AT = {"sft": 4, "reward": 4, "ppo": 2}
CLOCKS = ("time", "runtime", "per_second", "seconds", "eps")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Uninterrupted, one process: recipe and artefacts."""
    recipe, made = tiny(tmp_path_factory.mktemp("one"), CHANGES), {}
    for stage in STAGES:
        made[stage] = run_stage_here(recipe, stage, made)
    return recipe, made


def named(recipe: Recipe, name: str, *, num_processes: int) -> Recipe:
    return recipe.model_copy(update={"name": name, "launch": LaunchSection(num_processes=num_processes)})


def stopped(recipe: Recipe, into: Recipe, steps: dict[str, int]) -> None:
    """Give a run the folder of another, without the checkpoints after some step of each stage."""
    runs = Path(recipe.workspace) / "runs"
    shutil.copytree(runs / recipe.name, runs / into.name)
    for stage, step in steps.items():
        checkpoints = Checkpoints(runs / into.name / stage / "checkpoints")
        for checkpoint in checkpoints.complete():
            if checkpoint.step > step:
                shutil.rmtree(checkpoint.path)
        assert checkpoints.complete()[-1].step == step


def lines(recipe, stage):
    path = Path(recipe.workspace) / "runs" / recipe.name / stage / "metrics.jsonl"
    read = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if not name.endswith(CLOCKS)} for line in read]


def answers(recipe):
    """(step, prompt, sample) -> tokens."""
    folder = Path(recipe.workspace) / "runs" / recipe.name / "ppo" / "rollouts"
    rows = [row for file in folder.glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    found = {(row["step"], row["prompt_id"], row["sample_index"]): row["response_ids"] for row in rows}
    assert len(found) == len(rows) == 24
    return found


def change(before, after):
    """All differences of the weights that both have, as one vector [N] float64; a score head is taken as it is."""
    first, second = (load_file(each / "model.safetensors") for each in (before, after))
    zero = torch.zeros(())
    return torch.cat([(second[name] - first.get(name, zero)).flatten().double() for name in sorted(second)])


def assert_as_uninterrupted(one, recipe_here, made_here):
    recipe, made = one
    assert answers(recipe_here) == answers(recipe)
    # SFT's model is new: what it begins with is its first checkpoint
    first = Path(recipe.workspace) / "runs" / recipe.name / "sft" / "checkpoints" / "step-2"
    started_from = {"sft": first, "reward": made["sft"].path, "ppo": made["sft"].path}
    for stage, before in started_from.items():
        for expected, got in zip(lines(recipe, stage), lines(recipe_here, stage), strict=True):
            assert got == pytest.approx(expected, rel=1e-3, abs=1e-5)
        expected, got = (change(before, each[stage].path) for each in (made, made_here))
        assert expected.norm() > 0.01
        assert (got - expected).norm() < 1e-5 * expected.norm(), stage


def test_two_go_on_where_one_stopped_and_one_where_two_did(one):
    two = named(one[0], "on-two", num_processes=2)
    stopped(one[0], two, ONE_STOPS_AT)
    made = {}
    for stage, (artefact, notes) in run_spread_stages(two, STAGES, one[1]).items():
        ran_as = [(note["processes"], note["wrapper"]) for note in notes]
        # PPO sums the gradients of whole models itself.
        assert ran_as == [(2, "ActorCritic" if stage == "ppo" else "DistributedDataParallel")] * 2
        assert stage != "ppo" or [note["resumed_from"] for note in notes] == [1, 1]
        made[stage] = artefact
    assert_as_uninterrupted(one, two, made)

    alone, made = named(one[0], "on-one", num_processes=1), {}
    stopped(two, alone, TWO_STOP_AT)
    for stage in STAGES:
        made[stage] = run_stage_here(alone, stage, one[1])
    assert_as_uninterrupted(one, alone, made)
