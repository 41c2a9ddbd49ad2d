"""The three stages on the tiny recipe in this process: probes, rollouts as records, what PPO refuses."""

import json
import math

import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from stage_runs import context_of, run_stage_here, tiny

from rlhf.data import check, scan
from rlhf.errors import ModelError
from rlhf.models.load import ModelSource, load_reward_model
from rlhf.ppo.micro_batches import MicroBatches
from rlhf.recipe import DataSource
from rlhf.stages.context import check_probe
from rlhf.stages.reward_sources import build_rewards

KL_COEF = 0.3


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Recipe and artefacts; PPO with enough steps that the policy has left the reference."""
    folder = tmp_path_factory.mktemp("tiny")
    ppo = {
        "kl": {"coef": KL_COEF},
        "num_steps": 3,
        "learning_rate": 0.01,
        "shaping": {
            "clip": 1.0,
            "normalize": "reference",
            "missing_eos": "subtract",
            "missing_eos_penalty": 0.5,
        },
    }
    recipe = tiny(folder, {"ppo": ppo})
    made = {}
    for stage in ("sft", "reward", "ppo"):
        made[stage] = run_stage_here(recipe, stage, made)
    return recipe, made


def rollouts_of(recipe):
    return context_of(recipe, "ppo", {}).folder / "rollouts"


def test_line_26_the_probe_proves_the_loaded_head(trained):
    _, made = trained
    manifest = made["reward"].manifest
    model = load_reward_model(ModelSource(str(made["reward"].path)))
    check_probe(model, manifest.probe, "tiny-reward@1")
    torch.manual_seed(1)
    torch.nn.init.normal_(model.score.weight, std=0.18)
    with pytest.raises(ModelError, match="not the one that was published"):
        check_probe(model, manifest.probe, "tiny-reward@1")


def test_reference_statistics_are_in_the_manifest(trained):
    _, made = trained
    stats = made["reward"].manifest.reward_stats
    assert stats.num_samples == 16
    assert stats.std > 0


def test_lineage_names_both_parents(trained):
    _, made = trained
    parents = {parent.role: parent.reference for parent in made["ppo"].manifest.parents}
    assert parents == {"policy": made["sft"].reference, "reward_model": made["reward"].reference}


def test_rollouts_are_valid_records_that_datasets_loads(trained):
    recipe, made = trained
    files = sorted(rollouts_of(recipe).glob("*.parquet"))
    assert [file.name for file in files] == [f"step-{n}-rank-0.parquet" for n in (1, 2, 3)]
    for file in files:
        report = check(DataSource(path=str(file)), "rollout", checks=None)
        assert (report.num_rows, report.num_faults) == (8, 0), report.as_text()
    table = load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    assert len(table) == 24
    assert set(table["policy"]) == {made["sft"].reference}
    assert set(table["reward_model"]) == {made["reward"].reference}


def test_rewards_add_up_to_the_shaped_score_minus_the_kl(trained):
    recipe, made = trained
    stats = made["reward"].manifest.reward_stats
    far = 0.0
    for file in rollouts_of(recipe).glob("*.parquet"):
        for row in pq.read_table(file).to_pylist():
            kl = sum(p - q for p, q in zip(row["logprobs"], row["ref_logprobs"], strict=True))
            far = max(far, abs(kl))
            assert sum(row["rewards"]) == pytest.approx(row["shaped_score"] - KL_COEF * kl, abs=1e-4)
            clipped = min(max(row["score"], -1.0), 1.0)
            missing = 0.5 if row["finish_reason"] == "length" else 0.0
            assert row["shaped_score"] == pytest.approx(
                (clipped - stats.mean) / stats.std - missing, abs=1e-4
            )
            assert row["kl_coef"] == KL_COEF
            assert json.loads(row["scores"]) == {"reward_model": row["score"]}
            ended = row["response_ids"][-1] == 1
            assert ended == (row["finish_reason"] == "eos")
            assert 1 not in row["response_ids"][:-1]
    assert far > 0.01, "the policy never left the reference: the test could not fail"


def test_line_19_advantages_are_stored_unwhitened(trained):
    """Each row's from its own rewards and values, backwards with lambda 0.95; returns are advantage plus value."""
    recipe, _ = trained
    pooled = []
    for located in scan(DataSource(path=str(rollouts_of(recipe) / "step-2-rank-0.parquet")), "rollout"):
        row = located.record
        advantage, following = 0.0, 0.0
        for t in reversed(range(len(row.response_ids))):
            advantage = row.rewards[t] + following - row.values[t] + 0.95 * advantage
            following = row.values[t]
            assert row.advantages[t] == pytest.approx(advantage, abs=1e-4)
            assert row.returns[t] == pytest.approx(advantage + row.values[t], abs=1e-4)
            pooled.append(advantage)
    mean = sum(pooled) / len(pooled)
    variance = sum((x - mean) ** 2 for x in pooled) / len(pooled)
    assert abs(mean) > 0.05 or abs(math.sqrt(variance) - 1) > 0.05


@pytest.mark.parametrize("other", ["tokenizer", "chat template"])
def test_line_08_a_reward_model_with_other_tokens_is_given_text_and_is_not_the_critics_start(
    trained, capsys, other
):
    recipe, made = trained
    context = context_of(recipe, "ppo", made)
    tokenizer = context.tokenizer(context.inputs.policy)
    device, micro_batches = torch.device("cpu"), MicroBatches(recipe.ppo)
    same = build_rewards(context, tokenizer, device, micro_batches)
    assert same.critic_from == context.inputs.reward_model
    assert "scores text" not in capsys.readouterr().out
    if other == "tokenizer":
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    else:
        tokenizer.chat_template = tokenizer.chat_template + " "
    assert build_rewards(context, tokenizer, device, micro_batches).critic_from is None
    assert "scores text" in capsys.readouterr().out
