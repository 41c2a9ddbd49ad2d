"""PPO with its actor-critic shared out (FSDP2 on two processes, ZeRO on one) does what one whole process does.

With two CPU processes Accelerate counts one under DeepSpeed, so ZeRO on several belongs on GPUs.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from stage_runs import context_of, run_stage_here, tiny
from tiny import environment

from rlhf.models.load import ModelSource, load_causal_lm, load_reward_model, scratch_causal_lm
from rlhf.models.tokenizer import train_tokenizer
from rlhf.pipeline.strategy import strategy_environment
from rlhf.recipe.launch import LaunchSection
from rlhf.recipe.model import ScratchModel
from rlhf.stages.inputs import INPUTS_FILE, RECIPE_FILE

pytestmark = pytest.mark.distributed

HERE = Path(__file__).parent
STRATEGIES = {"fsdp2": 2, "zero3": 1, "zero2": 1, "zero1": 1}
"""Strategy -> processes."""
TIMES = {
    "time",
    "eps",
    "time/rollout_seconds",
    "time/generate_seconds",
    "time/score_seconds",
    "time/update_seconds",
}


def torchrun(script, folder, strategy, processes, config, *stages, timeout=400):
    """Run a rank script under a strategy; DeepSpeed is to cut up even the smallest weights."""
    variables = strategy_environment(LaunchSection(strategy=strategy))
    if strategy == "zero3":
        zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
        sizes = {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto"}
        config.write_text(json.dumps({"zero_optimization": zero, **sizes}), encoding="utf-8")
        variables["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(config)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(launcher if strategy != "ddp" or processes > 1 else [])]
    done = subprocess.run(
        [*command, str(HERE / script), str(folder), *stages],
        env=environment() | variables,
        capture_output=True,
        text=True,
        timeout=timeout,  # DeepSpeed compiles an operator when it first runs on a machine
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def notes(folder, processes):
    read = [
        json.loads((folder / f"rank-{rank}.json").read_text(encoding="utf-8")) for rank in range(processes)
    ]
    assert len(list(folder.glob("rank-*.json"))) == processes
    return read


def change(after, before):
    """All weights' change as one vector, float64."""
    assert after.keys() == before.keys()
    return torch.cat([(after[name].double() - before[name].double()).flatten() for name in sorted(after)])


@pytest.fixture(scope="module")
def whole_step(tmp_path_factory):
    """One process, nothing shared out: its note, and the weights' change."""
    folder = tmp_path_factory.mktemp("whole")
    torchrun("sharded_step.py", folder, "ddp", 1, folder / "none.json")
    return notes(folder, 1)[0], load_file(folder / "after.safetensors")


@pytest.fixture(scope="module")
def start():
    """The weights before the step."""
    from sharded_step import models

    return {name: value.clone() for name, value in models().state_dict().items()}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_step_on_ragged_lengths_equals_that_of_one_whole_process(strategy, whole_step, start, tmp_path):
    processes = STRATEGIES[strategy]
    torchrun("sharded_step.py", tmp_path, strategy, processes, tmp_path / "deepspeed.json")
    expected, expected_after = whole_step
    assert (expected["processes"], expected["wrapper"]) == (1, "ActorCritic")
    num_weights = sum(value.numel() for name, value in start.items() if name != "policy.lm_head.weight")
    assert expected["held"] == num_weights, "the policy's output embedding is its input embedding"
    held = [note["held"] for note in notes(tmp_path, processes)]
    # ZeRO-3's pieces lie elsewhere between uses; FSDP2's halves differ by what is not even
    assert sum(held) == (0 if strategy == "zero3" else num_weights)
    assert strategy != "fsdp2" or max(held) < 0.51 * num_weights
    for rank, note in enumerate(notes(tmp_path, processes)):
        assert note["processes"] == processes
        assert note["wrapper"] == ("FSDPActorCritic" if strategy == "fsdp2" else "DeepSpeedEngine")
        assert note["layers"] == ["FSDPLlamaDecoderLayer" if strategy == "fsdp2" else "LlamaDecoderLayer"], (
            "each layer is gathered by itself"
        )
        greedy = note["before"]["hf"]["greedy"]
        assert len(greedy) == 3 + 9 * rank
        assert greedy[:3] == expected["before"]["hf"]["greedy"]
        assert note["before"] != note["after"]
        for when in ("before", "after"):
            by_hf, by_graph = note[when]["hf"], note[when]["graph"]
            assert by_graph["greedy"] == by_hf["greedy"]
            assert by_graph["logprobs"] == pytest.approx(by_hf["logprobs"], abs=1e-5)
        assert note["norm"] == pytest.approx(expected["norm"], rel=1e-5)
    wanted = change(expected_after, start)
    found = change(load_file(tmp_path / "after.safetensors"), start)
    assert float(wanted.norm()) > 0.1
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5


def test_where_one_process_runs_out_of_memory_both_pass_anew_and_none_waits(start, tmp_path, monkeypatch):
    cases = {"nobody": 0, "1 forward": 1, "0 backward": 1}
    for fails, times in cases.items():
        folder = tmp_path / fails
        folder.mkdir()
        monkeypatch.setenv("OUT_OF_MEMORY", fails)
        said = torchrun("sharded_step.py", folder, "ddp", 2, tmp_path / "none.json", timeout=120)
        assert said.count("out of memory") == times
        ran_as = [(note["processes"], note["wrapper"]) for note in notes(folder, 2)]
        assert ran_as == [(2, "ActorCritic")] * 2
    wanted, *found = (change(load_file(tmp_path / fails / "after.safetensors"), start) for fails in cases)
    assert all(float((each - wanted).norm() / wanted.norm()) < 1e-5 for each in found)


