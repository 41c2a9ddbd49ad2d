"""Under a strategy that shares out weights: the best checkpoint is loaded again, and a resumed run is an uninterrupted one."""

import json
import shutil

import pytest
from safetensors.torch import load_file
from stage_runs import run_stage_here
from strategy_runs import ragged, run_spread

from rlhf.models.load import ModelSource, load_causal_lm

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model to go on from."""
    return run_stage_here(ragged(tmp_path_factory.mktemp("base") / "base"), "sft")


def weights(folder):
    (file,) = (path for path in folder.glob("*model.safetensors"))
    return load_file(file)


def distance(first, second):
    assert first.keys() == second.keys()
    assert all(tensor.numel() for tensor in first.values())
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def norm(differences):
    return sum(float(each.double().norm() ** 2) for each in differences) ** 0.5


@pytest.mark.parametrize("lora", [None, {"r": 2}], ids=["full", "lora"])
@pytest.mark.parametrize(
    ("strategy", "num_processes", "resume_with"), [("fsdp2", 2, 1), ("zero3", 1, 1), ("zero2", 2, 2)]
)
def test_best_and_resumed(tmp_path, base, strategy, num_processes, resume_with, lora):
    """The held-out rows are not like those of the training: in full training each step makes them worse."""

    def recipe(num):
        launch = {"strategy": strategy, "num_processes": num}
        section = {
            "max_steps": 2,
            "learning_rate": 0.01,
            "num_epochs": 2,
            "eval_every_steps": 1,
            "select_best": True,
        }
        folder = tmp_path / f"{strategy}-{'lora' if lora else 'full'}-{num_processes}"
        return ragged(folder, base, launch=launch, model={"lora": lora}, **section)

    first = recipe(num_processes)
    artefact, notes = run_spread(first, "sft")
    assert len(notes) == num_processes
    checkpoints = tmp_path / first.name / "workspace" / "runs" / first.name / "sft" / "checkpoints"
    one, two = (weights(checkpoints / f"step-{step}") for step in (1, 2))
    assert distance(one, two) > 1e-3
    losses = [
        json.loads((checkpoints / f"step-{step}" / "COMPLETE.json").read_text())["metrics"]["eval_loss"]
        for step in (1, 2)
    ]
    assert lora or losses[0] < losses[1], "of full training the first is the best, so that it is loaded again"
    assert distance(weights(artefact.path), one if losses[0] < losses[1] else two) == 0
    model = load_causal_lm(ModelSource(str(artefact.path)))
    assert sum(each.numel() for each in model.parameters()) > 30_000

    shutil.rmtree(checkpoints / "step-2")
    run_spread(recipe(resume_with), "sft")
    again = weights(checkpoints / "step-2")
    names = (
        two.keys() & again.keys()
    )  # a tied head is written beside its embedding where several processes gather
    assert two.keys() ^ again.keys() <= {"lm_head.weight"}
    moved = norm(two[name] - one[name] for name in names)
    apart = norm(two[name] - again[name] for name in names)
    assert apart <= (1e-5 * moved if resume_with != num_processes else 0)
