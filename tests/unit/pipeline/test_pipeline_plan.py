"""What `rlhf run` reuses, resumes and rebuilds, and why it says so; on fake stages."""

import importlib.machinery
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_stages import FakeStages
from tiny import TinyRecipe

from rlhf.errors import DataError, RecipeError, StageError, UsageError
from rlhf.registry import Registry

Run = Callable[..., str]


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_a_second_run_reuses_everything_and_says_so(run: Run, stages: FakeStages) -> None:
    first = run()
    assert stages.ran == ["sft", "reward", "ppo"]
    assert "ppo     built: nothing of it is there yet" in first
    second = run()
    assert stages.ran == []
    for stage in ("sft", "reward", "ppo"):
        assert f"tiny-{stage}@1 was made from the same inputs" in second
    assert "Nothing to do" in second


@pytest.mark.parametrize(
    ("override", "ran", "reason"),
    [
        ("ppo.seed=1", ["ppo"], "ppo     built: changed since it last ran: ppo.seed null -> 1; seed 0 -> 1"),
        ("reward.margin=loss", ["reward", "ppo"], 'reward.margin "ignore" -> "loss"'),
        ("sft.learning_rate=0.02", ["sft", "reward", "ppo"], "sft.learning_rate 0.01 -> 0.02"),
        ("data.prompts.eval=prompts.train.jsonl", ["ppo"], "data prompts.eval"),
        ("sft.keep_checkpoints=5", [], "Nothing to do"),
    ],
)
def test_a_change_rebuilds_what_it_touches_and_what_depends_on_it(
    run: Run, stages: FakeStages, override: str, ran: list[str], reason: str
) -> None:
    run()
    text = run(override)
    assert stages.ran == ran
    assert reason in text
    if "sft" in ran:
        assert "reward  built: changed since it last ran: policy tiny-sft@1 -> tiny-sft@2" in text