def test_a_minibatch_that_the_device_leaves_out_is_left_out_on_both(start, tmp_path, monkeypatch):
    moved = []
    for bound, processes, updates in ((1e-9, 1, 1), (1e-9, 2, 1), (1e9, 2, 3)):
        folder = tmp_path / f"{bound}-{processes}"
        folder.mkdir()
        monkeypatch.setenv("TARGET_KL", str(bound))
        torchrun("sharded_step.py", folder, "ddp", processes, tmp_path / "none.json", timeout=120)
        for note in notes(folder, processes):
            assert (note["processes"], note["on_device"], note["updates"]) == (processes, True, updates)
        moved.append(change(load_file(folder / "after.safetensors"), start))
    assert float((moved[0] - moved[1]).norm() / moved[0].norm()) < 1e-5
    assert float((moved[2] - moved[1]).norm() / moved[1].norm()) > 0.1


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Three stages by one whole process, with full weights and with LoRA: the recipe and the artefacts."""
    made = {}
    for kind in ("full", "lora"):
        folder = tmp_path_factory.mktemp(kind)
        changes = {
            **{stage: {"per_device_batch_size": 4} for stage in ("sft", "reward")},
            "ppo": {"per_device_batch_size": 2, "learning_rate": 0.003, "gradient_checkpointing": True},
        }
        if kind == "lora":
            base = folder / "base"
            spec = ScratchModel(vocab_size=300, hidden_size=32, num_layers=2, num_heads=2, max_positions=64)
            scratch_causal_lm(spec, eos_token_id=1, pad_token_id=0, seed=1).save_pretrained(base)
            train_tokenizer(["The cat is good. The dog is bad."] * 3, 300).save_pretrained(base)
            changes["model"] = {"scratch": None, "path": str(base), "lora": {"r": 4, "alpha": 8}}
        recipe, artefacts = tiny(folder, changes), {}
        for stage in ("sft", "reward", "ppo"):
            artefacts[stage] = run_stage_here(recipe, stage, artefacts)
        made[kind] = recipe, artefacts
    return made


def weights(folder):
    return load_file(next(folder.glob("*model.safetensors")))


def lines(folder):
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in read]


@pytest.mark.parametrize(
    ("strategy", "kind", "resume_with"),
    [
        ("fsdp2", "full", 1),
        ("fsdp2", "lora", 2),
        *((strategy, kind, 1) for strategy in ("zero3", "zero2") for kind in ("full", "lora")),
    ],
)
def test_a_stage_ends_where_a_whole_process_does_and_goes_on_from_a_checkpoint_as_if_never_stopped(
    strategy, kind, resume_with, stages, tmp_path
):
    recipe, made = stages[kind]
    name = f"{strategy}-{kind}"
    section = recipe.ppo.model_copy(update={"publish_as": name})
    recipe_here = recipe.model_copy(update={"name": name, "ppo": section})
    context = context_of(recipe_here, "ppo", made)
    (context.folder / INPUTS_FILE).write_text(context.inputs.model_dump_json(), encoding="utf-8")
    processes = STRATEGIES[strategy]

    def run(num):
        """On that many processes; they go on from step..."""
        launch = LaunchSection(strategy=strategy, num_processes=num)
        written = recipe_here.model_copy(update={"launch": launch}).model_dump_json()
        (context.run_folder / RECIPE_FILE).write_text(written, encoding="utf-8")
        torchrun("stage_rank.py", context.run_folder, strategy, num, tmp_path / "deepspeed.json", "ppo")
        read = notes(context.folder, processes)[:num]
        wrapper = "FSDPModule" if strategy == "fsdp2" else "DeepSpeedEngine"
        assert [(note["processes"], note["wrapper"]) for note in read] == [(num, wrapper)] * num
        assert read[0]["reuse_distance"] == (None if strategy == "fsdp2" else 0)
        return read[0]["resumed_from"]

    assert run(processes) == 0
    uninterrupted = lines(context.folder)
    expected = lines(context_of(recipe, "ppo", made).folder)
    for first, second in zip(expected, uninterrupted, strict=True):
        assert second == pytest.approx(first, abs=1e-4)
    registry = Path(recipe.workspace) / "registry" / name
    for part, before in (("", made["sft"].path), ("critic", made["reward"].path)):
        one, here = weights(made["ppo"].path / part), weights(registry / "1" / part)
        wanted = change(one, weights(before))
        assert float((change(here, weights(before)) - wanted).norm() / wanted.norm()) < 1e-4
    policy = load_causal_lm(ModelSource(str(registry / "1")))
    critic = load_reward_model(ModelSource(str(registry / "1" / "critic")))
    assert all(p.numel() and p.device.type == "cpu" for m in (policy, critic) for p in m.parameters())
    shutil.rmtree(context.folder / "checkpoints" / "step-2")
    marker = context.folder / "checkpoints" / "step-1" / "COMPLETE.json"
    written = marker.read_bytes()
    assert run(resume_with) == 1
    assert marker.read_bytes() == written, "the first step was not done again"
    same = resume_with == processes
    for first, second in zip(uninterrupted, lines(context.folder), strict=True):
        assert second == (first if same else pytest.approx(first, rel=1e-4, abs=1e-5))
    for part, before in (("", made["sft"].path), ("critic", made["reward"].path)):
        whole, resumed = (weights(registry / version / part) for version in ("1", "2"))
        wanted = change(whole, weights(before))
        apart = float((change(resumed, weights(before)) - wanted).norm() / wanted.norm())
        assert apart <= (0 if same else 1e-5)


def test_the_strategies_of_these_tests_are_those_that_the_recipe_knows():
    assert {"ddp", *STRATEGIES} == set(LaunchSection.model_fields["strategy"].annotation.__args__)
