"""One process equals two: the same recipe in this process, and through `rlhf run` under torchrun with gloo on the CPU."""

import json

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from stage_runs import run_stage_here, tiny
from tiny import TinyRecipe, write_tiny_recipe

pytestmark = pytest.mark.distributed

CHANGES = {
    "sft": {"per_device_batch_size": 4, "select_best": False},
    "reward": {"per_device_batch_size": 4, "select_best": False},
    # what talks between processes, or takes a share of something, is switched on
    "ppo": {
        "num_steps": 2,
        "per_device_batch_size": 4,
        "learning_rate": 0.003,
        "eval_every_steps": 1,
        "clip_gradients": "per_role",
        "entropy_coef": 0.01,
        "ptx_coef": 0.5,
        "ptx_batch_size": 6,
        "target_kl": 5.0,
        "ema_decay": 0.5,
        "bootstrap_truncated": True,
        "sampling": {"max_new_tokens": 12, "top_p": 0.9, "samples_per_prompt": 2, "stop": ["good"]},
        "shaping": {"normalize": "running", "missing_eos": "subtract"},
        "evaluation": {"samples_per_prompt": 2, "best_of_n": 3},
    },
}
TIMES = {
    "time",
    "eps",
    "time/rollout_seconds",
    "time/generate_seconds",
    "time/score_seconds",
    "time/update_seconds",
}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """All three stages in this process."""
    folder = tmp_path_factory.mktemp("one")
    recipe = tiny(folder, CHANGES)
    made = {}
    for stage in ("sft", "reward", "ppo"):
        made[stage] = run_stage_here(recipe, stage, made)
    return TinyRecipe(folder / "recipe.yaml")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """SFT and the reward model, two processes each."""
    recipe = write_tiny_recipe(tmp_path_factory.mktemp("two"), CHANGES)
    sections = recipe.sections()
    del sections["ppo"], sections["data"]["prompts"]
    recipe.write(sections)
    code, output = recipe.call("run", str(recipe.path), "--set", "launch.num_processes=2")
    assert code == 0, output
    return recipe


@pytest.fixture(scope="module")
def two_from_one(one, tmp_path_factory):
    """PPO alone by two processes, from the SFT and reward models that one process made."""
    recipe = write_tiny_recipe(tmp_path_factory.mktemp("ppo"), CHANGES)
    sections = recipe.sections()
    del sections["sft"], sections["reward"], sections["data"]["preference"]
    references = {name: f"registry:tiny-{name}@1" for name in ("sft", "reward")}
    sections["model"] = references["sft"]
    sections["ppo"]["reward_model"] = references["reward"]
    recipe.write(sections)
    registry = recipe.workspace / "registry"
    registry.parent.mkdir()
    registry.symlink_to(one.workspace / "registry")
    arguments = ["--set", "launch.num_processes=2", "--set", "ppo.publish_as=two-ppo"]
    code, output = recipe.call("run", str(recipe.path), *arguments)
    assert code == 0, output
    return recipe


def artefact(recipe, name):
    return recipe.workspace / "registry" / name / "1"


def rollouts(recipe):
    """(step, prompt, sample) -> row, and the files' names."""
    files = sorted((recipe.run / "ppo" / "rollouts").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    keyed = {(row["step"], row["prompt_id"], row["sample_index"]): row for row in rows}
    assert len(keyed) == len(rows)
    return keyed, [file.name for file in files]


def lines(recipe, stage):
    path = recipe.run / stage / "metrics.jsonl"
    read = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in read]


def assert_close(first, second, limit):
    a, b = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert a.keys() == b.keys()
    worst = max(float((a[name] - b[name]).abs().max()) for name in a)
    assert worst < limit, worst


def test_two_processes_really_ran(one, two_from_one):
    assert rollouts(one)[1] == ["step-1-rank-0.parquet", "step-2-rank-0.parquet"]
    assert rollouts(two_from_one)[1] == [f"step-{s}-rank-{r}.parquet" for s in (1, 2) for r in (0, 1)]
    for file in (two_from_one.run / "ppo" / "rollouts").glob("*.parquet"):
        assert pq.read_metadata(file).num_rows == 4


def test_ppo_samples_the_same_tokens_and_says_the_same_of_them(one, two_from_one):
    first, second = rollouts(one)[0], rollouts(two_from_one)[0]
    assert first.keys() == second.keys()
    assert len(first) == 16
    for key, row in first.items():
        assert second[key]["response_ids"] == row["response_ids"], key
        for name in ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns"):
            assert second[key][name] == pytest.approx(row[name], abs=1e-4), (key, name)
        assert second[key]["score"] == pytest.approx(row["score"], abs=1e-4)


def test_line_25_ppo_measures_the_same(one, two_from_one):
    first, second = lines(one, "ppo"), lines(two_from_one, "ppo")
    assert [line["step"] for line in first] == [0, 1, 1, 2, 2]
    for a, b in zip(first, second, strict=True):
        assert b == pytest.approx(a, abs=1e-4)
    norms = [line["policy/grad_norm"] for line in first if "policy/grad_norm" in line]
    assert min(norms) > 0.01


def test_line_20_ppo_ends_with_the_same_weights(one, two_from_one):
    first, second = artefact(one, "tiny-ppo"), artefact(two_from_one, "two-ppo")
    assert_close(first, second, 1e-4)
    assert_close(first / "critic", second / "critic", 1e-4)
    moved = load_file(artefact(one, "tiny-sft") / "model.safetensors")
    trained = load_file(first / "model.safetensors")
    assert max(float((moved[name] - trained[name]).abs().max()) for name in moved) > 1e-3


def test_sft_and_reward_publish_on_two_processes(two):
    for name in ("tiny-sft", "tiny-reward"):
        assert (artefact(two, name) / "manifest.json").is_file()
    log = (two.run / "sft" / "log.txt").read_text(encoding="utf-8")
    assert log.count("train: 24 rows") == 2, "each process says what it read"


def test_sft_and_reward_end_with_the_same_weights(one, two):
    """The batches are the same ones, dealt over two processes: the sums differ by rounding alone."""
    for name in ("tiny-sft", "tiny-reward"):
        assert_close(artefact(one, name), artefact(two, name), 2e-3)
    for stage in ("sft", "reward"):
        first, second = (
            [line["eval_loss"] for line in lines(recipe, stage) if "eval_loss" in line]
            for recipe in (one, two)
        )
        assert second == pytest.approx(first, abs=2e-3), stage
