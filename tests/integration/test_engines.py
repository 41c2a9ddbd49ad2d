"""The same run with either rollout engine, whole and under adapters: in float32 the same answers, and so the same weights."""

import shutil

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from stage_runs import context_of, run_stage_here, tiny

from rlhf.models.load import scratch_causal_lm
from rlhf.models.tokenizer import train_tokenizer
from rlhf.recipe import Recipe
from rlhf.recipe.model import ScratchModel

SPEC = ScratchModel(vocab_size=300, hidden_size=32, num_layers=1, num_heads=2, max_positions=64)
SEEN = ("prompt_id", "sample_index", "response_ids", "finish_reason", "logprobs", "score", "advantages")


def with_engine(recipe: Recipe, engine: str, workspace) -> Recipe:
    plain = recipe.model_dump(mode="json") | {"workspace": str(workspace)}
    plain["ppo"]["sampling"]["engine"] = engine
    return Recipe.model_validate(plain)


def rollouts(recipe: Recipe, made) -> list[dict]:
    files = sorted((context_of(recipe, "ppo", made).folder / "rollouts").glob("step-*.parquet"))
    return [{name: row[name] for name in SEEN} for file in files for row in pq.read_table(file).to_pylist()]


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}], ids=["full", "lora"])
def test_graph_and_hf_make_the_same_run(tmp_path, lora):
    base = tmp_path / "base"
    scratch_causal_lm(SPEC, eos_token_id=1, pad_token_id=0, seed=1).save_pretrained(base)
    train_tokenizer(["The cat is good. The dog is bad."] * 3, 300).save_pretrained(base)
    recipe, made = tiny(tmp_path, {"model": {"scratch": None, "path": str(base), "lora": lora}}), {}
    for stage in ("sft", "reward"):
        made[stage] = run_stage_here(recipe, stage, made)
    shutil.copytree(recipe.workspace, tmp_path / "other")
    hf = with_engine(recipe, "hf", recipe.workspace)
    graph = with_engine(recipe, "graph", tmp_path / "other")
    first, second = (run_stage_here(each, "ppo", made) for each in (hf, graph))
    rows = rollouts(hf, made)
    assert lora or len({len(row["response_ids"]) for row in rows}) > 1
    assert rollouts(graph, made) == rows
    name = "model.safetensors" if lora is None else "adapter_model.safetensors"
    start, one, other = (load_file(each.path / name) for each in (made["sft"], first, second))
    assert any(not one[key].equal(start[key]) for key in one), "PPO moved the weights"
    assert all(one[key].equal(other[key]) for key in one)
