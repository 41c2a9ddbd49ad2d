"""`ppo.backbone: shared` changes what PPO holds in memory and nothing that it does, says or publishes."""

import re
import shutil
from dataclasses import replace

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from stage_runs import context_of, run_stage_here, tiny
from test_resume import assert_same_weights, metrics_of, stop_at
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf.errors import ModelError, UsageError
from rlhf.models.load import ModelSource, load_reward_model, scratch_causal_lm
from rlhf.models.tokenizer import train_tokenizer
from rlhf.ppo.micro_batches import MicroBatches
from rlhf.recipe.model import ScratchModel
from rlhf.recipe.rewards import RewardSource
from rlhf.stages.backbone import Backbone
from rlhf.stages.reward_sources import build_rewards

PPO = {"num_steps": 3, "eval_every_steps": 3, "learning_rate": 0.01, "clip_gradients": "per_role"}
PPO |= {"per_device_batch_size": 3, "ptx_coef": 0.5, "ptx_batch_size": 4, "ema_decay": 0.5}
PPO |= {"bootstrap_truncated": True}


def make_base(folder, seed):
    spec = ScratchModel(vocab_size=300, hidden_size=32, num_layers=2, num_heads=2, max_positions=64)
    scratch_causal_lm(spec, eos_token_id=1, pad_token_id=0, seed=seed).save_pretrained(folder)
    train_tokenizer(["The cat is good. The dog is bad."] * 3, 300).save_pretrained(folder)


