"""Several processes, one of which fails, is killed, or is asked to stop; through `rlhf run` with gloo on the CPU."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from planted_faults import plant
from tiny import TinyRecipe, finish, write_tiny_recipe

from rlhf.checkpoint import Checkpoints

pytestmark = pytest.mark.distributed

CHANGES = {
    "sft": {"per_device_batch_size": 4, "max_steps": 400, "save_every_steps": 2, "eval_every_steps": 400}
}
ONE_PROCESS = """
compute_environment: LOCAL_MACHINE
distributed_type: 'NO'
num_processes: 1
num_machines: 1
machine_rank: 0
main_training_function: main
mixed_precision: 'no'
use_cpu: true
"""


@pytest.fixture
def recipe(tmp_path: Path) -> TinyRecipe:
    """SFT alone."""
    (tmp_path / "run").mkdir()
    recipe = write_tiny_recipe(tmp_path / "run", CHANGES)
    sections = recipe.sections()
    del sections["ppo"], sections["reward"], sections["data"]["prompts"], sections["data"]["preference"]
    sections["launch"] = {"num_processes": 2}
    recipe.write(sections)
    return recipe


def steps(recipe: TinyRecipe) -> list[int]:
    return [each.step for each in Checkpoints(recipe.run / "sft" / "checkpoints").complete()]


def wait_for_step(recipe: TinyRecipe, pipeline: "subprocess.Popen[str]", step: int) -> None:
    deadline = time.monotonic() + 120
    while not any(each >= step for each in steps(recipe)):
        assert time.monotonic() < deadline, "no checkpoint came"
        if pipeline.poll() is not None:
            pytest.fail(f"the run ended before it could be stopped: {finish(pipeline)}")
        time.sleep(0.02)


def descendants(pid: int) -> list[int]:
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [each for child in children for each in descendants(child)]


def ranks(recipe: TinyRecipe, pipeline: "subprocess.Popen[str]") -> list[int]:
    """The stage's processes, without what started them."""
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in descendants(pipeline.pid)}
    return [pid for pid, words in lines.items() if words[words.index(b"-m") + 1] == b"rlhf.stages"]


def test_a_rank_that_fails_takes_the_others_down_and_its_error_is_shown_once(
    recipe: TinyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(
        monkeypatch, tmp_path / "site", how="raise", place="torch.optim.AdamW", name="step", call=4, ranks=[1]
    )
    started = time.monotonic()
    code, output = recipe.call("run", "recipe.yaml")
    assert code == 1, output
    assert time.monotonic() - started < 90, "a minute, and what starting takes"
    assert output.count("ValueError: planted in the middle of a step") == 1
    assert output.count("Traceback") == 1
    assert "Go on with: rlhf run recipe.yaml" in output
    assert steps(recipe)[-1] == 2


def test_a_killed_rank_takes_the_others_down_and_is_named(
    recipe: TinyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(
        monkeypatch, tmp_path / "site", how="kill", place="torch.optim.AdamW", name="step", call=4, ranks=[1]
    )
    code, output = recipe.call("run", "recipe.yaml")
    assert code == 1, output
    assert "the sft stage lost process 1, which was killed by SIGKILL" in output
    assert "Traceback" not in output
    assert steps(recipe)[-1] == 2


def test_a_rank_killed_in_a_save_leaves_the_checkpoint_before_it(
    recipe: TinyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, tmp_path / "site", how="kill", place="torch", name="save", call=2, ranks=[1])
    code, output = recipe.call("run", "recipe.yaml")
    assert code == 1, output
    assert steps(recipe) == [2], "rank 1 writes one file, its random state, in each save"
    assert [path.name for path in (recipe.run / "sft" / "checkpoints").glob(".*")] == [".writing-step-4"]
    monkeypatch.delenv("RLHF_STAGE_FAULT")
    code, output = recipe.call("run", "recipe.yaml", "--set", "sft.max_steps=6", "--adopt-changes")
    assert code == 0, output
    log = (recipe.run / "sft" / "log.txt").read_text()
    assert "removed what an interrupted save left" in log
    assert "goes on from step 2" in output


def test_ranks_go_back_together_and_stop_after_so_many_rollbacks(
    recipe: TinyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start of the stage finds a gradient norm that is not finite in its fourth step, passed-over ones counted."""
    norms = {"place": "torch.nn.utils", "name": "clip_grad_norm_"}
    plant(monkeypatch, tmp_path / "site", how="nan", call=4, ranks=[0, 1], **norms)
    code, output = recipe.call("run", "recipe.yaml", "--set", "sft.on_spike=rollback")
    assert code == 1, output
    assert output.count("step 8: gradient norm (all) nan: not finite") == 1
    assert "2 rollbacks were made, max_rollbacks is 2" in output
    windows = [json.loads(line) for line in (recipe.run / "sft" / "skipped.jsonl").read_text().splitlines()]
    assert [(window["first_step"], window["last_step"]) for window in windows] == [(3, 4), (5, 6)]
    assert len(windows[1]["rows"]) == 16, "two steps of one pass, 8 rows each, 4 on either rank"
    assert (recipe.run / "sft" / "log.txt").read_text().count("back to step 4: steps 5 to 6") == 1


@pytest.mark.parametrize(
    ("launcher", "whom"),
    [
        ("torchrun", "pipeline"),
        ("torchrun", "everybody"),
        ("torchrun", "ranks"),
        ("accelerate", "pipeline"),
        ("accelerate", "everybody"),
    ],
)
def test_sigterm_saves_and_ends_with_75(recipe: TinyRecipe, launcher: str, whom: str) -> None:
    """As a person or a batch system sends it: to the pipeline, to every process of the job, to the ranks alone."""
    if launcher == "accelerate":  # one process: its way to two on a CPU needs MPI
        (recipe.folder / "accelerate.yaml").write_text(ONE_PROCESS, encoding="utf-8")
        sections = recipe.sections()
        recipe.write({**sections, "launch": {"accelerate_config": "accelerate.yaml"}})
    pipeline = recipe.start("run", "recipe.yaml")
    wait_for_step(recipe, pipeline, 2)
    found = ranks(recipe, pipeline)
    assert len(found) == (1 if launcher == "accelerate" else 2)
    targets = {"pipeline": [], "ranks": found, "everybody": descendants(pipeline.pid)}[whom]
    for pid in [*targets, *([] if whom == "ranks" else [pipeline.pid])]:
        os.kill(pid, signal.SIGTERM)
    code, output = finish(pipeline, 60)
    assert code == 75, output
    assert "everything is saved" in output
    assert steps(recipe)[-1] > 2
