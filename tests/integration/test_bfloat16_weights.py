"""`ppo.dtype: bfloat16`: what is rounded and what is not, and that such a run stops, goes on and publishes like any other."""

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from stage_runs import run_stage_here, tiny

from rlhf.errors import UsageError
from rlhf.models.load import scratch_causal_lm
from rlhf.models.tokenizer import train_tokenizer
from rlhf.recipe import Recipe
from rlhf.recipe.launch import LaunchSection
from rlhf.recipe.model import ScratchModel
from rlhf.stages import ppo

SPEC = ScratchModel(vocab_size=300, hidden_size=32, num_layers=1, num_heads=2, max_positions=64)


@pytest.fixture(autouse=True)
def own_precision():
    """Accelerate keeps the first precision of a process for good."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def recipe_of(folder, lora=None, **section):
    base = folder / "base"
    if not base.exists():
        scratch_causal_lm(SPEC, eos_token_id=1, pad_token_id=0, seed=1).save_pretrained(base)
        train_tokenizer(["The cat is good. The dog is bad."] * 3, 300).save_pretrained(base)
    changes = {
        "model": {"scratch": None, "path": str(base), "lora": lora},
        "ppo": {"dtype": "bfloat16"} | section,
    }
    plain = tiny(folder, changes).model_dump(mode="json")
    return Recipe.model_validate(plain | {"launch": {"mixed_precision": "bf16"}})


LORA = {"r": 4, "alpha": 8}


@pytest.mark.parametrize(
    ("lora", "backbone"),
    [(None, "separate"), (LORA, "separate"), (LORA, "shared")],
    ids=["full", "lora", "shared"],
)
def test_weights_are_rounded_heads_and_adapters_are_not(tmp_path, lora, backbone, monkeypatch):
    recipe, made = recipe_of(tmp_path, lora, backbone=backbone, learning_rate=1e-2), {}
    for stage in ("sft", "reward"):
        made[stage] = run_stage_here(recipe, stage, made)
    models, real = [], ppo.build_models
    monkeypatch.setattr(ppo, "build_models", lambda *given: models.append(real(*given)) or models[-1])
    made["ppo"] = run_stage_here(recipe, "ppo", made)
    (parts,) = models
    critic = dict(parts.model.critic.named_parameters())
    held = {id(p) for p in parts.policy.parameters()} & {id(p) for p in critic.values()}
    assert bool(held) == (backbone == "shared")
    for name, parameter in [
        *parts.policy.named_parameters(),
        *critic.items(),
        *parts.reference.named_parameters(),
    ]:
        is_own = (
            "score" in name or "lora_" in name
        )  # the frozen reference's adapter too: it is what PPO starts from
        assert parameter.dtype == (torch.float32 if is_own else torch.bfloat16), name
    states = [state["exp_avg"].dtype for state in parts.optimizer.state.values()]
    assert set(states) == ({torch.float32} if lora else {torch.float32, torch.bfloat16})
    name = "model.safetensors" if lora is None else "adapter_model.safetensors"
    before, after = (load_file(made[stage].path / name) for stage in ("sft", "ppo"))
    assert any(not after[key].float().equal(before[key].bfloat16().float()) for key in after)


def test_a_device_without_bfloat16_products_is_refused(tmp_path):
    recipe, made = recipe_of(tmp_path), {}
    recipe = recipe.model_copy(update={"launch": LaunchSection()})
    for stage in ("sft", "reward"):
        made[stage] = run_stage_here(recipe, stage, made)
    with pytest.raises(UsageError, match="mixed_precision: bf16"):
        run_stage_here(recipe, "ppo", made)
