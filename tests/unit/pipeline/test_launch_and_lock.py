"""Starting and stopping a stage's processes, with small scripts in the stage's place; and the lock on a run."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from tiny import TinyRecipe

from rlhf.errors import LockError, StageError
from rlhf.metrics import MetricsLog, read_metrics
from rlhf.pipeline import launch
from rlhf.pipeline.lock import hold
from rlhf.pipeline.progress import StageProgress
from rlhf.pipeline.stopped import Stopped
from rlhf.recipe import Recipe, load_recipe

Stage = Callable[[str], None]
SAVES = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path("sft/stopped").touch(), sys.exit(75)))
pathlib.Path("sft/ready").touch()
time.sleep(60)
"""


@pytest.fixture
def recipe(tiny_recipe: TinyRecipe) -> Recipe:
    return load_recipe(tiny_recipe.path)


@pytest.fixture
def stage(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Runs a script as the SFT stage of a run in `tmp_path`."""
    monkeypatch.chdir(tmp_path)

    def run(script: str) -> None:
        monkeypatch.setattr(launch, "launch_command", lambda *_: [sys.executable, "-c", script])
        launch.run_stage(recipe, tmp_path, "sft", on_poll=lambda: None, resume_with="rlhf run r.yaml")

    return run


def signal_when(path: Path, *signums: int) -> None:
    """Send signals to this process once the stage is ready."""

    def wait() -> None:
        while not path.exists():
            time.sleep(0.01)
        for signum in signums:
            os.kill(os.getpid(), signum)
            time.sleep(0.3)

    threading.Thread(target=wait, daemon=True).start()


def test_a_failed_stage_shows_its_error_its_log_and_the_command(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(StageError) as caught:
        stage("import sys; print('chatter'); print('error: no such row\\n  mend it'); sys.exit(1)")
    assert str(caught.value) == (
        f"the sft stage exited with 1:\n  error: no such row\n    mend it\n  whole log: {tmp_path}/sft/log.txt\n"
        "  What is saved is kept. Go on with: rlhf run r.yaml"
    )
    assert "chatter" in (tmp_path / "sft" / "log.txt").read_text()


def test_a_defect_shows_the_end_of_its_own_log_and_not_of_an_earlier_try(stage: Stage) -> None:
    with pytest.raises(StageError):
        stage("raise ValueError('first')")
    with pytest.raises(StageError) as caught:
        stage("raise ValueError('second')")
    assert "ValueError: second" in str(caught.value)
    assert "first" not in str(caught.value)


def test_a_killed_stage_is_named_with_its_signal(stage: Stage) -> None:
    with pytest.raises(StageError, match="was killed by SIGKILL"):
        stage("import os; os.kill(os.getpid(), 9)")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_stage_save(stage: Stage, tmp_path: Path, signum: int) -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell runs the tests in the background
    signal_when(tmp_path / "sft" / "ready", signum)
    with pytest.raises(Stopped, match="everything is saved") as caught:
        stage(SAVES)
    assert caught.value.signum == signum
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_before_the_stage_listens_stops_it_too(stage: Stage, tmp_path: Path) -> None:
    signal_when(tmp_path / "sft" / "ready", signal.SIGTERM)
    with pytest.raises(Stopped, match="its checkpoints are kept"):
        stage("import pathlib, time; pathlib.Path('sft/ready').touch(); time.sleep(60)")


def test_a_second_signal_ends_a_stage_that_does_not_stop(stage: Stage, tmp_path: Path) -> None:
    signal_when(tmp_path / "sft" / "ready", signal.SIGINT, signal.SIGINT)
    started = time.monotonic()
    with pytest.raises(Stopped) as caught:
        stage(SAVES.replace("lambda *_: (", "lambda *_: (time.sleep(60), "))
    assert caught.value.signum == signal.SIGINT
    assert time.monotonic() - started < 20


def test_a_signal_that_comes_too_late_stops_before_the_next_stage(stage: Stage, tmp_path: Path) -> None:
    signal_when(tmp_path / "sft" / "ready", signal.SIGTERM)
    with pytest.raises(Stopped, match="after the sft stage"):
        stage(SAVES.replace('pathlib.Path("sft/stopped").touch(), sys.exit(75)', "sys.exit(0)"))


def test_nobody_of_the_group_is_left_behind(stage: Stage, tmp_path: Path) -> None:
    child = "import os, pathlib, time; pathlib.Path('sft/child').write_text(str(os.getpid())); time.sleep(60)"
    with pytest.raises(StageError):
        stage(
            "import pathlib, subprocess, sys, time\n"
            f"subprocess.Popen([sys.executable, '-c', {child!r}])\n"
            "while not pathlib.Path('sft/child').exists() or not pathlib.Path('sft/child').read_text(): time.sleep(0.01)\n"
            "sys.exit(1)"
        )
    assert has_died(int((tmp_path / "sft" / "child").read_text()))


def has_died(pid: int) -> bool:
    """Whether a process ends within some seconds; a zombie has."""
    for _ in range(500):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "-m rlhf.stages RUN sft"),
        (
            ["launch.num_processes=2", "sft.per_device_batch_size=4", "reward.per_device_batch_size=4"],
            "-m torch.distributed.run --standalone --nproc_per_node 2 -m rlhf.stages RUN sft",
        ),
        (
            ["launch.accelerate_config=z.yaml"],
            "-m accelerate.commands.launch --config_file z.yaml --num_processes 1 -m rlhf.stages RUN sft",
        ),
    ],
)
def test_the_launcher_fits_the_recipe(tiny_recipe: TinyRecipe, overrides: list[str], expected: str) -> None:
    command = launch.launch_command(load_recipe(tiny_recipe.path, overrides), Path("RUN"), "sft")
    assert " ".join(command) == f"{sys.executable} -u {expected}"


@pytest.mark.parametrize(("visible", "seen"), [(None, "0"), ("2,3", "2"), ("", "")])
def test_one_process_sees_one_gpu(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str | None, seen: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    stage("import os, pathlib; pathlib.Path('seen').write_text(os.environ['CUDA_VISIBLE_DEVICES'])")
    assert (tmp_path / "seen").read_text() == seen


def test_a_held_run_names_its_owner_and_a_dead_owner_blocks_nobody(tmp_path: Path) -> None:
    script = f"import time\nfrom pathlib import Path\nfrom rlhf.pipeline.lock import hold\nwith hold(Path({str(tmp_path)!r})):\n print('held', flush=True)\n time.sleep(60)"
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "held\n"
    with pytest.raises(LockError, match=f"in use by process {owner.pid} on"), hold(tmp_path):
        pass
    owner.kill()
    owner.wait()
    with hold(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(
    "content", ['{"pid": 1, "host": "gone", "since": "2020-01-01T00:00:00+00:00"}', "", "{"]
)
def test_what_a_machine_that_crashed_left_in_the_lock_blocks_nobody(tmp_path: Path, content: str) -> None:
    """A lock is the kernel's, so neither a file nor a living process of the same number counts."""
    (tmp_path / "lock").write_text(content)
    with hold(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_an_owner_on_another_host_is_named(tmp_path: Path) -> None:
    script = (
        "import fcntl, sys, time\n"
        f"file = open({str(tmp_path / 'lock')!r}, 'a+')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        """file.write('{"pid": 7, "host": "node-3", "since": "2026-01-01T00:00:00+00:00"}'); file.flush()\n"""
        "print('held', flush=True)\ntime.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "held\n"
    with pytest.raises(LockError, match="process 7 on node-3, since 2026-01-01"), hold(tmp_path):
        pass
    owner.kill()
    owner.wait()


def test_a_stage_that_asks_for_it_is_started_again(stage: Stage, tmp_path: Path) -> None:
    stage(
        "import pathlib; starts = pathlib.Path('starts'); starts.open('a').write('x')\n"
        "assert not pathlib.Path('sft/again').exists()\n"
        "len(starts.read_text()) < 3 and pathlib.Path('sft/again').touch()"
    )
    assert (tmp_path / "starts").read_text() == "xxx"


def test_sigterm_twice_within_a_second_is_one_request(stage: Stage, tmp_path: Path) -> None:
    """As a batch system sends it: to the process, and to its group."""
    signal_when(tmp_path / "sft" / "ready", signal.SIGTERM, signal.SIGTERM)
    with pytest.raises(Stopped, match="everything is saved"):
        stage(SAVES.replace("lambda *_: (", "lambda *_: (time.sleep(1), "))


def test_behind_a_launcher_a_file_asks_to_stop_and_no_signal_is_sent(
    tiny_recipe: TinyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = (
        "import pathlib, sys, time\npathlib.Path('sft/ready').touch()\n"
        "while not pathlib.Path('sft/stop').exists(): time.sleep(0.05)\n"
        "pathlib.Path('sft/stopped').touch(); sys.exit(1)"
    )
    several = load_recipe(tiny_recipe.path, ["launch.accelerate_config=z.yaml"])
    monkeypatch.setattr(launch, "launch_command", lambda *_: [sys.executable, "-c", script])
    signal_when(tmp_path / "sft" / "ready", signal.SIGTERM)
    with pytest.raises(Stopped, match="everything is saved"):
        launch.run_stage(several, tmp_path, "sft", on_poll=lambda: None, resume_with="rlhf run r.yaml")


def test_of_many_processes_the_first_error_is_shown_once(stage: Stage) -> None:
    with pytest.raises(StageError) as caught:
        stage(
            "import json, pathlib, sys\nfolder = pathlib.Path('sft/errors'); folder.mkdir()\n"
            "for rank, text in enumerate(('connection closed', 'ValueError: the cause')):\n"
            "    words = {'time': 10.0 - rank, 'rank': rank, 'text': text}\n"
            "    (folder / f'rank-{rank}.json').write_text(json.dumps(words)); print('error:', text)\n"
            "sys.exit(1)"
        )
    assert str(caught.value).startswith(
        "the sft stage exited with 1:\n  ValueError: the cause\n  whole log: "
    )


def test_resumed_metrics_drop_what_the_checkpoint_never_saw_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, total_steps=9, resume_step=0)
    for step in (1, 2, 3):
        log.write(step, {"loss": step / 2, "bad": float("nan")})
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]
    MetricsLog(path, total_steps=9, resume_step=2).write(3, {"loss": 7.0})
    lines = read_metrics(path)
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 0.5), (2, 1.0), (3, 7.0)]
    assert (lines[0]["bad"], lines[0]["total_steps"]) == ("nan", 9)
    MetricsLog(path, total_steps=9, resume_step=0, enabled=False).write(1, {"loss": 1.0})
    assert len(read_metrics(path)) == 3
    MetricsLog(path, total_steps=9, resume_step=0)
    assert read_metrics(path) == []


def test_lines_of_the_checkpoints_own_step_that_came_after_it_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, total_steps=2, resume_step=0)
    log.write(1, {"loss": 3.0})
    log.write(2, {"loss": 2.0})
    assert log.num_lines == 2
    log.write(2, {"train_loss": 2.5})
    again = MetricsLog(path, total_steps=2, resume_step=2, num_lines=2)
    assert again.num_lines == 2
    assert [line["loss"] for line in read_metrics(path)] == [3.0, 2.0]


def test_the_bar_shows_the_newest_numbers_on_a_terminal_and_nothing_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, total_steps=8, resume_step=0)
    shown: dict[bool, str] = {}
    for terminal in (True, False):
        file = io.StringIO()
        with StageProgress(Console(file=file, force_terminal=terminal, width=150), "ppo", path) as progress:
            progress.poll()
            log.write(3, {"objective/scores": 0.25, "objective/kl": 1.5, "eps": 12.0})
            progress.poll()
            if progress.bar is not None:
                progress.bar.refresh()
        shown[terminal] = file.getvalue()
    for expected in ("ppo", "3/8", "score 0.25", "KL 1.5", "episodes/s 12"):
        assert expected in shown[True]
    assert shown[False] == ""
