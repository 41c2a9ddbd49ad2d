"""PPO with a shared backbone: two processes under DDP end where one process with separate models does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from stage_runs import context_of, run_stage_here, tiny
from tiny import environment

from rlhf.models.load import scratch_causal_lm
from rlhf.models.tokenizer import train_tokenizer
from rlhf.recipe.launch import LaunchSection
from rlhf.recipe.model import ScratchModel
from rlhf.stages.inputs import INPUTS_FILE, RECIPE_FILE

pytestmark = pytest.mark.distributed

RANK = Path(__file__).parent / "stage_rank.py"
PPO = {"per_device_batch_size": 2, "learning_rate": 0.01, "gradient_checkpointing": True}
TIMES = {
    "time",
    "eps",
    "time/rollout_seconds",
    "time/generate_seconds",
    "time/score_seconds",
    "time/update_seconds",
}


def by_torchrun(recipe, made):
    """Run the PPO stage on two processes; its folder."""
    context = context_of(recipe, "ppo", made)
    (context.run_folder / RECIPE_FILE).write_text(recipe.model_dump_json(), encoding="utf-8")
    (context.folder / INPUTS_FILE).write_text(context.inputs.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(RANK), str(context.run_folder), "ppo"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("backbone: shared: 4 models") == 2, "each process says what it holds"
    return context.folder


def lines(folder):
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in read]


def test_line_25_two_processes_share_as_one_process_with_separate_models_does(tmp_path):
    base = tmp_path / "base"
    spec = ScratchModel(vocab_size=300, hidden_size=32, num_layers=2, num_heads=2, max_positions=64)
    scratch_causal_lm(spec, eos_token_id=1, pad_token_id=0, seed=1).save_pretrained(base)
    train_tokenizer(["The cat is good. The dog is bad."] * 3, 300).save_pretrained(base)
    model = {"scratch": None, "path": str(base), "lora": {"r": 4, "alpha": 8}}
    training = {"per_device_batch_size": 4}  # so that the recipe holds for two processes too
    recipe, made = tiny(tmp_path, {"model": model, "sft": training, "reward": training, "ppo": PPO}), {}
    for stage in ("sft", "reward", "ppo"):
        made[stage] = run_stage_here(recipe, stage, made)
    section = recipe.ppo.model_copy(update={"backbone": "shared", "publish_as": "two"})
    launch = LaunchSection(num_processes=2)
    two = recipe.model_copy(update={"name": "two", "ppo": section, "launch": launch})
    folder = by_torchrun(two, made)
    for rank in (0, 1):
        noted = json.loads((folder / f"rank-{rank}.json").read_text(encoding="utf-8"))
        assert (noted["processes"], noted["wrapper"]) == (2, "ActorCritic")
    for first, second in zip(lines(context_of(recipe, "ppo", made).folder), lines(folder), strict=True):
        assert second == pytest.approx(first, abs=1e-4)
    one, other = made["ppo"].path, recipe.workspace + "/registry/two/1"
    start = load_file(made["sft"].path / "adapter_model.safetensors")
    for part in ("", "critic"):
        a, b = (load_file(Path(root, part, "adapter_model.safetensors")) for root in (one, other))
        assert a.keys() == b.keys()
        assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-4
        assert max(float((a[name] - start[name]).abs().max()) for name in start) > 1e-3
