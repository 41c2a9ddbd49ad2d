"""scripts/gpus.sh with stand-ins for `rlhf` and `nvidia-smi`: how many processes it asks for, and when it goes on."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "gpus.sh"
RUNS_UNTIL_ASKED = """
trap 'echo saving >> "$FOLDER/run"; sleep 0.3; exit 75' TERM
touch "$FOLDER/ready"
while true; do sleep 0.1; done
"""


def started(folder: Path, rlhf: str, gpus: int = 2, **variables: str) -> "subprocess.Popen[str]":
    listed = "".join(f"echo GPU {index}\n" for index in range(gpus))
    for name, body in (("rlhf", f'echo "$@" >> "$FOLDER/run"\n{rlhf}'), ("nvidia-smi", listed)):
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment |= {"PATH": f"{folder}:{os.environ['PATH']}", "FOLDER": str(folder)} | variables
    return subprocess.Popen(
        ["bash", str(SCRIPT), "r.yaml", "--fresh"], env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("code", [0, 1])
def test_a_process_a_gpu_and_the_runs_own_exit_code(tmp_path: Path, code: int) -> None:
    assert started(tmp_path, f"exit {code}", gpus=3).wait(20) == code
    assert (tmp_path / "run").read_text() == "run r.yaml --fresh --set launch.num_processes=3\n"


def test_only_the_gpus_that_are_visible_count(tmp_path: Path) -> None:
    assert started(tmp_path, "exit 0", gpus=8, CUDA_VISIBLE_DEVICES="4,6").wait(20) == 0
    assert "launch.num_processes=2\n" in (tmp_path / "run").read_text()


def test_a_stop_that_nobody_asked_for_goes_on(tmp_path: Path) -> None:
    stops_twice = '[ "$(wc -l < "$FOLDER/run")" -lt 3 ] && exit 75; exit 0'
    assert started(tmp_path, stops_twice).wait(20) == 0
    again = "run r.yaml --set launch.num_processes=2"
    assert (tmp_path / "run").read_text().splitlines() == [
        again.replace(" --set", " --fresh --set"),
        again,
        again,
    ], "what goes on does not begin anew"


def test_asked_to_stop_it_lets_the_run_save_and_does_not_go_on(tmp_path: Path) -> None:
    process = started(tmp_path, RUNS_UNTIL_ASKED)
    deadline = time.monotonic() + 20
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 75
    assert (tmp_path / "run").read_text().endswith("saving\n")


def test_without_a_gpu_it_says_what_to_call_instead(tmp_path: Path) -> None:
    process = started(tmp_path, "exit 0", gpus=0)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "Without one: rlhf run r.yaml --fresh" in said