def test_another_tracker_rebuilds_nothing_and_one_that_is_not_installed_is_named(
    run: Run, stages: FakeStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    found = {"tensorboard": importlib.machinery.ModuleSpec("tensorboard", None)}
    monkeypatch.setattr("rlhf.pipeline.preflight.importlib.util.find_spec", found.get)
    assert "Nothing to do" in run("trackers=[tensorboard]")
    assert stages.ran == []
    with pytest.raises(UsageError, match="not installed: wandb"):
        run("trackers=[tensorboard, wandb]")


def test_changed_rows_rebuild_and_moved_files_do_not(
    run: Run, stages: FakeStages, tiny_recipe: TinyRecipe
) -> None:
    run()
    (tiny_recipe.folder / "sft.train.jsonl").rename(tiny_recipe.folder / "moved.jsonl")
    run("data.sft.train=moved.jsonl")
    assert stages.ran == []
    with (tiny_recipe.folder / "moved.jsonl").open("a") as file:
        file.write('{"prompt": "The cow?", "completion": "The cow is good."}\n')
    assert "changed since it last ran: data sft.train" in run("data.sft.train=moved.jsonl")
    assert stages.ran == ["sft", "reward", "ppo"]


def test_a_chat_template_counts_by_its_content(run: Run, stages: FakeStages, tiny_recipe: TinyRecipe) -> None:
    template = tiny_recipe.folder / "t.jinja"
    template.write_text("one")
    run("model.chat_template=t.jinja")
    run("model.chat_template=t.jinja")
    assert stages.ran == []
    template.write_text("two")
    run("model.chat_template=t.jinja")
    assert stages.ran == ["sft", "reward", "ppo"]


def test_a_stage_alone_and_from_a_stage(run: Run, stages: FakeStages) -> None:
    with pytest.raises(UsageError, match="sft stage was left out, but its artefact is not there"):
        run(stage="reward")
    run(stage="sft")
    assert stages.ran == ["sft"]
    run(start="reward")
    assert stages.ran == ["reward", "ppo"]
    run("reward.seed=3", stage="reward")
    assert stages.ran == ["reward"]
    run("reward.seed=3", stage="ppo")
    assert stages.ran == ["ppo"]
    with pytest.raises(UsageError, match="no such section, only sft, reward"):
        run("ppo=null", stage="ppo")


def test_ppo_alone_needs_only_what_it_starts_from(run: Run, stages: FakeStages) -> None:
    run("ppo=null")
    run("reward.seed=5", "ppo.reward_model=registry:tiny-reward", stage="ppo")
    assert stages.ran == ["ppo"], "a reward section whose model PPO does not use need not be built"


def test_fresh_builds_again_and_deletes_nothing(
    run: Run, stages: FakeStages, tiny_recipe: TinyRecipe
) -> None:
    run()
    text = run(fresh=True, stage="sft")
    assert stages.ran == ["sft"]
    assert "sft     built: --fresh was given" in text
    registry = Registry(tiny_recipe.workspace / "registry")
    assert [a.reference for a in registry.list("tiny-sft").artefacts] == ["tiny-sft@1", "tiny-sft@2"]
    steps = sorted(path.name for path in (tiny_recipe.run / "sft" / "checkpoints").glob("step-*"))
    assert steps == ["step-5"], "it began anew: the old checkpoints were set aside, not gone on from"
    assert len(list(tiny_recipe.run.glob("sft.*/checkpoints/step-5"))) == 1
    run(fresh=True, stage="sft")
    assert len(list(tiny_recipe.run.glob("sft.*/checkpoints/step-5"))) == 2


def test_an_interrupted_fresh_stage_goes_on_although_an_older_artefact_is_there(
    run: Run, stages: FakeStages
) -> None:
    run()
    stages.fail_in = "sft"
    with pytest.raises(StageError):
        run(fresh=True)
    stages.fail_in = None
    assert "sft     resumed: it was interrupted; goes on from step 5" in run()
    assert "Nothing to do" in run()


def test_a_failed_stage_names_the_command_that_resumes_it(run: Run, stages: FakeStages) -> None:
    run("reward.seed=2", stage="sft")
    stages.fail_in = "reward"
    with pytest.raises(StageError, match=r"rlhf run recipe.yaml --set reward.seed=2 --from reward") as caught:
        run("reward.seed=2", start="reward", fresh=True)
    assert caught.value.exit_code == 1


def test_a_stage_set_aside_comes_back_with_its_checkpoints(
    run: Run, stages: FakeStages, tiny_recipe: TinyRecipe
) -> None:
    stages.fail_in = "ppo"
    with pytest.raises(StageError):
        run("ppo.seed=1")
    with pytest.raises(StageError):
        run("ppo.seed=2", stage="ppo", fresh=True)
    with pytest.raises(StageError):
        run("ppo.seed=1")
    stages.fail_in = None
    assert "ppo     resumed: it was interrupted; goes on from step 5" in run("ppo.seed=2")
    assert "ppo     resumed: it was interrupted; goes on from step 10" in run("ppo.seed=1")
    assert len(list(tiny_recipe.run.glob("ppo*"))) == 2


def test_the_summary_shows_the_samples_of_the_artefact_that_was_reused(run: Run) -> None:
    run()
    assert "seed 1" in run("ppo.seed=1")
    text = run()
    assert "seed 0" in text
    assert "seed 1" not in text


def test_a_dry_run_writes_nothing_and_says_what_a_run_would_do(
    run: Run, stages: FakeStages, tiny_recipe: TinyRecipe
) -> None:
    text = run(dry_run=True)
    assert not tiny_recipe.workspace.exists()
    assert "sft     would be built: nothing of it is there yet" in text
    assert "reward  would be built: its input sft is built anew" in text
    run()
    before = files(tiny_recipe.folder)
    assert "ppo     would be built: --fresh was given" in run(dry_run=True, fresh=True, stage="ppo")
    assert "ppo     would be built: its inputs sft and reward are built anew" in run(dry_run=True, fresh=True)
    text = run("ppo.seed=1", "ppo.reward_model=registry:tiny-reward@latest", dry_run=True)
    assert "sft     would be reused" in text
    assert "ppo     would be built: changed since it last ran: ppo.reward_model" in text
    assert stages.ran == []
    assert files(tiny_recipe.folder) == before
    with pytest.raises(UsageError, match="was left out"):
        run("sft.seed=9", dry_run=True, start="reward")


def test_missing_files_are_all_named_before_anything_starts(
    run: Run, stages: FakeStages, tiny_recipe: TinyRecipe
) -> None:
    (tiny_recipe.folder / "sft.train.jsonl").unlink()
    (tiny_recipe.folder / "prompts.eval.jsonl").unlink()
    with pytest.raises(UsageError) as caught:
        run("model.chat_template=none.jinja", "launch.accelerate_config=none.yaml")
    for named in (
        "data.sft.train",
        "data.prompts.eval",
        "model.chat_template: none.jinja",
        "launch.accelerate_config",
    ):
        assert named in str(caught.value)
    assert str(tiny_recipe.folder) in str(caught.value)
    assert stages.ran == []


def test_invalid_rows_of_a_late_stage_stop_the_run_before_the_first(
    run: Run, stages: FakeStages, tiny_recipe: TinyRecipe
) -> None:
    with (tiny_recipe.folder / "prompts.train.jsonl").open("a") as file:
        file.write('{"prompt": ""}\n')
    with pytest.raises(DataError, match=r"prompts.train.jsonl:17"):
        run()
    assert stages.ran == []


def test_a_workspace_that_cannot_be_written_is_a_wrong_call(run: Run, tiny_recipe: TinyRecipe) -> None:
    (tiny_recipe.folder / "file").write_text("x")
    with pytest.raises(UsageError, match=r"cannot write to .*file/ws/runs/tiny: Not a directory"):
        run("workspace=file/ws")


def test_sequences_beyond_a_local_models_positions_are_refused(
    run: Run, stages: FakeStages, tiny_recipe: TinyRecipe
) -> None:
    folder = tiny_recipe.folder / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 43}))
    with pytest.raises(RecipeError) as caught:
        run("model={path: base}")
    assert "sft.max_length: 64 exceeds the model's 43 positions" in str(caught.value)
    assert "ppo.max_prompt_length + ppo.sampling.max_new_tokens: 44 exceeds" in str(caught.value)
    assert stages.ran == []


def test_too_small_a_disk_is_refused_before_anything_starts(
    run: Run, stages: FakeStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.durable.free_disk_bytes", lambda path: 1000)
    with pytest.raises(UsageError, match="checkpoints"):
        run()
    assert stages.ran == []


def test_nothing_of_the_environment_is_written(
    run: Run, tiny_recipe: TinyRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hf_" + "s3cret" * 5
    for name in ("HF_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, secret)
    run()
    written = [Path(parent, name) for parent, _, names in os.walk(tiny_recipe.workspace) for name in names]
    assert len(written) > 10
    assert [path for path in written if secret.encode() in path.read_bytes()] == []
