"""Damaged newest checkpoints and full disks, in real stages."""

import os
import shutil
import subprocess

import pytest
from stage_runs import context_of, run_stage_here, tiny
from tiny import TinyRecipe, environment, write_tiny_recipe

from rlhf.checkpoint import Checkpoints
from rlhf.errors import UsageError

CHANGES = {
    "sft": {"max_steps": 6, "save_every_steps": 2, "select_best": False},
    "reward": {"max_steps": 6, "save_every_steps": 2, "select_best": False},
    "ppo": {"num_steps": 3},
}
FILES = {"sft": "optimizer.pt", "reward": "model.safetensors", "ppo": "optimizer.bin"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    recipe = tiny(tmp_path_factory.mktemp("whole"), CHANGES)
    made = {}
    for stage in ("sft", "reward", "ppo"):
        made[stage] = run_stage_here(recipe, stage, made)
    return recipe, made


@pytest.mark.parametrize("damage", ["a flipped byte", "a cut file"])
@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_a_damaged_newest_checkpoint_is_passed_by_and_the_result_is_the_same(
    whole, tmp_path, caplog, stage, damage
):
    recipe, made = whole
    shutil.copytree(recipe.workspace, tmp_path / "workspace")
    here = recipe.model_copy(update={"workspace": str(tmp_path / "workspace")})
    shutil.rmtree(tmp_path / "workspace" / "registry" / recipe.artefact_name(stage))
    checkpoints = context_of(here, stage, made).checkpoints
    before, newest = checkpoints.complete()[-2:]
    path = newest.path / FILES[stage]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content if damage == "a flipped byte" else content[:-1])
    again = run_stage_here(here, stage, made)
    assert f"step-{newest.step}: {FILES[stage]}" in caplog.text
    assert (checkpoints.folder / f"damaged-step-{newest.step}").is_dir()
    assert before.step < newest.step
    assert again is not None
    weights = (each.path / "model.safetensors" for each in (made[stage], again))
    assert len({each.read_bytes() for each in weights}) == 1


def failing(real, times, error):
    """`real` until it was called so many times, then the error."""
    calls = []

    def function(*arguments, **named):
        calls.append(1)
        if len(calls) > times:
            raise error
        return real(*arguments, **named)

    return function


@pytest.mark.parametrize("stage", ["sft", "ppo"])
@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    ],
    ids=["python", "torch"],
)
def test_a_full_disk_leaves_the_last_checkpoint_and_gives_the_room_back(
    whole, tmp_path, monkeypatch, stage, error
):
    import torch

    recipe, made = whole
    shutil.copytree(recipe.workspace, tmp_path / "workspace")
    here = recipe.model_copy(update={"workspace": str(tmp_path / "workspace")})
    context = context_of(here, stage, made)
    shutil.rmtree(context.checkpoints.folder)
    files_in_a_save = {"sft": 4, "ppo": 3}[stage]
    monkeypatch.setattr(torch, "save", failing(torch.save, files_in_a_save + 1, error))
    with pytest.raises(UsageError, match=r"step \d could not be saved .*: .*; the one of step \d is whole"):
        run_stage_here(here, stage, made)
    assert len(context.checkpoints.complete()) == 1
    assert not list(context.checkpoints.folder.glob(".*"))


def test_an_error_that_is_not_the_disks_stays_what_it_is(whole, tmp_path, monkeypatch):
    import torch

    recipe, made = whole
    here = recipe.model_copy(update={"workspace": str(tmp_path / "workspace")})
    monkeypatch.setattr(torch, "save", failing(torch.save, 0, RuntimeError("CUDA error: out of memory")))
    with pytest.raises(RuntimeError, match="CUDA error"):
        run_stage_here(here, "sft", made)


@pytest.mark.slow
def test_a_disk_that_really_fills_up(tmp_path):
    """On a small file system of its own, where the kernel lets this user make one."""
    recipe: TinyRecipe = write_tiny_recipe(tmp_path, {"sft": {"max_steps": 2000, "save_every_steps": 2}})
    recipe.workspace.mkdir()
    mount = f"mount -t tmpfs -o size=4m tmpfs {recipe.workspace}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], check=False, capture_output=True).returncode:
        pytest.skip("this user cannot mount a small file system")
    kept = tmp_path / "kept"
    fill = (
        "(until [ -d workspace/runs/tiny/sft/checkpoints/step-4 ]; do sleep 0.02; done; "
        "cat /dev/zero > workspace/filler 2> /dev/null; truncate -s -100K workspace/filler) &"
    )
    script = (
        f"{mount} && {fill} python -m rlhf run recipe.yaml --stage sft; code=$?; "
        f"cp -a workspace/runs {kept}; exit $code"
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        cwd=tmp_path,
        env=environment(PATH=os.environ["PATH"]),
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert "could not be saved" in output
    assert "Go on with: rlhf run recipe.yaml --stage sft" in output
    checkpoints = Checkpoints(kept / "tiny" / "sft" / "checkpoints")
    assert checkpoints.complete()
    assert not list(checkpoints.folder.glob(".*"))
    assert checkpoints.recover() == checkpoints.complete()[-1]
