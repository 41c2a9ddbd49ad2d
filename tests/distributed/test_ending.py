"""How processes leave: a thread of the process group that is still busy must not turn a finished stage into a dead one."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import environment

pytestmark = pytest.mark.distributed

COMMAND = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def launched(script: str, folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, str(Path(__file__).with_name(script)), str(folder)],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
        check=False,
    )


def test_a_rank_whose_group_is_still_busy_leaves_in_order(tmp_path: Path) -> None:
    """Without the product's ending (RLHF_TEST_LEAVES_ANYHOW=1) rank 1 aborts: exit code -6."""
    done = launched("leaving_rank.py", tmp_path)
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in (0, 1)] == ["2 gloo"] * 2
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_rank_that_hears_nothing_ends_when_another_is_gone(tmp_path: Path) -> None:
    """As one that waits in NCCL, while the launcher would give it an hour after its SIGTERM."""
    started = time.monotonic()
    done = launched("deaf_rank.py", tmp_path, TORCH_ELASTIC_SHUTDOWN_TIMEOUT="3600")
    assert done.returncode == 1
    assert "another process of this stage is gone" in done.stdout
    assert time.monotonic() - started < 100, "it would sleep for 600 seconds"
    assert (tmp_path / "deaf").read_text() == "2 processes"
