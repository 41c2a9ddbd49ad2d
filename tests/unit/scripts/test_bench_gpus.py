"""The benchmark of strategies: what it asks for, what it believes, its tables; and a run of the tiny model."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import bench_gpus
import pytest
from bench_gpus import Combination, table

SCRIPT = Path(__file__).parents[3] / "scripts" / "bench_gpus.py"


def result():
    found = {"processes": 2, "wrapper": "W", "seconds_a_step": 0.25, "peak_gib": 1.5}
    stages = {"sft": found, "ppo": {**found, "peak_gib": None}}
    return {"strategy": "ddp", "kind": "full", "processes": 2, "stages": stages}


def test_the_table_has_a_row_a_stage_and_says_what_failed():
    failed = {"strategy": "zero3", "kind": "lora", "processes": 2, "failed": "why"}
    assert table([result(), failed]).splitlines()[2:] == [
        "| ddp | full | sft | 2 | W | 0.250 | 1.50 |",
        "| ddp | full | ppo | 2 | W | 0.250 | – |",
        "| zero3 | lora | failed | 2 | | | |",
    ]


def test_zero_runs_alone_on_cpus():
    asked = Namespace(strategies=["ddp", "zero1", "zero3"], kinds=["full"], gpus=2)
    for device, zero in (("cpu", 1), ("cuda", 2)):
        asked.device = device
        assert [each.processes for each in bench_gpus._combinations(asked)] == [2, zero, zero]


@pytest.mark.parametrize(
    ("ran_as", "wrong"),
    [
        ("2 process(es), FSDPModule, cuda", False),
        ("1 process(es), FSDPModule, cuda", True),
        ("2 process(es), DistributedDataParallel, cuda", True),
    ],
)
def test_a_stage_that_ran_otherwise_is_found_out(tmp_path, monkeypatch, ran_as, wrong):
    monkeypatch.setattr(bench_gpus, "_load", lambda registry, stage: 7)
    folder = tmp_path / "runs" / "bench" / "sft"
    folder.mkdir(parents=True)
    peaks = "".join(
        f"rank {rank}: peak memory {size} GiB (9.00 reserved)\n" for rank, size in enumerate((1.25, 2.5))
    )
    (folder / "log.txt").write_text(f"runs as: {ran_as}\nruns as: {ran_as}\n{peaks}")
    lines = [{"step": step, "time": 100.0 + step / 2, "loss": 1.0} for step in (10, 20)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = bench_gpus._stage(tmp_path, "sft", Combination("fsdp2", "full", 2))
    assert bool(found["wrong"]) is wrong
    assert (found["seconds_a_step"], found["peak_gib"]) == (0.5, 2.5)


def test_a_single_step_of_ppo_has_nothing_to_time(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_gpus.py", "--tiny", "--ppo-steps", "1"])
    with pytest.raises(SystemExit):
        bench_gpus._arguments()
    assert "at least 2" in capsys.readouterr().err


@pytest.mark.slow
def test_a_tiny_run_measures_all_stages_and_is_not_run_again(tmp_path):
    options = "--device cpu --tiny --gpus 1 --strategies fsdp2 --kinds lora --batch 2 --episodes 4 --ppo-steps 2 --response-tokens 4"
    command = [sys.executable, str(SCRIPT), *options.split(), "--folder", str(tmp_path)]
    first, second = (subprocess.run(command, capture_output=True, text=True) for _ in range(2))
    assert first.returncode == 0, first.stdout + first.stderr
    (measured,) = json.loads((tmp_path / "results.json").read_text())
    for stage in measured["stages"].values():
        assert (stage["processes"], stage["wrapper"]) == (1, "FSDPModule")
        assert stage["device"] == "cpu"
        assert stage["seconds_a_step"] > 0
        assert stage["peak_gib"] > 0.1
        assert stage["parameters"] > 5000
    assert second.returncode == 0
    assert "fsdp2-lora-1: measured before" in second.stdout
    assert second.stdout.count("| fsdp2 | lora |") == 3
