"""Lines of the PPO details that only whole stages show: what is saved, and what adapters share."""

import json

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from stage_runs import context_of, run_stage_here, tiny

from rlhf.errors import RecipeError
from rlhf.models.forward import score_token_lists
from rlhf.models.load import ModelSource, load_causal_lm, load_reward_model, scratch_causal_lm
from rlhf.models.tokenizer import train_tokenizer
from rlhf.recipe import load_recipe
from rlhf.recipe.model import ScratchModel
from rlhf.recipe.ppo import PPOSection
from rlhf.stages.context import weights_digest

STAGES = ("sft", "reward", "ppo")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """All weights trained; two processes are not needed to see what is saved."""
    recipe = tiny(tmp_path_factory.mktemp("full"), {"ppo": {"learning_rate": 0.01}})
    made = {}
    for stage in STAGES:
        made[stage] = run_stage_here(recipe, stage, made)
    return recipe, made


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """LoRA with dropout on one base folder."""
    folder = tmp_path_factory.mktemp("adapters")
    base = folder / "base"
    spec = ScratchModel(vocab_size=300, hidden_size=32, num_layers=2, num_heads=2, max_positions=64)
    scratch_causal_lm(spec, eos_token_id=1, pad_token_id=0, seed=1).save_pretrained(base)
    train_tokenizer(["The cat is good. The dog is bad."] * 3, 300).save_pretrained(base)
    lora = {"r": 4, "alpha": 8, "dropout": 0.1}
    recipe = tiny(
        folder,
        {"model": {"scratch": None, "path": str(base), "lora": lora}, "ppo": {"learning_rate": 0.01}},
    )
    made = {}
    for stage in STAGES:
        made[stage] = run_stage_here(recipe, stage, made)
    return recipe, base, made


def test_line_07_there_is_no_packing_that_could_leak(full, tmp_path):
    """Rows are padded, never packed: a recipe that asks for packing is refused, not silently given something else."""
    recipe, _ = full
    sections = recipe.model_dump(mode="json")
    sections["sft"]["packing"] = True
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps(sections), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"sft\.packing: unknown key"):
        load_recipe(path, [])


def test_line_27_the_critic_is_saved_and_is_the_trained_one(full):
    _, made = full
    critic = load_file(made["ppo"].path / "critic" / "model.safetensors")
    reward = load_file(made["reward"].path / "model.safetensors")
    assert critic.keys() == reward.keys()
    assert all(value.numel() > 0 for value in critic.values())
    assert not critic["score.weight"].equal(reward["score.weight"]), "it was trained"
    # two steps of two updates at 0.01 or less from the reward model, where it started
    far = max(float((critic[name] - reward[name]).abs().max()) for name in critic)
    assert 0 < far <= 0.05
    for stage in STAGES:
        for path in made[stage].path.rglob("*.safetensors"):
            assert all(value.numel() > 0 for value in load_file(path).values()), path


def test_line_21_the_critic_starts_as_the_reward_model(full, tmp_path):
    recipe, made = full
    ppo = recipe.ppo.model_copy(update={"vf_coef": 0.0, "num_steps": 1, "critic_warmup_steps": 0})
    still = recipe.model_copy(update={"ppo": ppo, "name": "still"})
    artefact = run_stage_here(still, "ppo", made)
    critic = load_file(artefact.path / "critic" / "model.safetensors")
    reward = load_file(made["reward"].path / "model.safetensors")
    assert all(critic[name].equal(value) for name, value in reward.items())


@torch.no_grad()
def test_line_28_all_adapters_share_one_untouched_base(adapters):
    recipe, base, made = adapters
    digest = weights_digest(base)
    assert {made[stage].manifest.base.digest for stage in STAGES} == {digest}
    reference = load_causal_lm(ModelSource(str(made["sft"].path)), trainable=False).eval()
    policy = load_causal_lm(ModelSource(str(made["ppo"].path)), trainable=False).eval()
    plain = load_causal_lm(ModelSource(str(base)), trainable=False).eval()
    ids = torch.tensor([[7, 30, 12, 299, 5]])
    with policy.disable_adapter():
        assert policy(input_ids=ids).logits.equal(plain(input_ids=ids).logits), "adapter off is the base"
    assert not policy(input_ids=ids).logits.equal(reference(input_ids=ids).logits), "PPO moved the policy"
    context = context_of(recipe, "ppo", made)
    again = load_causal_lm(context.source(context.inputs.policy), lora=recipe.model.lora, seed=9).eval()
    assert again(input_ids=ids).logits.equal(reference(input_ids=ids).logits), "PPO starts as its reference"


def test_line_28_the_reward_adapter_scores_as_published(adapters):
    _, _, made = adapters
    probe = made["reward"].manifest.probe
    model = load_reward_model(ModelSource(str(made["reward"].path)))
    assert score_token_lists(model, probe.token_ids, batch_size=3) == pytest.approx(probe.scores, abs=1e-5)


@pytest.fixture(scope="module")
def adaptive(full, tmp_path_factory):
    """Four steps under the adaptive controller, from the same SFT and reward models."""
    recipe, made = full
    ppo = recipe.ppo.model_dump(mode="json") | {
        "num_steps": 4,
        "learning_rate": 0.02,
        "kl": {"coef": 0.1, "target": 0.5, "horizon": 40},
        "save_every_steps": 3,
    }
    run = recipe.model_copy(update={"ppo": PPOSection.model_validate(ppo), "name": "adaptive"})
    run_stage_here(run, "ppo", made)
    return context_of(run, "ppo", made).folder


def test_line_16_the_controller_is_fed_the_kl_of_whole_responses(adaptive):
    """Coefficients in the log follow eq. 2.2 from the KL that the recorded log-probabilities add up to."""
    lines = [json.loads(line) for line in (adaptive / "metrics.jsonl").read_text("utf-8").splitlines()]
    logged = {line["step"]: line["objective/kl_coef"] for line in lines if "objective/kl_coef" in line}
    expected, kls = 0.1, []
    for step in range(1, 5):
        assert logged[step] == pytest.approx(expected, rel=1e-9)
        rows = pq.read_table(adaptive / "rollouts" / f"step-{step}-rank-0.parquet").to_pylist()
        sums = [sum(row["logprobs"]) - sum(row["ref_logprobs"]) for row in rows]
        kls.append(sum(sums) / len(sums))
        error = min(max(kls[-1] / 0.5 - 1, -0.2), 0.2)
        expected *= 1 + error * len(rows) / 40
    assert len({round(kl, 3) for kl in kls}) == 4, "the KL moved, else this shows nothing"


def test_line_24_adamw_has_the_reference_epsilon_and_the_rate_of_its_step(adaptive):
    state = torch.load(adaptive / "checkpoints" / "step-3" / "optimizer.bin", weights_only=True)
    groups = state["param_groups"]
    assert [group["role"] for group in groups] == ["policy", "critic"]
    for group in groups:
        assert group["eps"] == 1e-5
        # no warm-up, linear to 0 over 4 steps: the third step has half the peak
        assert group["lr"] == pytest.approx(0.02 * (1 - 2 / 4))
    # three steps of two minibatches and one epoch
    assert {float(each["step"]) for each in state["state"].values()} == {6.0}
