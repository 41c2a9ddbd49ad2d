"""scripts/kill_test.py at its smallest: three kills, one in each stage, one of them within a save."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny import environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_three_kills_are_survived(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/kill_test.py", "--kills", "3", "--folder", str(tmp_path)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "3 of 3"
    for stage in ("sft", "reward", "ppo"):
        assert sum(f"of {stage} while" in line for line in lines) >= 1
    assert "a checkpoint half-written" in done.stdout
