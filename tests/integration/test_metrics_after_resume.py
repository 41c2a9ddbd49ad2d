"""`metrics.jsonl` of SFT and reward model after a resume, where more than a stop at a step lies before it."""

import json
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from stage_runs import context_of, run_stage_here, tiny
from transformers import Trainer

from rlhf.checkpoint import MARKER
from rlhf.errors import TrainingError
from rlhf.metrics import read_metrics
from rlhf.recipe import Recipe
from rlhf.registry import Artefact
from rlhf.stages.spikes import Rollback

CLOCKS = {"time", "train_runtime", "train_samples_per_second", "train_steps_per_second"}
EVAL_CLOCKS = {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}
# Losses have a line at step 10; checkpoints are saved at 6, 12 and 14.
LONG = {
    "max_steps": 14,
    "save_every_steps": 6,
    "eval_every_steps": 7,
    "keep_checkpoints": 9,
    "select_best": False,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, dict[str, Artefact]]:
    """Both stages without a stop."""
    recipe = tiny(tmp_path_factory.mktemp("whole"), {"sft": LONG, "reward": LONG})
    made: dict[str, Artefact] = {}
    for stage in ("sft", "reward"):
        made[stage] = finished(recipe, stage, made)
    return recipe, made


def finished(recipe: Recipe, stage, made: dict[str, Artefact]) -> Artefact:
    artefact = run_stage_here(recipe, stage, made)
    assert artefact is not None
    return artefact


def lines_of(recipe: Recipe, stage, made: dict[str, Artefact]) -> list[dict[str, Any]]:
    lines = read_metrics(context_of(recipe, stage, made).folder / "metrics.jsonl")
    return [
        {name: value for name, value in line.items() if name not in CLOCKS | EVAL_CLOCKS} for line in lines
    ]


def copied(whole: tuple[Recipe, dict[str, Artefact]], folder, stage, newest: int) -> Recipe:
    """The workspace as a kill leaves it that comes with that checkpoint as the newest."""
    recipe, made = whole
    shutil.copytree(recipe.workspace, folder / "workspace")
    here = recipe.model_copy(update={"workspace": str(folder / "workspace")})
    cut(here, stage, made, newest)
    return here


def cut(recipe: Recipe, stage, made: dict[str, Artefact], newest: int) -> None:
    """Take away the artefact, and the checkpoints after one."""
    context = context_of(recipe, stage, made)
    shutil.rmtree(context.registry.find(recipe.artefact_name(stage), context.inputs.digest).path)
    (context.folder / "published.json").unlink()
    for checkpoint in context.checkpoints.complete():
        if checkpoint.step > newest:
            shutil.rmtree(checkpoint.path)
    found = context.checkpoints.newest()
    assert found is not None
    assert found.step == newest


class Step(NamedTuple):
    """What a step trained on."""

    loss: float
    tokens: int


def watch(monkeypatch: pytest.MonkeyPatch, spoiled: int | None = None) -> dict[int, Step]:
    """Step -> its loss and tokens as they come; the gradient of one step is not finite."""
    seen: dict[int, Step] = {}
    real: Callable = Trainer.training_step

    def watched(self, model, inputs, num_items_in_batch=None):
        step = self.state.global_step + 1
        tokens = int(inputs["attention_mask"].sum())
        loss = real(self, model, inputs, num_items_in_batch)
        seen[step] = Step(float(loss), tokens)
        if step == spoiled:
            next(model.parameters()).grad.fill_(float("nan"))
        return loss

    monkeypatch.setattr(Trainer, "training_step", watched)
    return seen


@pytest.mark.parametrize("stage", ["sft", "reward"])
@pytest.mark.parametrize("newest", [6, 12, 14])
def test_lines_are_those_of_an_uninterrupted_run(whole, tmp_path, stage, newest):
    """Within a window of losses, between two of them, and once all is trained, as a kill while publishing leaves it."""
    recipe, made = whole
    here = copied(whole, tmp_path, stage, newest)
    finished(here, stage, made)
    lines = lines_of(recipe, stage, made)
    assert [line["step"] for line in lines if "loss" in line] == [10]
    assert lines_of(here, stage, made) == lines


def test_a_checkpoint_without_sums_goes_on_and_its_sums_begin_anew(whole, tmp_path, monkeypatch):
    recipe, made = whole
    here = copied(whole, tmp_path, "sft", 12)
    folder = context_of(here, "sft", made).checkpoints.folder / "step-12"
    (folder / "sums.json").unlink()
    marker = json.loads((folder / MARKER).read_text())
    for files in (marker["files"], marker["digests"]):
        del files["sums.json"]
    (folder / MARKER).write_text(json.dumps(marker))
    seen = watch(monkeypatch)
    finished(here, "sft", made)
    assert sorted(seen) == [13, 14]
    lines, old = lines_of(here, "sft", made), lines_of(recipe, "sft", made)
    assert [line["step"] for line in lines] == [line["step"] for line in old]
    assert lines[:2] == old[:2], "what the checkpoint has seen stays"
    assert lines[-2]["train_loss"] == pytest.approx((seen[13].loss + seen[14].loss) / 2)
    assert lines[-1]["eval_num_tokens"] == seen[13].tokens + seen[14].tokens
    assert old[-1]["eval_num_tokens"] > lines[-1]["eval_num_tokens"]


def test_a_step_that_a_spike_ended_counts_once_when_it_is_made_after_all(whole, tmp_path, monkeypatch):
    recipe, _ = whole
    here = tiny(tmp_path, {"sft": LONG})
    with monkeypatch.context() as patch:
        watch(patch, spoiled=9)
        with pytest.raises(TrainingError, match="step 9"):
            run_stage_here(here, "sft", {})
    newest = context_of(here, "sft", {}).checkpoints.newest()
    assert newest is not None
    assert newest.step == 8
    finished(here, "sft", {})
    assert lines_of(here, "sft", {}) == lines_of(recipe, "sft", {})


def test_losses_after_a_rollback_are_means_over_the_steps_that_were_made(tmp_path, monkeypatch):
    recipe = tiny(tmp_path, {"sft": LONG | {"max_steps": 22, "save_every_steps": 3, "on_spike": "rollback"}})
    seen = watch(monkeypatch, spoiled=5)
    with pytest.raises(Rollback):
        run_stage_here(recipe, "sft", {})
    del seen[4], seen[5]
    finished(recipe, "sft", {})
    assert sorted(seen) == [1, 2, 3, *range(6, 23)]
    lines = lines_of(recipe, "sft", {})
    assert {line["step"]: line["loss"] for line in lines if "loss" in line} == {
        20: pytest.approx(sum(seen[step].loss for step in range(11, 21)) / 10)
    }
    assert lines[-2]["train_loss"] == pytest.approx(sum(step.loss for step in seen.values()) / 20)
    assert lines[-1]["eval_num_tokens"] == sum(step.tokens for step in seen.values())
    cut(recipe, "sft", {}, 9)
    finished(recipe, "sft", {})
    assert lines_of(recipe, "sft", {}) == lines, (
        "resumed between the steps passed over and their window's line"
    )