def lora_recipe(folder, base, **ppo):
    model = {"scratch": None, "path": str(base), "lora": {"r": 4, "alpha": 8, "dropout": 0.1}}
    return tiny(folder, {"model": model, "ppo": PPO | ppo})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A recipe with separate models, and its three artefacts: SFT and reward adapters, and what PPO made of them."""
    folder = tmp_path_factory.mktemp("shared")
    make_base(folder / "base", 1)
    recipe, made = lora_recipe(folder, folder / "base"), {}
    for stage in ("sft", "reward", "ppo"):
        made[stage] = run_stage_here(recipe, stage, made)
    return recipe, made


@pytest.fixture
def anew(trained, tmp_path):
    """The same SFT and reward model in a workspace of its own, where PPO has not begun; some of its settings changed."""
    recipe, made = trained

    def prepared(**ppo):
        if not (tmp_path / "workspace").exists():
            shutil.copytree(recipe.workspace, tmp_path / "workspace")
        section = recipe.ppo.model_copy(update=ppo)
        here = recipe.model_copy(update={"workspace": str(tmp_path / "workspace"), "ppo": section})
        shutil.rmtree(context_of(here, "ppo", made).folder)
        shutil.rmtree(tmp_path / "workspace" / "registry" / recipe.artefact_name("ppo"))
        return here

    return prepared


def assert_same_run(trained, here, again):
    """Metrics of every step and both published adapters."""
    recipe, made = trained
    lines, ours = (metrics_of(r, "ppo", made) for r in (recipe, here))
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 3]
    assert len(ours) == len(lines)
    for line, mine in zip(lines, ours, strict=True):
        assert mine == pytest.approx(line, rel=1e-5)
    moved = load_file(made["sft"].path / "adapter_model.safetensors")
    for folder in ("", "critic"):
        one, other = (load_file(a.path / folder / "adapter_model.safetensors") for a in (made["ppo"], again))
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.allclose(value, other[name], rtol=1e-5, atol=1e-8), f"{folder} {name}"
        assert max(float((one[name] - moved[name]).abs().max()) for name in moved) > 0.005, "nothing moved"


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_whole_run_is_that_of_separate_models(trained, anew, tmp_path, capsys, checkpointing):
    made = trained[1]
    separate = trained
    if checkpointing:  # without it norms and rotations round otherwise on a CPU
        plain = anew(gradient_checkpointing=True)
        published = run_stage_here(plain, "ppo", made)
        kept = shutil.copytree(tmp_path / "workspace", tmp_path / "kept")
        moved = replace(published, path=kept / published.path.relative_to(tmp_path / "workspace"))
        separate = plain.model_copy(update={"workspace": str(kept)}), made | {"ppo": moved}
        capsys.readouterr()
    here = anew(backbone="shared", gradient_checkpointing=checkpointing)
    again = run_stage_here(here, "ppo", made)
    assert_same_run(separate, here, again)
    said = re.search(r"shared: 4 models hold ([\d.]+) MiB of weights, ([\d.]+) MiB", capsys.readouterr().out)
    assert said is not None
    assert float(said[1]) < 0.5 * float(said[2])


@pytest.mark.parametrize(("first", "then"), [("shared", "shared"), ("separate", "shared")])
def test_stopped_and_resumed_it_equals_the_uninterrupted_run(trained, anew, monkeypatch, first, then):
    """With the setting changed in between too: a run that does not fit goes on with a shared backbone."""
    made = trained[1]
    here = anew(backbone=first)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        assert run_stage_here(here, "ppo", made) is None
    newest = context_of(here, "ppo", made).checkpoints.newest()
    assert newest.step == 2
    held = load_file(newest.path / "model.safetensors")
    assert all("lora_" in name or "score.modules_to_save" in name for name in held)
    here = here.model_copy(update={"ppo": here.ppo.model_copy(update={"backbone": then})})
    assert_same_run(trained, here, run_stage_here(here, "ppo", made))


def test_offloading_changes_nothing_either(trained, anew):
    made = trained[1]
    again = run_stage_here(anew(offload_frozen=True), "ppo", made)
    assert again.manifest.inputs_digest == made["ppo"].manifest.inputs_digest
    assert_same_weights(made["ppo"], again)


def test_what_is_published_loads_with_transformers_and_peft_alone(trained, anew):
    recipe, made = trained
    published = run_stage_here(anew(backbone="shared"), "ppo", made)
    assert published.manifest.base == made["ppo"].manifest.base
    assert published.manifest.inputs_digest == made["ppo"].manifest.inputs_digest
    names = {path.relative_to(published.path) for path in published.path.rglob("*")}
    assert names == {path.relative_to(made["ppo"].path) for path in made["ppo"].path.rglob("*")}
    ids = torch.tensor([[5, 9, 20, 7]])
    logits = [
        AutoPeftModelForCausalLM.from_pretrained(artefact.path, dtype=torch.float32)
        .eval()(ids)
        .logits.detach()
        for artefact in (made["ppo"], published)
    ]
    assert torch.allclose(logits[0], logits[1], atol=1e-5)
    base = AutoModelForCausalLM.from_pretrained(recipe.model.path, dtype=torch.float32).eval()
    assert not torch.allclose(base(ids).logits, logits[1], atol=1e-2)
    values = [
        AutoModelForSequenceClassification.from_pretrained(
            artefact.path / "critic", num_labels=1, dtype=torch.float32, pad_token_id=0
        )
        .eval()(ids)
        .logits
        for artefact in (made["ppo"], published)
    ]
    assert torch.allclose(values[0], values[1], atol=1e-5)


def on_another_base(tmp_path, recipe):
    """An SFT and a reward adapter on other weights of the same shape, in the same registry."""
    make_base(tmp_path / "base", 2)
    other = lora_recipe(tmp_path, tmp_path / "base").model_copy(update={"name": "other"})
    other, made = other.model_copy(update={"workspace": recipe.workspace}), {}
    for stage in ("sft", "reward"):
        made[stage] = run_stage_here(other, stage, made)
    return made


def test_a_reward_model_on_another_base_is_refused_with_both_bases_named(trained, anew, tmp_path):
    recipe, made = trained
    here = anew(backbone="shared")
    other = on_another_base(tmp_path / "other", here)
    with pytest.raises(ModelError) as caught:
        run_stage_here(here, "ppo", {"sft": made["sft"], "reward": other["reward"]})
    said = str(caught.value)
    for artefact, base in ((made["sft"], recipe.model.path), (other["reward"], tmp_path / "other" / "base")):
        assert f"{base} (digest {artefact.manifest.base.digest[:12]})" in said


def test_a_whole_reward_model_is_refused(trained, anew, tmp_path):
    made = trained[1]
    here = anew(backbone="shared")
    load_reward_model(ModelSource(str(made["reward"].path))).merge_and_unload().save_pretrained(
        tmp_path / "rm"
    )
    context = context_of(here, "ppo", made)
    with pytest.raises(ModelError, match="rm is a whole model"):
        Backbone(context).require(ModelSource(str(tmp_path / "rm")), "reward model")


def test_a_policy_that_trains_all_its_weights_is_refused(trained, anew):
    recipe, made = trained
    here = anew(backbone="shared")
    context = context_of(
        here.model_copy(update={"model": here.model.model_copy(update={"lora": None})}), "ppo", made
    )
    given = context.inputs.policy.model_copy(update={"reference": None, "path": recipe.model.path})
    object.__setattr__(context, "inputs", context.inputs.model_copy(update={"policy": given}))
    with pytest.raises(UsageError, match="needs adapters"):
        Backbone(context)


def test_an_ensemble_shares_what_lies_on_the_base_and_loads_the_rest_apart(trained, anew, tmp_path, capsys):
    made = trained[1]
    sources = [RewardSource(name=name, model="registry:unread@1") for name in ("one", "two", "far")]
    here = anew(backbone="shared", rewards=sources)
    other = on_another_base(tmp_path / "other", here)
    context = context_of(here, "ppo", made)
    given = {"one": made["reward"], "two": made["reward"], "far": other["reward"]}
    models = {
        name: context.inputs.reward_model.model_copy(update={"reference": a.reference, "digest": a.digest})
        for name, a in given.items()
    }
    # Another artefact of the same base: the very same bytes under another name would be loaded once.
    models["two"] = models["two"].model_copy(update={"reference": None, "path": str(made["reward"].path)})
    inputs = context.inputs.model_copy(update={"reward_model": None, "reward_models": models})
    object.__setattr__(context, "inputs", inputs)
    tokenizer = context.tokenizer(context.inputs.policy)
    capsys.readouterr()
    rewards = build_rewards(context, tokenizer, torch.device("cpu"), MicroBatches(context.recipe.ppo))
    said = capsys.readouterr().out
    assert (
        f"source far: does not share the policy's backbone: it lies on {tmp_path / 'other' / 'base'}" in said
    )
    assert "source one" not in said
    one, two, far = (part.source.model.get_base_model().model.layers[0] for part in rewards.scorer.parts)
    assert one.mlp.gate_proj.base_layer.weight is two.mlp.gate_proj.base_layer.weight
    assert one.mlp.gate_proj.lora_A.default.weight is not two.mlp.gate_proj.lora_A.default.weight
    assert far.mlp.gate_proj.base_layer.weight is not one.mlp.gate_proj.base_layer.weight
