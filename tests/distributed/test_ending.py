"""How processes leave: a thread of the process group that is still busy must not turn a finished stage into a dead one."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny import environment

pytestmark = pytest.mark.distributed

RANK = Path(__file__).with_name("leaving_rank.py")


def test_a_rank_whose_group_is_still_busy_leaves_in_order(tmp_path: Path) -> None:
    """Without the product's ending (RLHF_TEST_LEAVES_ANYHOW=1) rank 1 aborts: exit code -6."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(RANK), str(tmp_path)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in (0, 1)] == ["2 gloo"] * 2
    assert done.returncode == 0, done.stdout[-3000:]
