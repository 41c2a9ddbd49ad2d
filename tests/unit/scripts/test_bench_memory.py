"""The memory benchmark: its arithmetic against published numbers, its counts by hand, and a run of the tiny shape."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from memory_record import storage_bytes
from memory_shapes import SHAPES, state_bytes, weight_bytes
from memory_table import line, share, table

SCRIPT = Path(__file__).parents[3] / "scripts" / "bench_memory.py"


def result(backbone, state, peak, *, fits=True):
    phase = {"seconds": [9.0, 2.5], "peak_allocated": peak, "peak_reserved": peak}
    record = {"weight_bytes": state - 3, "gradient_bytes": 1, "optimizer_bytes": 2, "num_updates": 4}
    record |= {"host_peak_bytes": 2**30, "state_bytes": state, "peak_allocated": peak}
    record |= {"phases": {"setup": phase, "rollout": phase, "update": phase}}
    setting = {"backbone": backbone, "batch_size": 4, "rollout_batch_size": 16, "global_batch_size": 16}
    setting |= {"prompt_tokens": 128, "response_tokens": 128, "steps": 2}
    about = {
        "shape": "7b",
        "setting": setting,
        "device": "a GPU",
        "torch": "2",
        "expected_state_bytes": state,
    }
    return about | {
        "fits": fits,
        "reason": None if fits else "by arithmetic",
        "record": record if fits else None,
    }


@pytest.mark.parametrize(
    ("name", "published"),
    [("0.5b", 494_032_768), ("1.5b", 1_543_714_304), ("3b", 3_085_938_688), ("7b", 7_615_616_512)],
)
def test_a_shape_has_the_published_number_of_parameters(name, published):
    assert SHAPES[name].num_parameters == published


def test_separate_models_hold_the_base_four_times_and_two_of_them_no_head():
    seven = SHAPES["7b"]
    base, head = 7_615_616_512, 152_064 * 3584
    # LoRA of rank 16: query and output 3584 to 3584, key and value 3584 to 512, three of 3584 and 18,944
    adapter = 28 * 16 * (2 * 7168 + 2 * 4096 + 3 * 22_528)
    own = 4 * adapter + 4 * 3584
    assert weight_bytes(seven, "shared") == 4 * (base + own)
    assert weight_bytes(seven, "separate") == 4 * (4 * base - 2 * head + own)
    trained = 2 * adapter + 3584
    assert state_bytes(seven, "shared") == 4 * (base + own) + 3 * 4 * trained


def test_memory_that_two_tensors_hold_counts_once():
    weight = torch.zeros(10)
    assert storage_bytes([weight, weight[:5], weight.view(2, 5), torch.zeros(3, dtype=torch.bfloat16)]) == 46


def test_the_share_is_of_what_separate_models_take():
    both = {"shared": result("shared", 30, 45), "separate": result("separate", 120, 100)}
    assert (share(both, "state_bytes"), share(both, "peak_allocated")) == ("25.0%", "45.0%")


@pytest.mark.parametrize("other", [{}, {"separate": result("separate", 120, 100, fits=False)}])
def test_there_is_no_share_of_what_was_not_measured(other):
    assert share({"shared": result("shared", 30, 45)} | other, "state_bytes") == "–"


def test_the_table_has_a_row_a_run_in_gibibytes():
    lines = table(
        [result("shared", 3 * 2**29, 2**31), result("separate", 2**37, 2**37, fits=False)]
    ).splitlines()
    assert "| 7b | shared | 1.50 | 0.00 | 0.00 | 1.50 | 2.00 | 2.00 | 2.5 | 2.5 |" in lines
    assert "| 7b | separate | | | | 128.00: does not fit (by arithmetic) | | | | |" in lines
    assert lines[-1] == "| 7b | – | – |"


def test_what_does_not_fit_is_said_in_one_line():
    told = line(result("separate", 2**37, 0, fits=False))
    assert (
        told
        == "7b separate: does not fit (by arithmetic); weights, gradients and optimizer 128.00 by arithmetic"
    )


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["shared", "separate"])
def test_a_run_holds_what_arithmetic_says(tmp_path, backbone):
    file = tmp_path / "result.json"
    options = [
        "--backbone",
        backbone,
        "--folder",
        str(tmp_path),
        "--json",
        str(file),
        "--response-tokens",
        "4",
    ]
    ended = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 1
    (measured,) = json.loads(file.read_text())
    record = measured["record"]
    assert measured["fits"]
    assert record["weight_bytes"] == weight_bytes(SHAPES["tiny"], backbone)
    assert record["state_bytes"] == state_bytes(SHAPES["tiny"], backbone)
    assert record["num_updates"] == 8  # two steps of 16 / 4 micro-batches
    assert [len(record["phases"][name]["seconds"]) for name in ("setup", "rollout", "update")] == [1, 2, 2]
