"""Unfinished work that the recipe no longer describes: refused with the differences, adopted, or begun anew."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_stages import FakeStages
from tiny import TinyRecipe

from rlhf.errors import StageError, UsageError

Run = Callable[..., str]


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
    changed, also = "ppo.learning_rate=0.002", "ppo.vf_coef=0.2"
    before = inputs_of(tiny_recipe)["digest"]
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
        {"from_step": 5, "changes": ["ppo.learning_rate 0.001 -> 0.002"], "digest_before": before}
    ]
    assert sorted(path.name for path in tiny_recipe.run.glob("ppo*")) == ["ppo"]
    with pytest.raises(UsageError, match=r"ppo\.learning_rate 0\.002 -> 0\.001"):
        interrupted()
    with pytest.raises(StageError):
        interrupted(changed, also, adopt_changes=True)
    notes = json.loads((tiny_recipe.run / "ppo" / "adopted.json").read_text())
    assert [note["from_step"] for note in notes] == [5, 10]
    stages.fail_in = None
    assert "ppo     resumed: it was interrupted; goes on from step 15" in interrupted(changed, also)
    assert "Nothing to do" in interrupted(changed, also)


def test_adopted_changes_that_do_not_run_can_be_put_back(
    interrupted: Run, stages: FakeStages, tiny_recipe: TinyRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = inputs_of(tiny_recipe)

    def crash(*args: Any, **options: Any) -> None:
        raise StageError("the ppo stage exited with 1")

    one, two = "ppo.learning_rate=0.002", "ppo.vf_coef=0.2"
    with monkeypatch.context() as broken:
        broken.setattr("rlhf.pipeline.run.run_stage", crash)
        for overrides in ((one,), (one, two)):
            with pytest.raises(StageError):
                interrupted(*overrides, adopt_changes=True)
        with pytest.raises(StageError):
            interrupted(one)
        assert inputs_of(tiny_recipe)["settings"]["ppo.vf_coef"] == 0.1
        notes = json.loads((tiny_recipe.run / "ppo" / "adopted.json").read_text())
        assert [note["changes"] for note in notes] == [["ppo.learning_rate 0.001 -> 0.002"]]
    assert "ppo     would be resumed: it was interrupted; goes on from step 5" in interrupted(dry_run=True)
    assert "ppo     resumed: it was interrupted; goes on from step 5" in interrupted()
    assert inputs_of(tiny_recipe) == before
    assert json.loads((tiny_recipe.run / "ppo" / "adopted.json").read_text()) == []
    assert sorted(path.name for path in tiny_recipe.run.glob("ppo*")) == ["ppo"]


def test_work_that_published_with_adopted_changes_is_not_taken_for_that_of_the_old_values(
    interrupted: Run, stages: FakeStages, tiny_recipe: TinyRecipe
) -> None:
    interrupted("ppo.learning_rate=0.002", adopt_changes=True)
    newest = tiny_recipe.run / "ppo" / "checkpoints" / "step-10"
    (newest / "COMPLETE.json").unlink()
    assert "ppo     built: changed since it last ran" in interrupted()


def test_fresh_starts_anew_and_sets_the_old_work_aside(
    interrupted: Run, stages: FakeStages, tiny_recipe: TinyRecipe
) -> None:
    interrupted("ppo.seed=1", stage="ppo", fresh=True)
    assert stages.ran == ["ppo"]
    steps = sorted(path.name for path in (tiny_recipe.run / "ppo" / "checkpoints").glob("step-*"))
    assert steps == ["step-5"], "not gone on from"
    assert len(list(tiny_recipe.run.glob("ppo.*/checkpoints/step-5"))) == 1
    assert "ppo     resumed: it was interrupted; goes on from step 5" in interrupted()


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
