"""Two processes that hold whole weights each sum their gradients, and agree on what fits."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from exchange_rank import gradients
from tiny import environment

pytestmark = pytest.mark.distributed


ON = [
    ("cpu", "gloo"),
    pytest.param(
        *("cuda", "nccl"),
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
        ],
    ),
]


def ran(folder, device, backend):
    """What each of the two wrote down."""
    script = Path(__file__).with_name("exchange_rank.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*command, str(script), str(folder), device], env=environment(), timeout=120, check=True)
    both = [torch.load(folder / f"rank-{rank}.pt", map_location="cpu") for rank in (0, 1)]
    assert [note["backend"] for note in both] == [backend] * 2
    return both


@pytest.mark.parametrize(("device", "backend"), ON)
def test_gradients_of_all_kinds_become_their_sum_on_both(tmp_path, device, backend):
    both = ran(tmp_path, device, backend)
    wanted = []
    for one, two in zip(gradients(0), gradients(1), strict=True):
        parts = [each for each in (one, two) if each is not None]
        wanted.append(sum(parts) if parts else torch.zeros(6))
    for rank, note in enumerate(both):
        assert note["processes"] == 2
        for got, expected in zip(note["gradients"], wanted, strict=True):
            assert got.dtype == expected.dtype
            assert torch.equal(got, expected)
        assert note["least"] == [7, 5]
        assert note["weights"] == [float(rank), *[0.0] * 7], "the first is frozen, and stays as it was loaded"


@pytest.mark.parametrize(("device", "backend"), ON)
def test_parts_are_exchanged_while_the_last_pass_runs_and_none_waits_where_it_stops(
    tmp_path, device, backend
):
    found = [note["while_passing"] for note in ran(tmp_path, device, backend)]
    torch.manual_seed(0)
    layers = torch.nn.Sequential(*(torch.nn.Linear(6, 6) for _ in range(4)))
    inputs = torch.randn(2, 6)
    for _ in range(2):
        layers(torch.cat([inputs, inputs + 1])).sum().backward()
    rounding = {"rtol": 1e-5, "atol": 1e-6 if device == "cuda" else 1e-8}
    for rank, each in enumerate(found):
        assert each["begun before False"] == each["begun before True"] == 0
        assert each["begun False"] == 4
        assert each["begun True"] == (2 if rank == 1 else 4)
        assert each.get("stopped", False) == (rank == 1)
        for parameter, total in zip(layers.parameters(), each["sums False"], strict=True):
            assert torch.allclose(total, parameter.grad, **rounding)
    # What was whole when the pass stopped is the sum, of the last two layers.
    for mine, other in zip(found[0]["sums True"], found[1]["sums True"], strict=True):
        assert torch.equal(mine, other)
    for total, wanted in zip(found[0]["sums True"][4:], found[0]["sums False"][4:], strict=True):
        assert torch.equal(total, wanted)
