"""Unfinished work that the recipe no longer describes: refused with the differences, adopted, or begun anew."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_stages import FakeStages
from tiny import TinyRecipe

from rlhf.errors import StageError, UsageError
from rlhf.pipeline.changed import differences
from rlhf.stages.inputs import ModelInput, StageInputs

Run = Callable[..., str]


@pytest.fixture
def interrupted(run: Run, stages: FakeStages) -> Run:
    """Calls the pipeline after PPO was interrupted at step 5, with SFT and reward published."""
    stages.fail_in = "ppo"
    with pytest.raises(StageError):
        run()
    stages.fail_in = None
    stages.ran.clear()
    return run


def inputs_of(recipe: TinyRecipe, stage: str = "ppo") -> dict[str, Any]:
    return json.loads((recipe.run / stage / "inputs.json").read_text())


def tree(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.name != "lock"}


@pytest.mark.parametrize("dry_run", [False, True])
def test_line_30_a_changed_setting_is_refused_with_the_difference_and_the_ways_on(
    interrupted: Run, stages: FakeStages, tiny_recipe: TinyRecipe, dry_run: bool
) -> None:
    before = tree(tiny_recipe.run / "ppo")
    with pytest.raises(UsageError) as caught:
        interrupted("ppo.learning_rate=0.002", "ppo.kl.coef=0.1", dry_run=dry_run)
    assert caught.value.exit_code == 2
    given = "rlhf run recipe.yaml --set ppo.learning_rate=0.002 --set ppo.kl.coef=0.1"
    assert str(caught.value).splitlines() == [
        "the ppo stage is unfinished (at step 5) and was begun with other inputs:",
        "  ppo.kl.coef 0.05 -> 0.1",
        "  ppo.learning_rate 0.001 -> 0.002",
        "  Put the old values back to go on as it was begun",
        f"  or go on from step 5 with the new ones: {given} --adopt-changes",
        f"  or start anew, with the old work set aside: {given} --stage ppo --fresh",
    ]
    assert stages.ran == []
    assert tree(tiny_recipe.run / "ppo") == before


def test_with_the_old_values_it_resumes(interrupted: Run, stages: FakeStages) -> None:
    with pytest.raises(UsageError):
        interrupted("ppo.seed=1")
    assert "ppo     resumed: it was interrupted; goes on from step 5" in interrupted()
    assert stages.ran == ["ppo"]


def test_line_30_adopted_changes_go_on_from_the_checkpoint_once_and_are_noted(
    interrupted: Run, stages: FakeStages, tiny_recipe: TinyRecipe
) -> None:
    stages.fail_in = "ppo"
    changed = "ppo.learning_rate=0.002"
    told = interrupted(changed, adopt_changes=True, dry_run=True)
    assert (
        "ppo     would be resumed: goes on from step 5 with changes: ppo.learning_rate 0.001 -> 0.002" in told
    )
    assert inputs_of(tiny_recipe)["settings"]["ppo.learning_rate"] == 0.001
    with pytest.raises(StageError) as caught:
        interrupted(changed, adopt_changes=True)
    assert stages.ran == ["ppo"]
    assert "--adopt-changes" not in str(caught.value), "the inputs are the new ones by now"
    assert inputs_of(tiny_recipe)["settings"]["ppo.learning_rate"] == 0.002
    assert json.loads((tiny_recipe.run / "ppo" / "adopted.json").read_text()) == [
        {"from_step": 5, "changes": ["ppo.learning_rate 0.001 -> 0.002"]}
    ]
    assert sorted(path.name for path in tiny_recipe.run.glob("ppo*")) == ["ppo"]
    with pytest.raises(UsageError, match=r"ppo\.learning_rate 0\.002 -> 0\.001"):
        interrupted()
    with pytest.raises(StageError):
        interrupted(changed, "ppo.seed=3", adopt_changes=True)
    notes = json.loads((tiny_recipe.run / "ppo" / "adopted.json").read_text())
    assert [note["from_step"] for note in notes] == [5, 10]
    stages.fail_in = None
    assert "ppo     resumed: it was interrupted; goes on from step 15" in interrupted(changed, "ppo.seed=3")
    assert "Nothing to do" in interrupted(changed, "ppo.seed=3")


def test_fresh_starts_anew_and_sets_the_old_work_aside(
    interrupted: Run, stages: FakeStages, tiny_recipe: TinyRecipe
) -> None:
    interrupted("ppo.seed=1", stage="ppo", fresh=True)
    assert stages.ran == ["ppo"]
    steps = sorted(path.name for path in (tiny_recipe.run / "ppo" / "checkpoints").glob("step-*"))
    assert steps == ["step-5"], "not gone on from"
    assert len(list(tiny_recipe.run.glob("ppo.*/checkpoints/step-5"))) == 1
    assert "ppo     resumed: it was interrupted; goes on from step 5" in interrupted()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.prompts.train=prompts.eval.jsonl", "data prompts.train  (needs a new start)"),
        ("data.prompts.eval=null", "data prompts.eval  (needs a new start)"),
        ("ppo.weight_decay=0.1", "ppo.weight_decay 0.0 -> 0.1  (needs a new start)"),
    ],
)
def test_what_a_checkpoint_cannot_go_on_with_is_not_adopted(
    interrupted: Run, stages: FakeStages, override: str, told: str
) -> None:
    for adopt_changes in (False, True):
        with pytest.raises(UsageError) as caught:
            interrupted(override, "ppo.seed=1", adopt_changes=adopt_changes)
        text = str(caught.value)
        assert told in text
        assert "seed 0 -> 1\n" in text
        assert "go on from step" not in text
        assert "--stage ppo --fresh" in text
    assert stages.ran == []


def test_the_same_reward_model_under_another_name_can_be_adopted(
    interrupted: Run, stages: FakeStages
) -> None:
    override = "ppo.reward_model=registry:tiny-reward@1"
    with pytest.raises(UsageError, match=r'ppo\.reward_model null -> "registry:tiny-reward@1"\n'):
        interrupted(override)
    assert "ppo     resumed: goes on from step 5" in interrupted(override, adopt_changes=True)
    assert stages.ran == ["ppo"]


def test_a_stage_that_had_published_is_rebuilt(run: Run, stages: FakeStages) -> None:
    run()
    assert "ppo     built: changed since it last ran: ppo.seed null -> 1; seed 0 -> 1" in run("ppo.seed=1")


def test_work_that_fresh_began_is_unfinished_although_an_older_artefact_is_there(
    run: Run, stages: FakeStages
) -> None:
    run()
    stages.fail_in = "ppo"
    with pytest.raises(StageError):
        run(stage="ppo", fresh=True)
    with pytest.raises(UsageError, match="the ppo stage is unfinished"):
        run("ppo.seed=1")


def test_work_without_a_checkpoint_is_no_loss_and_is_begun_anew(
    interrupted: Run, stages: FakeStages, tiny_recipe: TinyRecipe
) -> None:
    for path in (tiny_recipe.run / "ppo" / "checkpoints").glob("step-*/COMPLETE.json"):
        path.unlink()
    assert "ppo     built: changed since it last ran" in interrupted("ppo.seed=1")
    assert stages.ran == ["ppo"]


def test_a_rebuilt_parent_begins_its_unfinished_child_anew(interrupted: Run, stages: FakeStages) -> None:
    text = interrupted("reward.seed=5", "ppo.seed=1")
    assert stages.ran == ["reward", "ppo"]
    assert "ppo     built: changed since it last ran: ppo.seed null -> 1" in text
    assert "reward_model tiny-reward@1 -> tiny-reward@2" in text


def test_a_refusal_comes_before_the_stages_in_front_are_built(run: Run, stages: FakeStages) -> None:
    run("ppo=null")
    stages.fail_in = "ppo"
    outside = "ppo.reward_model=registry:tiny-reward@1"
    with pytest.raises(StageError):
        run(outside)
    with pytest.raises(UsageError, match="the ppo stage is unfinished"):
        run(outside, "reward.seed=5", "ppo.seed=1")
    assert stages.ran == []


@pytest.mark.parametrize(
    ("override", "adoptable"),
    [("sft.max_steps=6", True), ("sft.learning_rate=0.02", False), ("seed=4", False)],
)
def test_trainers_checkpoints_go_on_with_what_they_do_not_hold(
    run: Run, stages: FakeStages, override: str, adoptable: bool
) -> None:
    stages.fail_in = "sft"
    with pytest.raises(StageError):
        run()
    stages.fail_in = None
    with pytest.raises(UsageError) as caught:
        run(override)
    assert ("--adopt-changes" in str(caught.value)) is adoptable
    if adoptable:
        assert "sft     resumed: goes on from step 5" in run(override, adopt_changes=True)
    else:
        with pytest.raises(UsageError):
            run(override, adopt_changes=True)


def test_differences_name_what_came_what_went_and_which_models() -> None:
    before = StageInputs(
        stage="ppo",
        policy=ModelInput(reference="a@1", digest="1"),
        reward_model=ModelInput(path="rm"),
        data={"prompts.train": "1", "prompts.eval": "2"},
        settings={"ppo.old": 1, "ppo.same": 2, "model.attn_implementation": None, "model.lora.r": 8},
        digest="x",
    )
    after = before.model_copy(
        update={
            "reward_model": None,
            "reward_models": {"gold": ModelInput(reference="g@3", digest="3")},
            "data": {"prompts.train": "1"},
            "settings": {
                "ppo.new": None,
                "ppo.same": 2,
                "model.attn_implementation": "eager",
                "model.lora.r": 16,
            },
        }
    )
    assert [(each.text, each.adoptable) for each in differences(before, after)] == [
        ('model.attn_implementation null -> "eager"', True),
        ("model.lora.r 8 -> 16", False),
        ("ppo.new absent -> null", True),
        ("ppo.old 1 -> absent", True),
        ("reward_model rm -> none", False),
        ("gold none -> g@3", False),
        ("data prompts.eval", False),
    ]
    assert differences(before, before) == []
