"""The kill test's pure parts: what is planned, what is counted, and that it sees every difference."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kill_compare import comparable, differences, digests
from kill_folder import RunFolder, executed_at_most
from kill_plan import Kill, again, ordered, plan_kills, uncovered

from rlhf.recipe import load_recipe

STAGES = ("sft", "reward", "ppo")


def kill(stage: str = "sft", target: str = "stage", moment: str = "training", progress: float = 0.5) -> Kill:
    return Kill(1, stage, moment, target, progress, 0.5)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run, by hand: two lines of metrics a stage, one artefact, one step of rollouts."""
    folder = RunFolder(tmp_path / "whole", "r")
    for stage in STAGES:
        (folder.path / stage).mkdir(parents=True)
        write_lines(
            folder, stage, [{"step": 1, "time": 10.0, "loss": 2.0}, {"step": 2, "time": 12.0, "loss": 1.0}]
        )
    artefact = folder.registry / "r-ppo" / "1"
    artefact.mkdir(parents=True)
    (artefact / "model.safetensors").write_bytes(b"abc")
    (folder.path / "ppo" / "rollouts").mkdir()
    write_rollouts(folder, [[1, 2], [3]], [0.5, 0.25])
    return folder


@pytest.fixture
def other(run: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(run.workspace, tmp_path / "killed")
    return RunFolder(tmp_path / "killed", "r")


def write_lines(folder: RunFolder, stage: str, lines: list[dict]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder.path / stage / "metrics.jsonl").write_text(text, encoding="utf-8")


def write_rollouts(folder: RunFolder, response_ids: list[list[int]], scores: list[float]) -> None:
    table = pa.table({"response_ids": response_ids, "score": scores})
    pq.write_table(table, folder.path / "ppo" / "rollouts" / "step-1-rank-0.parquet")


def test_thirty_kills_cover_every_stage_target_and_moment() -> None:
    kills = plan_kills(30, STAGES, seed=3)
    assert [each.number for each in kills] == list(range(1, 31))
    assert Counter(each.stage for each in kills) == {"sft": 10, "reward": 10, "ppo": 10}
    assert Counter(each.target for each in kills) == {"stage": 10, "group": 10, "pipeline": 10}
    assert Counter(each.moment for each in kills) == {
        "training": 15,
        "saving": 6,
        "loading": 6,
        "publishing": 3,
    }


def test_three_kills_hit_each_stage_and_target_once_and_one_save() -> None:
    kills = plan_kills(3, STAGES, seed=0)
    assert [(each.stage, each.moment) for each in kills] == [
        ("sft", "training"),
        ("reward", "saving"),
        ("ppo", "training"),
    ]
    assert {each.target for each in kills} == {"stage", "group", "pipeline"}


def test_the_seed_decides_the_moments() -> None:
    assert plan_kills(30, STAGES, seed=1) == plan_kills(30, STAGES, seed=1)
    assert plan_kills(30, STAGES, seed=1) != plan_kills(30, STAGES, seed=2)


def test_kills_come_in_the_order_in_which_one_run_meets_them() -> None:
    late, early = kill("sft", progress=0.9), kill("sft", progress=0.1)
    publishing, reward = kill("sft", moment="publishing", progress=0.0), kill("reward", progress=0.0)
    assert ordered([reward, publishing, late, early], STAGES) == [early, late, publishing, reward]


def test_a_kill_that_came_too_late_is_tried_earlier() -> None:
    second = again(kill(progress=0.5))
    assert (second.progress, second.delay, second.tries) == (0.4, 0.25, 1)


def test_what_is_not_covered_is_named() -> None:
    kills = [kill(stage, target) for stage in STAGES for target in ("stage", "group") for _ in range(5)]
    assert uncovered(kills, 3, STAGES) == ["0 kills of the pipeline, 1 are wanted"]
    kills += [kill("sft", "pipeline")]
    assert uncovered(kills, 3, STAGES) == []
    assert uncovered(kills, 2, STAGES) == ["2 kills within a save, 3 are wanted"]
    fewer = [each for each in kills if each.stage != "ppo"] + [kill("ppo")] * 19
    assert uncovered(fewer, 3, STAGES) == []
    assert uncovered([each for each in fewer if each.stage != "ppo"] + [kill("ppo")] * 4, 3, STAGES) == [
        "4 kills in the ppo stage, 5 are wanted"
    ]


@pytest.mark.parametrize(
    ("start", "last", "newest", "most"),
    [
        (0, 0, 0, 1),  # killed while it loaded: perhaps in its first step
        (10, 14, 10, 5),  # it may have been in step 15
        (10, 20, 10, 10),  # killed in the save of step 20: no step is trained meanwhile
        (10, 20, 20, 11),  # after that save, perhaps in step 21
        (30, 40, 40, 10),  # the end
        (10, 23, 10, 13),  # trained on without the save that was due: nothing is hidden
    ],
)
def test_executed_steps_with_a_line_a_step(start: int, last: int, newest: int, most: int) -> None:
    assert executed_at_most(start, last, range(1, 41), newest, interval=10) == most


def test_steps_without_a_line_count_as_executed() -> None:
    usual = range(10, 101, 10)
    assert executed_at_most(20, 20, usual, newest=20, interval=25) == 10
    assert executed_at_most(25, 40, usual, newest=25, interval=25) == 25
    assert executed_at_most(50, 50, usual, newest=50, interval=5) == 5, "no further than the next save"


def test_lines_before_the_attempt_do_not_count_and_a_cut_line_is_none(run: RunFolder) -> None:
    path = run.path / "sft" / "metrics.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + '{"step": 3, "ti', encoding="utf-8")
    assert [line["step"] for line in run.lines("sft")] == [1, 2]
    assert [line["step"] for line in run.lines("sft", since=11.0)] == [2]
    assert run.lines("none") == []


def test_a_checkpoint_counts_with_its_marker_alone(run: RunFolder) -> None:
    checkpoints = run.path / "sft" / "checkpoints"
    assert run.newest("sft") == 0
    for name, marked in (
        ("step-2", True),
        (".replaced-step-4", True),
        ("step-6", False),
        (".writing-step-8", True),
    ):
        (checkpoints / name).mkdir(parents=True)
        if marked:
            (checkpoints / name / "COMPLETE.json").touch()
    assert run.newest("sft") == 4
    assert set(run.writing("sft")) == {8}
    assert run.writing("reward") == {}


def test_a_new_attempt_at_the_same_save_is_told_from_what_was_left(run: RunFolder) -> None:
    writing = run.path / "sft" / "checkpoints" / ".writing-step-8"
    writing.mkdir(parents=True)
    before = run.writing("sft")
    writing.rename(writing.with_name("old"))
    writing.mkdir()
    assert run.writing("sft") != before


def test_the_pace_of_a_run_is_read_from_its_files(run: RunFolder) -> None:
    stage = run.path / "sft"
    write_lines(run, "sft", [{"step": step, "time": 10 + step / 10} for step in (0, 10, 20, 20)])
    checkpoint = stage / "checkpoints" / "step-2"
    checkpoint.mkdir(parents=True)
    for path, changed in (
        (stage / "inputs.json", 4.0),
        (stage / "published.json", 15.0),
        (checkpoint / "model", 12.25),
        (checkpoint / "COMPLETE.json", 12.75),
    ):
        path.touch()
        os.utime(path, (changed, changed))
    pace = run.pace("sft")
    assert (pace.loading, pace.training, pace.saving, pace.publishing) == (6.0, 1.0, 0.5, 3.0)


def test_equal_runs_do_not_differ_whatever_the_clock_says(run: RunFolder, other: RunFolder) -> None:
    lines = [{"step": 1, "time": 99.0, "loss": 2.0}, {"step": 2, "time": 100.0, "loss": 1.0}]
    write_lines(other, "sft", lines)
    assert differences(run, other, STAGES) == []


def test_only_the_clock_is_left_out_of_metrics() -> None:
    clock = {"time": 1.0, "eps": 2.0, "time/rollout_seconds": 3.0, "eval_runtime": 4.0, "x_per_second": 5.0}
    kept = {"step": 1, "loss": 0.5, "num_tokens": 6, "eval/reps": 7.0}
    assert comparable(clock | kept) == kept


def test_another_metric_is_found(run: RunFolder, other: RunFolder) -> None:
    write_lines(other, "reward", [{"step": 1, "time": 0, "loss": 2.0}, {"step": 2, "time": 0, "loss": 1.5}])
    assert differences(run, other, STAGES) == ["reward: step 2: 1 metrics differ: loss 1.0 != 1.5"]


def test_a_lost_line_of_metrics_is_found(run: RunFolder, other: RunFolder) -> None:
    write_lines(other, "sft", [{"step": 1, "time": 0, "loss": 2.0}])
    assert differences(run, other, STAGES) == ["sft: 2 lines of metrics, 1 when killed (steps [1, 2], [1])"]


def test_another_weight_and_a_second_version_are_found(run: RunFolder, other: RunFolder) -> None:
    second = other.registry / "r-ppo" / "2"
    second.mkdir()
    (second / "model.safetensors").write_bytes(b"abc")
    (other.registry / "r-ppo" / "1" / "model.safetensors").write_bytes(b"abd")
    # sha256("abc") is FIPS 180-2's example
    assert digests(run.registry) == {
        "r-ppo/1/model.safetensors": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    }
    assert [text.split(",")[0] for text in differences(run, other, STAGES)] == [
        "weights: r-ppo/1/model.safetensors: ba7816bf8f01",
        "weights: r-ppo/2/model.safetensors: missing",
    ]


def test_weights_that_a_killed_process_left_in_staging_are_no_artefact(
    run: RunFolder, other: RunFolder
) -> None:
    slot = other.registry / ".staging" / "r-ppo.1234" / "files"
    slot.mkdir(parents=True)
    (slot / "model.safetensors").write_bytes(b"half")
    assert differences(run, other, STAGES) == []


def test_a_run_without_weights_equals_none(run: RunFolder, other: RunFolder) -> None:
    for folder in (run, other):
        shutil.rmtree(folder.registry)
    assert differences(run, other, STAGES) == ["weights: the uninterrupted run has none"]


def test_another_token_another_score_and_a_missing_step_are_found(run: RunFolder, other: RunFolder) -> None:
    write_rollouts(other, [[1, 2], [4]], [0.5, 0.25])
    assert differences(run, other, STAGES) == ["rollouts: step-1-rank-0.parquet: response_ids differ"]
    write_rollouts(other, [[1, 2], [3]], [0.5, 0.75])
    assert differences(run, other, STAGES) == ["rollouts: step-1-rank-0.parquet: score differ"]
    (other.path / "ppo" / "rollouts" / "step-1-rank-0.parquet").unlink()
    assert differences(run, other, STAGES) == ["rollouts: step-1-rank-0.parquet is in one run alone"]


def test_the_scripts_own_recipe_is_valid(tmp_path: Path) -> None:
    from kill_recipe import write_recipe

    recipe = load_recipe(write_recipe(tmp_path / "own"))
    assert recipe.stages() == ["sft", "reward", "ppo"]
