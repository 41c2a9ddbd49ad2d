"""What the kill test demands of each resume, on folders and outputs written by hand."""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kill_attempt import Setting
from kill_folder import Pace, RunFolder
from kill_plan import Kill
from kill_trial import Round, Tally

KILLED = Kill(1, "sft", "training", "stage", 0.5, 0.5)


@dataclass
class Resumed:
    """An attempt that has ended: what it found, and what it said."""

    said: str
    newest: dict[str, int]
    started: float = 100.0
    was_published: dict[str, bool] = field(default_factory=lambda: {"sft": False})

    def text(self) -> str:
        return self.said


@pytest.fixture
def judged(tmp_path: Path) -> Round:
    folder = RunFolder(tmp_path / "workspace", "r")
    write_steps(folder, range(1, 41), at=50.0)
    pace = Pace(loading=1.0, training=1.0, saving=1.0, publishing=1.0)
    setting = Setting([], folder, ["sft"], {"sft": "r-sft"}, {"sft": 10}, {"sft": 40}, {"sft": pace})
    return Round(setting, setting, tmp_path / "outputs", random.Random(0), Tally())


def write_steps(folder: RunFolder, steps: range, at: float) -> None:
    path = folder.path / "sft" / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps({"step": step, "time": at}) + "\n" for step in steps), encoding="utf-8"
    )


def problems(judged: Round, attempt: Resumed, steps: range) -> list[str]:
    write_steps(judged.setting.folder, steps, at=110.0)
    judged.judge_resume(attempt, KILLED)
    return judged.tally.problems


GOES_ON = (
    "sft     resumed: it was interrupted; goes on from step 20\nreward  built: nothing of it is there yet\n"
)


def test_going_on_from_the_newest_checkpoint_is_right(judged: Round) -> None:
    assert problems(judged, Resumed(GOES_ON, {"sft": 20}), range(21, 41)) == []
    assert judged.broken == []


def test_starting_anew_is_not_whatever_the_pipeline_says(judged: Round) -> None:
    (problem,) = problems(judged, Resumed(GOES_ON, {"sft": 20}), range(1, 41))
    assert "had a checkpoint of step 20, but its next lines are of steps [1, 2, 3, 4, 5]" in problem
    assert judged.broken == [KILLED]


def test_going_on_from_an_older_checkpoint_is_not(judged: Round) -> None:
    assert problems(judged, Resumed(GOES_ON, {"sft": 30}), range(31, 41)) != []


def test_building_anew_is_right_where_no_checkpoint_is(judged: Round) -> None:
    assert problems(judged, Resumed("sft     built: nothing", {"sft": 0}), range(1, 41)) == []


def test_a_published_stage_need_not_go_on(judged: Round) -> None:
    attempt = Resumed("sft     reused: r-sft@1", {"sft": 40}, was_published={"sft": True})
    assert problems(judged, attempt, range(0)) == []


def test_an_evaluation_at_the_last_step_may_come_after_its_checkpoint(judged: Round) -> None:
    attempt = Resumed("sft     resumed: it was interrupted; goes on from step 40", {"sft": 40})
    assert problems(judged, attempt, range(40, 41)) == []


def test_steps_that_are_trained_twice_are_counted(judged: Round) -> None:
    judged.usual["sft"] = set(range(1, 41))
    assert judged.tally.allowed_steps == 40
    write_steps(judged.setting.folder, range(21, 26), at=110.0)
    (judged.setting.folder.path / "sft" / "checkpoints" / "step-20").mkdir(parents=True)
    (judged.setting.folder.path / "sft" / "checkpoints" / "step-20" / "COMPLETE.json").touch()
    judged.count_steps(Resumed(GOES_ON, {"sft": 20}), KILLED)
    assert judged.tally.executed_steps == 6, "five lines, and perhaps the step after them"
    assert judged.tally.allowed_steps == 50
    write_steps(judged.setting.folder, range(1, 41), at=110.0)
    judged.count_steps(Resumed(GOES_ON, {"sft": 20}), None)
    assert judged.tally.executed_steps == 6 + 40, "it began anew, although a checkpoint was there"
    assert judged.tally.allowed_steps == 50
