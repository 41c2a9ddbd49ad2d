"""scripts/slurm.sh with stand-ins for `rlhf` and `scontrol`: what it starts, passes on, and asks for."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "slurm.sh"
RUNS_UNTIL_ASKED = """
trap 'echo saving >> "$FOLDER/run"; sleep 0.5; exit 75' TERM
touch "$FOLDER/ready"
while true; do sleep 0.1; done
"""


def job(folder: Path, rlhf: str, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    for name, body in (("rlhf", rlhf), ("scontrol", 'echo "$@" > "$FOLDER/asked"')):
        path = folder / name
        path.write_text(f'#!/bin/bash\n[ {name} = rlhf ] && echo "$@" > "$FOLDER/run"\n{body}\n')
        path.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "FOLDER": str(folder),
        "SLURM_JOB_ID": "12345",
    }
    return subprocess.Popen(
        ["bash", str(SCRIPT), "r.yaml", *arguments],
        env=environment | variables,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("code", [0, 1])
def test_a_run_that_ends_by_itself_gives_its_exit_code_and_is_not_queued_again(
    tmp_path: Path, code: int
) -> None:
    assert job(tmp_path, f"exit {code}", SLURM_GPUS_ON_NODE="4").wait(20) == code
    assert (tmp_path / "run").read_text() == "run r.yaml --set launch.num_processes=4\n"
    assert not (tmp_path / "asked").exists()


def test_a_preempted_job_saves_and_goes_back_into_the_queue(tmp_path: Path) -> None:
    process = job(tmp_path, RUNS_UNTIL_ASKED)
    deadline = time.monotonic() + 20
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 75
    assert (tmp_path / "run").read_text().endswith("saving\n")
    assert (tmp_path / "asked").read_text() == "requeue 12345\n"


@pytest.mark.parametrize(("restarts", "said"), [("0", "run r.yaml --fresh --set"), ("1", "run r.yaml --set")])
def test_a_job_that_comes_back_goes_on_and_does_not_begin_anew(
    tmp_path: Path, restarts: str, said: str
) -> None:
    assert job(tmp_path, "exit 0", "--fresh", SLURM_RESTART_COUNT=restarts).wait(20) == 0
    assert (tmp_path / "run").read_text().startswith(said)


def test_several_machines_are_started_by_srun_and_meet_at_the_first(tmp_path: Path) -> None:
    assert job(tmp_path, "exit 0", SLURM_JOB_NUM_NODES="2", SLURM_GPUS_ON_NODE="8").wait(20) == 0
    said = (tmp_path / "run").read_text()
    host = subprocess.run(["hostname"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    assert "--set launch.num_machines=2" in said
    assert f"--set launch.rendezvous={host}:32345" in said
    assert "--set launch.prefix=[srun, --ntasks-per-node=1, --kill-on-bad-exit=1]" in said
