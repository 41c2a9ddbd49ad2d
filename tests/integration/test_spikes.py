"""A gradient that is not finite, or far above the usual: a stop with everything saved, or a rollback past the rows."""

import json
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file
from stage_runs import context_of, run_stage_here, tiny
from transformers import Trainer

from rlhf.errors import TrainingError
from rlhf.metrics import read_metrics
from rlhf.ppo.update import Updater
from rlhf.recipe import Recipe
from rlhf.registry import Artefact
from rlhf.stages.hf_trainer import CheckpointingTrainer
from rlhf.stages.spikes import Rollback, passed_over

LONG = {"max_steps": 14, "save_every_steps": 4, "eval_every_steps": 14, "select_best": False}
ROLLBACK = {"on_spike": "rollback", "spike_factor": 50.0}
PPO = {
    "num_steps": 6,
    "num_minibatches": 4,
    "save_every_steps": 2,
    "eval_every_steps": 6,
    "evaluation": {"samples_per_prompt": 1, "select_best": None},
}


def run_again(recipe: Recipe, stage, made: dict[str, Artefact]) -> Artefact:
    """As the pipeline does: a stage that asks for it is started again."""
    for _ in range(4):
        try:
            artefact = run_stage_here(recipe, stage, made)
        except Rollback:
            continue
        assert artefact is not None
        return artefact
    pytest.fail("no end of rollbacks")


def spoil(monkeypatch: pytest.MonkeyPatch, steps: set[int], factor: float) -> dict[int, list[list[int]]]:
    """Multiply the gradients of some steps; the tokens that each step trained on, to know its rows by."""
    seen: dict[int, list[list[int]]] = {}
    real: Callable = Trainer.training_step

    def planted(self, model, inputs, num_items_in_batch=None):
        step = self.state.global_step + 1
        tokens, mask = inputs["input_ids"], inputs["attention_mask"].bool()
        seen[step] = [row[kept].tolist() for row, kept in zip(tokens, mask, strict=True)]
        loss = real(self, model, inputs, num_items_in_batch)
        if step in steps:
            for parameter in model.parameters():
                parameter.grad *= factor
        return loss

    monkeypatch.setattr(Trainer, "training_step", planted)
    return seen


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_a_spike_stops_by_default_with_the_steps_before_it_saved(tmp_path, monkeypatch, stage):
    recipe = tiny(tmp_path, {stage: LONG})
    made = {} if stage == "sft" else {"sft": run_stage_here(recipe, "sft", {})}
    with monkeypatch.context() as patch:
        spoil(patch, {6}, float("nan"))
        with pytest.raises(
            TrainingError, match=r"step 6: gradient norm \(all\) nan: not finite \(rows \d+, "
        ):
            run_stage_here(recipe, stage, made)
    context = context_of(recipe, stage, made)
    assert [each.step for each in context.checkpoints.complete()] == [4, 5]
    assert passed_over(context.folder) == frozenset()
    weights = load_file(context.checkpoints.newest().path / "model.safetensors")
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    assert run_stage_here(recipe, stage, made) is not None, "it goes on once the cause is gone"


def test_a_rollback_passes_over_the_steps_since_the_last_checkpoint_and_names_their_rows(
    tmp_path, monkeypatch
):
    recipe = tiny(tmp_path, {"sft": LONG | ROLLBACK})
    with monkeypatch.context() as patch:
        seen = spoil(patch, {10}, 1e4)
        rows_of = {}
        real = CheckpointingTrainer.train

        def remember(self, *arguments, **named):
            rows_of.update({row: self.train_dataset[row]["input_ids"] for row in range(24)})
            return real(self, *arguments, **named)

        patch.setattr(CheckpointingTrainer, "train", remember)
        with pytest.raises(Rollback):
            run_stage_here(recipe, "sft", {})
        first = {step: list(seen[step]) for step in (9, 10)}
        seen.clear()
        artefact = run_again(recipe, "sft", {})
    assert sorted(seen) == [11, 12, 13, 14], "goes on from step 8; 9 and 10 train on nothing"
    context = context_of(recipe, "sft", {})
    (window,) = [json.loads(line) for line in (context.folder / "skipped.jsonl").read_text().splitlines()]
    assert (window["first_step"], window["last_step"]) == (9, 10)
    assert "above 50 times the median" in window["why"]
    assert sorted(rows_of[row] for row in window["rows"]) == [
        list(row) for row in sorted({tuple(row) for row in [*first[9], *first[10]]})
    ], "the two steps lie in two passes over the data, which share some rows"
    lines = [line for line in read_metrics(context.folder / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == [], "the only window of logging has steps that were not made"
    assert artefact is not None


def test_weights_after_a_rollback_are_those_of_a_run_whose_optimizer_never_saw_the_window(
    tmp_path, monkeypatch
):
    one, other = (tiny(tmp_path / name, {"sft": LONG | ROLLBACK}) for name in ("one", "other"))
    with monkeypatch.context() as patch:
        spoil(patch, {10}, 1e4)
        rolled_back = run_again(one, "sft", {})
    with monkeypatch.context() as patch:
        steps = []
        real = torch.optim.AdamW.step

        def without_the_window(self, *arguments, **named):
            steps.append(1)
            return None if len(steps) in (9, 10) else real(self, *arguments, **named)

        patch.setattr(torch.optim.AdamW, "step", without_the_window)
        expected = run_again(other, "sft", {})
    first, second = (load_file(each.path / "model.safetensors") for each in (rolled_back, expected))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_so_many_rollbacks_and_then_a_stop(tmp_path, monkeypatch):
    recipe = tiny(tmp_path, {"sft": LONG | ROLLBACK | {"max_rollbacks": 1}})
    with monkeypatch.context() as patch:
        spoil(patch, {3, 10}, float("inf"))
        with pytest.raises(Rollback):
            run_stage_here(recipe, "sft", {})
        assert passed_over(context_of(recipe, "sft", {}).folder) == {1, 2, 3}, (
            "no checkpoint yet: from the start"
        )
        with pytest.raises(TrainingError, match=r"step 10: .*1 rollbacks were made, max_rollbacks is 1"):
            run_stage_here(recipe, "sft", {})


def test_ppo_goes_back_and_passes_over_the_steps(tmp_path, monkeypatch):
    recipe = tiny(tmp_path, {"ppo": PPO | {"on_spike": "rollback"}})
    made = {stage: run_stage_here(recipe, stage, {}) for stage in ("sft",)}
    made["reward"] = run_stage_here(recipe, "reward", made)
    collected = []
    real = Updater.update

    def planted(self, rollout, advantages, returns, step, **named):
        collected.append(step + 1)
        return real(self, rollout, advantages, returns * (float("nan") if step == 3 else 1.0), step, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Updater, "update", planted)
        artefact = run_again(recipe, "ppo", made)
    assert collected == [1, 2, 3, 4, 5, 6]
    context = context_of(recipe, "ppo", made)
    (window,) = [json.loads(line) for line in (context.folder / "skipped.jsonl").read_text().splitlines()]
    assert (window["first_step"], window["last_step"]) == (3, 4)
    assert window["rows"] == list(range(16)), (
        "16 prompts, 8 a step: steps 3 and 4 are the second pass over all"
    )
    steps = [
        line["step"] for line in read_metrics(context.folder / "metrics.jsonl") if "loss/policy_avg" in line
    ]
    assert steps == [1, 2, 5, 6]
    weights = load_file(artefact.path / "model.safetensors")
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    assert (context.folder / "offending" / "step-4.parquet").is_file()
