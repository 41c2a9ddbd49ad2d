"""Starting a stage's processes, waiting for them, passing signals on; the stage never outlives this process."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TextIO

from rlhf.errors import StageError
from rlhf.pipeline.cause import cause_of_death
from rlhf.pipeline.stopped import Stopped
from rlhf.pipeline.strategy import launcher_command, strategy_environment
from rlhf.recipe import Recipe, Stage
from rlhf.stages.inputs import AGAIN_FILE, ERRORS_FOLDER, LOG_FILE, STOP_FILE, STOPPED_FILE

POLL_SECONDS = 0.2
SAVE_SECONDS = 3600
"""How long torchrun lets its processes go on after a SIGTERM of its own, instead of 30 s: the scheduler sets the limit."""
SAME_REQUEST_SECONDS = 1.0
"""Schedulers send SIGTERM to a process and to its group: within this time a second one is the same request."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
# Loaded here: between fork and exec it could wait for a lock that another thread held.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def launch_command(recipe: Recipe, run_folder: Path, stage: Stage) -> list[str]:
    """The stage's command line, behind whatever starts its processes."""
    return [*launcher_command(recipe.launch), "-m", "rlhf.stages", str(run_folder), stage]


def run_stage(
    recipe: Recipe, run_folder: Path, stage: Stage, *, on_poll: Callable[[], None], resume_with: str
) -> None:
    """Run a stage to its end, again from its last checkpoint where it asks for that.

    Args:
        on_poll: called a few times a second while it runs, to show progress.
        resume_with: the command that goes on after a failure, for the message.

    Raises:
        StageError: it died; with its error, the end of its log, and `resume_with`.
        Stopped: a signal came, and the stage saved and stopped.
    """
    folder = run_folder / stage
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        start_of_log, code, signum = _run_once(recipe, run_folder, stage, on_poll)
        if signum or not (folder / AGAIN_FILE).is_file():
            break
    if (folder / STOPPED_FILE).is_file():
        raise Stopped(signum or signal.SIGTERM, f"in the {stage} stage; everything is saved", resume_with)
    if signum and (folder / AGAIN_FILE).is_file():
        raise Stopped(signum, f"in the {stage} stage, which goes back to its last checkpoint", resume_with)
    if signum and code == 0:
        raise Stopped(signum, f"after the {stage} stage, which had its artefact published", resume_with)
    if signum and code in (-signal.SIGTERM, -signal.SIGKILL):
        raise Stopped(signum, f"in the {stage} stage at once; its checkpoints are kept", resume_with)
    if code != 0:
        raise StageError(
            f"the {stage} stage {cause_of_death(folder, code, start_of_log)}\n  whole log: {folder / LOG_FILE}",
            f"What is saved is kept. Go on with: {resume_with}",
        )


def _run_once(
    recipe: Recipe, run_folder: Path, stage: Stage, on_poll: Callable[[], None]
) -> tuple[int, int, int]:
    """Where its part of the log begins, its exit code, and the signal that was passed on to it (0: none)."""
    folder = run_folder / stage
    for name in (STOPPED_FILE, STOP_FILE, AGAIN_FILE):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / ERRORS_FOLDER, ignore_errors=True)
    command = launch_command(recipe, run_folder, stage)
    stop_file = folder / STOP_FILE if recipe.launch.has_launcher else None
    with (folder / LOG_FILE).open("a", encoding="utf-8") as log:
        log.write(f"\n$ {' '.join(command)}\n")
        log.flush()
        start_of_log = log.tell()
        return start_of_log, *_wait(command, log, stage_environment(recipe), on_poll, stop_file)


def _wait(
    command: list[str],
    log: TextIO,
    environment: dict[str, str],
    on_poll: Callable[[], None],
    stop_file: Path | None,
) -> tuple[int, int]:
    """Exit code of the stage, and the signal that was passed on to it (0: none).

    Args:
        stop_file: what asks the stage's processes to save and stop, where a launcher stands before them: torchrun ends
            on a third signal whatever they do, and Accelerate's starter of one process on the first.
    """
    passed_on: list[int] = []
    asked_at = 0.0
    with ExitStack() as stack:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
            preexec_fn=_before_exec(os.getpid(), ignore=() if stop_file is None else _SIGNALS),
        )
        stack.callback(_kill_group, process)

        def pass_on(signum: int, frame: FrameType | None) -> None:
            # The first signal asks the stage to save and stop; a second one means now.
            nonlocal asked_at
            if passed_on:
                if signum != signal.SIGTERM or time.monotonic() - asked_at > SAME_REQUEST_SECONDS:
                    os.killpg(process.pid, signal.SIGKILL)
                return
            asked_at = time.monotonic()
            passed_on.append(signum)
            if stop_file is None:
                os.killpg(process.pid, signal.SIGTERM)
            else:
                stop_file.touch()

        for signum in _SIGNALS:
            stack.callback(signal.signal, signum, signal.signal(signum, pass_on))
        while process.poll() is None:
            on_poll()
            time.sleep(POLL_SECONDS)
        on_poll()
    return process.returncode, passed_on[0] if passed_on else 0


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Leave nobody behind: ranks whose launcher died are still in the group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _before_exec(parent: int, *, ignore: Sequence[signal.Signals]) -> Callable[[], None]:
    """What the child does before it becomes the launcher: the kernel kills it when this process dies, SIGKILLed or not.

    A launcher ignores signals that a scheduler sends to every process, unless it has handlers of its own; so do the
    processes that it starts, until they listen.
    """
    libc = _LIBC

    def prepare() -> None:
        for signum in ignore:
            signal.signal(signum, signal.SIG_IGN)
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGKILL)

    return prepare


def stage_environment(recipe: Recipe) -> dict[str, str]:
    """This process's environment, with what the recipe's `launch` asks for."""
    launch = recipe.launch
    environment = os.environ | strategy_environment(launch)
    environment.setdefault("PYTHONUNBUFFERED", "1")
    environment.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SAVE_SECONDS))
    if launch.world_size == 1:
        # To Trainer, one process that sees several GPUs means nn.DataParallel, which TRL refuses: it sees the first.
        visible = environment.get("CUDA_VISIBLE_DEVICES", "0")
        environment["CUDA_VISIBLE_DEVICES"] = visible.partition(",")[0]
    else:
        # torchrun would set it to 1: share the cores instead.
        environment.setdefault("OMP_NUM_THREADS", str(launch.cores_of_each))
    return environment
