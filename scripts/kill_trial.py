"""An uninterrupted run, then killed and resumed ones until every kill has taken place; and what is demanded of them."""

import random
import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kill_attempt import Attempt, KillTestError, Setting
from kill_compare import differences
from kill_folder import RunFolder, executed_at_most
from kill_plan import Kill, again, ordered, plan_kills, uncovered

STAGES = ("sft", "reward", "ppo")
MAX_ROUNDS = 6


@dataclass
class Tally:
    """What happened so far.

    Attributes:
        survived: kills whose round made what the uninterrupted run made.
        failed: kills whose resume, or whose round, went wrong.
        num_within_save: counted kills that left a half-written checkpoint.
        executed_steps: how many steps were trained at most, over all rounds.
        allowed_steps: those of an uninterrupted run a round, and the save interval of its stage for each kill.
        problems: what went wrong, in words.
    """

    survived: list[Kill] = field(default_factory=list[Kill])
    failed: list[Kill] = field(default_factory=list[Kill])
    num_within_save: int = 0
    executed_steps: int = 0
    allowed_steps: int = 0
    problems: list[str] = field(default_factory=list[str])


class Trial:
    """See the module.

    Args:
        folder: for everything.
        recipe: the file.
        overrides: `KEY=VALUE` for `rlhf run --set`.
        seed: of the moments.
    """

    def __init__(self, folder: Path, recipe: Path, overrides: Sequence[str], seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self.rng = random.Random(seed)
        words = [word for override in overrides for word in ("--set", override)]
        self.command = [sys.executable, "-m", "rlhf", "run", str(recipe), *words]
        self.outputs = folder / "outputs"
        self.outputs.mkdir(parents=True, exist_ok=True)
        self.tally = Tally()

    def run(self, num_kills: int) -> tuple[list[str], int]:
        """Kill so many times.

        Returns:
            What went wrong, and how many kills were survived.

        Raises:
            KillTestError: a run failed by itself, or outlived a kill.
        """
        tally, whole = self.tally, self._whole()
        kills = plan_kills(num_kills, whole.stages, self.seed)
        for number in range(1, MAX_ROUNDS + 1):
            if kills:
                kills = self._round(whole, number, ordered(kills, whole.stages))
        tally.problems += [f"{kill}: missed its moment {kill.tries} times" for kill in kills]
        taken = tally.survived + tally.failed
        tally.problems += uncovered(taken, tally.num_within_save, whole.stages)
        steps = f"{tally.executed_steps} steps at most, {tally.allowed_steps} is the bound"
        print(f"{steps}; {tally.num_within_save} kills within a save", flush=True)
        if tally.executed_steps >= tally.allowed_steps:
            tally.problems.append(f"too many steps were trained: {steps}")
        return tally.problems, len(tally.survived)

    def _whole(self) -> Setting:
        """Run without a kill, and measure."""
        started, workspace = time.monotonic(), self.folder / "whole"
        command = [*self.command, "--set", f"workspace={workspace}"]
        unmeasured = Setting(command, RunFolder(workspace, ""), [], {}, {}, {}, {})
        with Attempt(unmeasured, self.outputs / "whole.txt") as attempt:
            attempt.finish()
        (run,) = (workspace / "runs").iterdir()
        folder = RunFolder(workspace, run.name)
        recipe = folder.recipe()
        stages = [stage for stage in STAGES if recipe.get(stage) is not None]
        print(f"uninterrupted: {time.monotonic() - started:.0f} s", flush=True)
        return Setting(
            command=command,
            folder=folder,
            stages=stages,
            artefacts={
                stage: recipe[stage].get("publish_as") or f"{recipe['name']}-{stage}" for stage in stages
            },
            intervals={stage: recipe[stage]["save_every_steps"] for stage in stages},
            num_steps={stage: folder.lines(stage)[-1]["total_steps"] for stage in stages},
            pace={stage: folder.pace(stage) for stage in stages},
        )

    def _round(self, whole: Setting, number: int, kills: list[Kill]) -> list[Kill]:
        """One workspace from nothing to its end, killed on the way; the kills that missed their moment."""
        workspace = self.folder / f"killed-{number}"
        shutil.rmtree(workspace, ignore_errors=True)
        setting = replace(
            whole,
            command=[*self.command, "--set", f"workspace={workspace}"],
            folder=replace(whole.folder, workspace=workspace),
        )
        this_round = Round(setting, whole, self.outputs / str(number), self.rng, self.tally)
        missed = this_round.run(kills)
        found = differences(whole.folder, setting.folder, whole.stages)
        self.tally.problems += [f"round {number}: {text}" for text in found]
        broken = this_round.broken if not found else this_round.taken
        self.tally.failed += broken
        self.tally.survived += [kill for kill in this_round.taken if kill not in broken]
        return missed


class Round:
    """A run in a workspace of its own, killed and resumed until it ends.

    Args:
        setting: of this run.
        whole: of the uninterrupted one.
        outputs: folder for what the attempts print.
        rng: chooses the rank to kill.
        tally: counted into.

    Attributes:
        taken: the kills that took place.
        broken: those after which the stage did not resume as it should.
    """

    def __init__(
        self, setting: Setting, whole: Setting, outputs: Path, rng: random.Random, tally: Tally
    ) -> None:
        self.setting = setting
        self.usual = {stage: {line["step"] for line in whole.folder.lines(stage)} for stage in setting.stages}
        self.outputs = outputs
        self.rng = rng
        self.tally = tally
        self.taken: list[Kill] = []
        self.broken: list[Kill] = []
        outputs.mkdir(parents=True, exist_ok=True)
        tally.allowed_steps += sum(setting.num_steps.values())

    def run(self, kills: list[Kill]) -> list[Kill]:
        """Start, kill, start again, until no kill is left and the run has ended; the kills that came too late."""
        queue, missed = list(kills), list[Kill]()
        last: Kill | None = None
        for number in range(1, 10 * len(kills) + 2):
            with Attempt(self.setting, self.outputs / f"{number}.txt") as attempt:
                hit = self._next_hit(attempt, queue, missed)
            if last is not None:
                self.judge_resume(attempt, last)
            self.count_steps(attempt, hit)
            if hit is None:
                return missed
            self._report(attempt, hit)
            last = hit
            if hit.moment == "saving" and not attempt.half_written(hit.stage):
                queue.insert(0, again(hit))
            else:
                self.taken.append(hit)
                self.tally.num_within_save += attempt.half_written(hit.stage)
        raise KillTestError("no save was hit in many attempts")

    def _next_hit(self, attempt: Attempt, queue: list[Kill], missed: list[Kill]) -> Kill | None:
        while queue:
            kill = queue.pop(0)
            if attempt.kill(kill, self.rng):
                return kill
            print(f"{kill}: came too late, another round tries it again", flush=True)
            missed.append(again(kill))
        attempt.finish()
        return None

    def judge_resume(self, attempt: Attempt, kill: Kill) -> None:
        """A stage that had a checkpoint must go on from the newest one."""
        stage, newest = kill.stage, attempt.newest[kill.stage]
        if newest == 0 or attempt.was_published[stage]:
            return
        said = re.search(rf"^{stage} .*", attempt.text(), re.MULTILINE)
        word = said[0] if said else "nothing"
        resumed = re.search(rf"resumed: .*\bstep {newest}\b", word)
        steps = [line["step"] for line in self.setting.folder.lines(stage, attempt.started)]
        ended = newest == self.setting.num_steps[stage]
        if resumed is None or any(step < newest + (not ended) for step in steps):
            self.broken.append(kill)
            self.tally.problems.append(
                f"{kill}: the {stage} stage had a checkpoint of step {newest}, but its next lines are of steps "
                f"{steps[:5]}, and the pipeline said: {word}"
            )

    def count_steps(self, attempt: Attempt, hit: Kill | None) -> None:
        """Count what the attempt trained at most, and what its kill allows."""
        folder = self.setting.folder
        for stage in self.setting.stages:
            start, lines = attempt.newest[stage], folder.lines(stage, attempt.started)
            if lines and lines[0]["step"] < start:  # it went back: count from the beginning
                start = 0
            if not lines and (hit is None or stage != hit.stage):
                continue
            self.tally.executed_steps += executed_at_most(
                start,
                lines[-1]["step"] if lines else start,
                self.usual[stage],
                folder.newest(stage),
                self.setting.intervals[stage],
            )
        if hit is not None:
            self.tally.allowed_steps += self.setting.intervals[hit.stage]

    def _report(self, attempt: Attempt, hit: Kill) -> None:
        folder, stage = self.setting.folder, hit.stage
        lines = folder.lines(stage, attempt.started)
        half = ", a checkpoint half-written" if attempt.half_written(stage) else ""
        at = f"at step {lines[-1]['step']}" if lines else "before the first step"
        begun = f"begun at {attempt.newest[stage]}"
        print(f"{hit}: {begun}, killed {at}{half}, newest checkpoint {folder.newest(stage)}", flush=True)
