"""Two processes that hold whole weights each sum their gradients, and agree on what fits."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from exchange_rank import gradients
from tiny import environment

pytestmark = pytest.mark.distributed


def test_gradients_of_all_kinds_become_their_sum_on_both(tmp_path):
    script = Path(__file__).with_name("exchange_rank.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*command, str(script), str(tmp_path)], env=environment(), timeout=120, check=True)
    wanted = []
    for one, two in zip(gradients(0), gradients(1), strict=True):
        parts = [each for each in (one, two) if each is not None]
        wanted.append(sum(parts) if parts else torch.zeros(6))
    for rank in (0, 1):
        note = torch.load(tmp_path / f"rank-{rank}.pt")
        assert note["processes"] == 2
        for got, expected in zip(note["gradients"], wanted, strict=True):
            assert got.dtype == expected.dtype
            assert torch.equal(got, expected)
        assert note["least"] == [7, 5]
        assert note["weights"] == [float(rank), *[0.0] * 7], "the first is frozen, and stays as it was loaded"
