"""Starting a stage's processes, waiting for them, passing signals on; the stage never outlives this process."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TextIO

from rlhf.errors import StageError
from rlhf.pipeline.stopped import Stopped
from rlhf.recipe import Recipe, Stage
from rlhf.stages.inputs import LOG_FILE, STOPPED_FILE

POLL_SECONDS = 0.2
LOG_LINES_SHOWN = 25
_PR_SET_PDEATHSIG = 1
# Loaded here: between fork and exec it could wait for a lock that another thread held.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def launch_command(recipe: Recipe, run_folder: Path, stage: Stage) -> list[str]:
    """The stage's command line: one process, torchrun for several, `accelerate launch` where a configuration is named.

    `accelerate launch --cpu --num_processes 2` starts one process without a word (accelerate 1.15); torchrun starts
    two, and Accelerate finds them.
    """
    launch = recipe.launch
    stage_arguments = ["-m", "rlhf.stages", str(run_folder), stage]
    python = [sys.executable, "-u"]
    if launch.accelerate_config is not None:
        return [
            *python,
            *("-m", "accelerate.commands.launch", "--config_file", launch.accelerate_config),
            *("--num_processes", str(launch.num_processes)),
            *stage_arguments,
        ]
    if launch.num_processes > 1:
        return [
            *python,
            *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(launch.num_processes)),
            *stage_arguments,
        ]
    return [*python, *stage_arguments]


def run_stage(
    recipe: Recipe, run_folder: Path, stage: Stage, *, on_poll: Callable[[], None], resume_with: str
) -> None:
    """Run a stage to its end.

    Args:
        on_poll: called a few times a second while it runs, to show progress.
        resume_with: the command that goes on after a failure, for the message.

    Raises:
        StageError: it died; with its error, the end of its log, and `resume_with`.
        Stopped: a signal came, and the stage saved and stopped.
    """
    folder = run_folder / stage
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STOPPED_FILE).unlink(missing_ok=True)
    command = launch_command(recipe, run_folder, stage)
    with (folder / LOG_FILE).open("a", encoding="utf-8") as log:
        log.write(f"\n$ {' '.join(command)}\n")
        log.flush()
        start_of_log = log.tell()
        code, signum = _wait(command, log, _environment(recipe), on_poll)
    if (folder / STOPPED_FILE).is_file():
        raise Stopped(signum or signal.SIGTERM, f"in the {stage} stage; everything is saved", resume_with)
    if signum and code == 0:
        raise Stopped(signum, f"after the {stage} stage, which had its artefact published", resume_with)
    if signum and code in (-signal.SIGTERM, -signal.SIGKILL):
        raise Stopped(signum, f"in the {stage} stage at once; its checkpoints are kept", resume_with)
    if code != 0:
        raise _stage_error(stage, folder, code, start_of_log, resume_with)


def _wait(
    command: list[str], log: TextIO, environment: dict[str, str], on_poll: Callable[[], None]
) -> tuple[int, int]:
    """Exit code of the stage, and the signal that was passed on to it (0: none)."""
    passed_on: list[int] = []
    with ExitStack() as stack:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
            preexec_fn=_die_with(os.getpid()),
        )
        stack.callback(_kill_group, process)

        def pass_on(signum: int, frame: FrameType | None) -> None:
            # The first signal asks the stage to save and stop; a second one means now.
            os.killpg(process.pid, signal.SIGKILL if passed_on else signal.SIGTERM)
            passed_on.append(signum)

        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
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


def _die_with(parent: int) -> Callable[[], None] | None:
    """What the child does before it becomes the launcher: the kernel kills it when this process dies, SIGKILLed or not."""
    libc = _LIBC
    if libc is None:
        return None

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return prepare


def _environment(recipe: Recipe) -> dict[str, str]:
    environment = dict(os.environ)
    environment.setdefault("PYTHONUNBUFFERED", "1")
    if recipe.launch.num_processes > 1:
        # torchrun would set it to 1: share the cores instead.
        environment.setdefault(
            "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // recipe.launch.num_processes))
        )
    return environment


def _stage_error(stage: Stage, folder: Path, code: int, start_of_log: int, resume_with: str) -> StageError:
    with (folder / LOG_FILE).open("rb") as log:
        log.seek(start_of_log)
        lines = log.read().decode("utf-8", errors="replace").rstrip().split("\n")
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
    told = next((number for number, line in enumerate(lines) if line.startswith("error: ")), None)
    shown = lines[told:] if told is not None else lines[-LOG_LINES_SHOWN:]
    text = "\n".join(f"  {line}" for line in shown[: 2 * LOG_LINES_SHOWN])
    return StageError(
        f"the {stage} stage {how}:\n{text}\n  whole log: {folder / LOG_FILE}",
        f"What is saved is kept. Go on with: {resume_with}",
    )
