"""The speed benchmark: its arithmetic by hand, its tables, and a run of the tiny shape."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from bench_facts import size_of
from bench_figures import (
    Flops,
    Size,
    attention_share,
    decode_figures,
    decode_floor_seconds,
    geometric_lengths,
    peak_flops,
    step_figures,
    step_flops,
    stop_noise,
    utilisation,
)
from bench_ppo import decode_table, peer_table, spread, step_table
from memory_shapes import SHAPES
from transformers import AutoModelForCausalLM, Qwen2Config

from rlhf.ppo.engines.sampling import sample_tokens

SCRIPT = Path(__file__).parents[3] / "scripts" / "bench_ppo.py"
SMALL = Size(trunk=1000, head=200, layers=2, hidden=8, key_width=4)
KNOWN = {
    "size": SMALL,
    "slots": 2,
    "processes": 1,
    "bytes_per_value": 2,
    "bytes_per_second": 1e4,
    "device": "a CPU",
    "work": {"section": {"global_batch_size": 2, "num_epochs": 3}, "is_lora": False},
}


def test_the_floor_reads_weights_once_a_step_and_each_cache_entry_once():
    # 4 steps of 1200 weights; row 1 reads 4 x (10 + 2) = 48 entries, row 2 reads 2 x (6 + 1) = 14; an entry has
    # 2 x 2 layers x 4 = 16 values: (4800 + 62 x 16) x 2 bytes = 11,584 bytes
    floor = decode_floor_seconds(
        SMALL, [(10, 4), (6, 2)], slots=2, bytes_per_value=2, bytes_per_second=1000.0
    )
    assert floor == pytest.approx(11.584)


def test_fewer_slots_than_rows_read_the_weights_more_often():
    # 6 tokens through one slot are 6 steps: (7200 + 992) x 2 bytes
    floor = decode_floor_seconds(
        SMALL, [(10, 4), (6, 2)], slots=1, bytes_per_value=2, bytes_per_second=1000.0
    )
    assert floor == pytest.approx(16.384)


def test_the_floor_of_the_half_billion_shape_is_the_known_one():
    # 494 million weights in bfloat16 and 12,288 bytes of cache a token: 128 x (988,065,536 + 256 x 192 x 12,288) bytes
    shape = SHAPES["0.5b"]
    head = shape.vocab * shape.hidden
    size = Size(shape.num_parameters - head, head, 24, 896, 128)
    floor = decode_floor_seconds(
        size, [(128, 128)] * 256, slots=256, bytes_per_value=2, bytes_per_second=3e12
    )
    assert floor == pytest.approx(128 * (988_065_536 + 603_979_776) / 3e12)


def test_flops_count_the_head_for_sampled_tokens_alone():
    # 22 tokens, 6 of them sampled: a trunk pass is 22,000 products, a head pass 1,200
    rows = [(10, 4), (6, 2)]
    full = step_flops(SMALL, rows, num_epochs=3, lora=False)
    assert full == Flops(generate=2 * 23_200, score=2 * (88_000 + 2_400), update=3 * 6 * (44_000 + 1_200))
    assert step_flops(SMALL, rows, num_epochs=1, lora=True).update == 4 * 45_200


def test_attention_adds_the_square_of_the_length():
    # 2 layers x width 8 x 2 x (14^2 + 8^2) = 8,320 beside 46,400
    assert attention_share(SMALL, [(10, 4), (6, 2)]) == pytest.approx(8_320 / 46_400)


def test_utilisation_is_of_a_known_peak():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989.4e12
    assert utilisation(300, 2.0, 1000.0) == pytest.approx(0.15)
    assert utilisation(300, 2.0, peak_flops("CPU")) is None


def test_geometric_lengths_spread_by_a_constant_factor_and_are_mixed():
    lengths = geometric_lengths(6, 16, 512)
    assert sorted(lengths) == [16, 32, 64, 128, 256, 512]
    assert lengths != sorted(lengths)
    assert geometric_lengths(1, 16, 512) == [16]


def test_noise_ends_a_response_just_where_it_says():
    noise = torch.tensor(stop_noise([1, 3, 4], 4))
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 0.6
    drawn = torch.stack([sample_tokens(logits, noise[:, t], 1.0).tokens for t in range(4)], dim=1)
    assert (drawn == 0).tolist() == [[True, False, False, False], [False, False, True, False], [False] * 4]


@pytest.mark.parametrize("tied", [True, False])
def test_a_models_size_leaves_its_embedding_out(tied):
    config = Qwen2Config(**SHAPES["tiny"].config() | {"tie_word_embeddings": tied})
    size = size_of(AutoModelForCausalLM.from_config(config))
    # a layer: query, output 32 x 32, key, value 32 x 16, three of 32 x 64, biases 32 + 16 + 16, two norms of 32
    assert size.trunk == 2 * (2 * 1024 + 2 * 512 + 3 * 2048 + 64 + 64) + 32
    assert (size.head, size.layers, size.hidden, size.key_width) == (512 * 32, 2, 32, 16)


def seen(**more):
    metrics = {"eps": 0.5, "time/rollout_seconds": 1.5, "policy/num_updates": 12.0} | more
    return {
        "rows": [[(10, 4), (6, 2)]] * 3,
        "metrics": [metrics | {"eps": 0.1}, metrics, metrics],
        "seconds": [{"generate": 9.0, "update": 9.0}, *[{"generate": 1.1584, "update": 2.0}] * 2],
        "cpu_seconds": [30.0, 5.0, 6.0],
        "peaks": {"setup": (99, 99), "generate": (3, 4), "score": (5, 6), "update": (7, 8)},
    }


def test_two_processes_share_rows_and_read_the_weights_each():
    """4 steps of 1,200 weights for the longest response, whoever has it; of 62 x 16 values of cache each reads half."""
    floor = partial(decode_floor_seconds, SMALL, bytes_per_value=2, bytes_per_second=1000.0, processes=2)
    assert floor([(10, 4), (6, 2)], slots=2) == pytest.approx((4800 + 496) * 2 / 1000)
    # 6 tokens through one slot each are 3 steps, and the longest needs 4; two such pairs need 6
    assert floor([(10, 4), (6, 2)], slots=1) == pytest.approx((4800 + 496) * 2 / 1000)
    assert floor([(10, 4), (6, 2)] * 2, slots=1) == pytest.approx((7200 + 992) * 2 / 1000)


def test_two_processes_have_twice_the_peak():
    device = {"device": "NVIDIA H100 80GB HBM3"}
    one, two = (
        step_figures(KNOWN | device | {"processes": count}, seen(), slice(1, None)) for count in (1, 2)
    )
    assert two["phases"]["update"]["mfu"] == pytest.approx(one["phases"]["update"]["mfu"] / 2)
    assert two["episodes_per_second"] == one["episodes_per_second"]


def test_figures_leave_the_warm_up_out_and_state_it():
    figures = step_figures(KNOWN, seen(), slice(1, None))
    assert figures["first_step_seconds"] == pytest.approx(20.0)
    assert figures["step_seconds"] == [4.0, 4.0]
    assert figures["cpu_seconds"] == [5.0, 6.0]
    assert figures["mean_response_tokens"] == 3.0
    # the floor at 10,000 bytes/s is the 1.1584 s that generation took
    assert figures["decode"]["floor_share"] == pytest.approx(1.0)
    assert figures["phases"]["score"]["seconds"] == pytest.approx([0.3416, 0.3416])
    assert figures["phases"]["rest"]["seconds"] == pytest.approx([0.5, 0.5])
    assert (figures["peak_allocated"], figures["peak_reserved"]) == (7, 8)


def test_the_trainers_own_metrics_come_before_the_clock():
    own = seen(**{"time/generate_seconds": 1.0, "time/score_seconds": 0.25})
    figures = step_figures(KNOWN, own, slice(1, None))
    assert figures["seconds_from"] == "the trainer's own metrics"
    assert (figures["generate_seconds"], figures["phases"]["score"]["seconds"]) == ([1.0, 1.0], [0.25, 0.25])


def test_the_tables_show_medians_ranges_and_ratios():
    figures = KNOWN | {"title": "a title"} | step_figures(KNOWN, seen(), slice(1, None))
    lines = step_table(figures).splitlines()
    assert "- decoding 5 (5 to 5) tokens/s, 100.0% of the floor (5 tokens/s at 0 GB/s measured)" in lines
    assert "| rest | 0.50 (0.50 to 0.50) | – | – | – | – |" in lines
    peer = figures | {"name": "a peer", "episodes_per_second": [0.2], "cpu_seconds": [16.5]}
    told = peer_table([figures, figures], [peer, peer]).splitlines()
    assert told[-1] == (
        "Ratio of episodes/s: 2.50 (2.50 to 2.50); of episodes a CPU second: 3.00 (3.00 to 3.00)."
    )
    runs = [decode_figures(KNOWN, "even", [(10, 4), (6, 2)], [9.0, 2.0, 3.0], (None, None))]
    assert decode_table(runs).splitlines()[-1] == (
        "| even | 2 | 6 | 9.00 | 2.500 (2.000 to 3.000) | 2 (2 to 3) | 46.3% | 100.0% | – | – |"
    )
    assert (spread([2.0]), spread([1.0, 3.0, 2.0], 0)) == ("2.00", "2 (1 to 3)")


def run(tmp_path, *options, launcher=()):
    file = tmp_path / "result.json"
    small = ["--shape=tiny", "--episodes=8", "--batch=2", "--rollout-batch=4", "--epochs=1", "--steps=1"]
    given = [*small, "--prompt-tokens=8", "--response-tokens=6", f"--folder={tmp_path}", f"--json={file}"]
    ended = subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), *given, *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(file.read_text()), ended.stdout


def test_a_run_of_steps_measures_every_phase(tmp_path):
    figures, told = run(tmp_path)
    assert set(figures["phases"]) == {"generate", "score", "update", "rest"}
    assert figures["optimizer_steps"] == 4
    assert figures["size"]["head"] == 512 * 32
    whole = sum(phase["seconds"][0] for phase in figures["phases"].values())
    assert whole == pytest.approx(figures["step_seconds"][0])
    assert {len(prompt) for prompt in figures["work"]["prompts"]} == {4, 8}
    assert "| update |" in told


@pytest.mark.distributed
def test_two_processes_train_together(tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    figures, told = run(tmp_path, launcher=launcher)
    assert told.count("runs as: 2 process(es), ActorCritic, cpu") == 2
    assert told.count("| update |") == 1
    assert figures["optimizer_steps"] == 4
    assert len(figures["work"]["prompts"]) == 16  # of both processes, in two steps


@pytest.mark.slow
def test_the_engine_alone_ends_responses_where_the_noise_says(tmp_path):
    options = ["--decode-only", "--lengths=geometric", "--min=2", "--max=12", "--prompts=10"]
    figures, told = run(tmp_path, *options, "--rows-per-call=4")
    equal, spread_out = figures["runs"]
    assert spread_out["num_tokens"] == sum(geometric_lengths(10, 2, 12))
    assert equal["num_tokens"] == 10 * round(spread_out["num_tokens"] / 10)
    assert "| geometric, 2 to 12 | 10 |" in told
