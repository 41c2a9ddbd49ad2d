"""One call of `rlhf run`, watched until the moment of a kill, killed, and mourned until nothing of it is left."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from kill_folder import Pace, RunFolder
from kill_plan import Kill

BRIEF = ("saving", "publishing")
BRIEF_SECONDS = 0.001
LOOK_SECONDS = 0.02
MAX_WAIT_SECONDS = 120.0
STAGE_MODULE = "rlhf.stages"


class KillTestError(Exception):
    """The run did what no kill explains: it failed, or outlived its kill."""


@dataclass(frozen=True)
class Setting:
    """What stays the same over all attempts of a run.

    Attributes:
        command: starts or resumes the run.
        folder: of the run.
        stages: in order.
        artefacts: stage -> the name that it publishes under.
        intervals: stage -> steps between two saves.
        num_steps, pace: stage -> what an uninterrupted run took.
    """

    command: Sequence[str]
    folder: RunFolder
    stages: Sequence[str]
    artefacts: dict[str, str]
    intervals: dict[str, int]
    num_steps: dict[str, int]
    pace: dict[str, Pace]


class Attempt:
    """A started run; its output goes to a file.

    Attributes:
        started: Unix seconds.
        newest: stage -> step of the newest checkpoint when it started; 0 where there was none.
        was_published: stage -> whether its artefact was there when it started.
    """

    def __init__(self, setting: Setting, output: Path) -> None:
        self.setting = setting
        self.output = output
        self.started = time.time()
        self.newest = {stage: setting.folder.newest(stage) for stage in setting.stages}
        self.was_published = {
            stage: setting.folder.is_published(setting.artefacts[stage]) for stage in setting.stages
        }
        self._old_writing = {stage: setting.folder.writing(stage) for stage in setting.stages}
        self._old_staging = setting.folder.staging()
        self._found: psutil.Process | None = None
        self._looked = 0.0
        with output.open("wb") as file:
            self.pipeline = subprocess.Popen(
                setting.command,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing running when the test itself fails or is interrupted."""
        if self.pipeline.poll() is None:
            self.pipeline.kill()
            self.pipeline.wait()

    def text(self) -> str:
        """What it has printed."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    def finish(self) -> None:
        """Wait for its end.

        Raises:
            KillTestError: it did not end with 0.
        """
        if self.pipeline.wait() != 0:
            raise KillTestError(f"the run exited with {self.pipeline.returncode}:\n{self.text()}")

    def kill(self, kill: Kill, rng: random.Random) -> bool:
        """Wait for the kill's moment and kill; False when the stage had ended before.

        Raises:
            KillTestError: the run failed by itself, or something of it is left long after the kill.
        """
        process = self._await(kill)
        if process is None:
            return False
        family = _family(self.pipeline.pid)
        try:
            _strike(kill, self.pipeline.pid, process, rng)
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False
        if not self._await_end(kill):
            return False
        left = psutil.wait_procs(family, timeout=MAX_WAIT_SECONDS)[1]
        if left:
            raise KillTestError(f"{kill}: {left} outlived it by {MAX_WAIT_SECONDS:.0f} s\n{self.text()}")
        return True

    def half_written(self, stage: str) -> bool:
        """Whether this attempt left a checkpoint half-written, as only a kill within a save does."""
        return bool(self._new_writing(stage))

    def _await(self, kill: Kill) -> psutil.Process | None:
        """The stage's first process at the kill's moment; None when the stage ended before."""
        while self.pipeline.poll() is None:
            process, stage = self._stage()
            if stage is not None and self._is_past(stage, kill):
                return None
            if process is not None and stage is not None and stage == kill.stage and self._has_begun(kill):
                self._wait_out(kill)
                return process if _is_alive(process) else None
            time.sleep(BRIEF_SECONDS if kill.moment in BRIEF else LOOK_SECONDS)
        self.finish()
        return None

    def _has_begun(self, kill: Kill) -> bool:
        """Whether the event came that the kill's delay counts from."""
        folder, stage = self.setting.folder, kill.stage
        due = kill.progress * self.setting.num_steps[stage]
        if kill.moment == "saving":
            return any(step >= due for step in self._new_writing(stage))
        if kill.moment == "publishing":
            slots = folder.staging() - self._old_staging
            return any(slot.startswith(f"{self.setting.artefacts[stage]}.") for slot in slots)
        if kill.moment == "training":
            return any(line["step"] >= due for line in folder.lines(stage, self.started))
        return True

    def _wait_out(self, kill: Kill) -> None:
        """The kill's delay; a stage that loads faster than it did is killed at its first line."""
        stage = kill.stage
        deadline = time.monotonic() + kill.delay * getattr(self.setting.pace[stage], kill.moment)
        while (remaining := deadline - time.monotonic()) > 0:
            if kill.moment == "loading" and self.setting.folder.lines(stage, self.started):
                return
            time.sleep(min(LOOK_SECONDS, remaining))

    def _await_end(self, kill: Kill) -> bool:
        """Wait until the pipeline is gone; False when the kill hit nobody and it goes on or has finished."""
        deadline = time.monotonic() + MAX_WAIT_SECONDS
        while self.pipeline.poll() is None:
            _, stage = self._stage()
            if stage is not None and self._is_past(stage, kill):
                return False
            if time.monotonic() > deadline:
                raise KillTestError(f"{kill}: the pipeline still runs {MAX_WAIT_SECONDS:.0f} s after it")
            time.sleep(LOOK_SECONDS)
        return self.pipeline.returncode != 0

    def _is_past(self, stage: str, kill: Kill) -> bool:
        return self.setting.stages.index(stage) > self.setting.stages.index(kill.stage)

    def _new_writing(self, stage: str) -> list[int]:
        old = self._old_writing[stage]
        return [step for step, who in self.setting.folder.writing(stage).items() if old.get(step) != who]

    def _stage(self) -> tuple[psutil.Process | None, str | None]:
        """The pipeline's child that is the stage (or its launcher), and the stage's name; looked for now and then."""
        if self._found is not None and not _is_alive(self._found):
            self._found = None
        if self._found is None and time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            children = _children(self.pipeline.pid, recursive=False)
            self._found = next((child for child in children if STAGE_MODULE in _words(child)), None)
        words = [] if self._found is None else _words(self._found)
        return (self._found, words[-1]) if words else (None, None)


def _strike(kill: Kill, pipeline: int, stage: psutil.Process, rng: random.Random) -> None:
    """SIGKILL the target: of a stage of several processes, any one that trains."""
    if kill.target == "pipeline":
        os.kill(pipeline, signal.SIGKILL)
    elif kill.target == "group":
        os.killpg(stage.pid, signal.SIGKILL)
    else:
        ranks = [each for each in _children(stage.pid, recursive=True) if STAGE_MODULE in _words(each)]
        rng.choice(ranks or [stage]).kill()


def _family(pid: int) -> list[psutil.Process]:
    return _children(pid, recursive=True)


def _children(pid: int, *, recursive: bool) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
