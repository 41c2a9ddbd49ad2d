"""All three stages on a base in 4 bits: adapters and head train in float32, the base stays, and PPO scores as published."""

import hashlib
import shutil

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from stage_runs import context_of, run_stage_here, tiny
from test_resume import RUNTIMES, assert_same_weights, metrics_of, stop_at
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BitsAndBytesConfig

import rlhf.stages.ppo
import rlhf.stages.ppo_models
from rlhf.errors import UsageError
from rlhf.models.load import load_reward_model, scratch_causal_lm
from rlhf.models.quantized import Quantization, scales_of
from rlhf.models.tokenizer import train_tokenizer
from rlhf.recipe.model import ScratchModel
from rlhf.stages.backbone import Backbone
from rlhf.stages.context import check_probe, published_source, weights_digest
from rlhf.stages.hf_trainer import CheckpointingTrainer
from rlhf.stages.inputs import ModelInput

STAGES = ("sft", "reward", "ppo")
NF4 = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.float32,
)
LENGTHS = {"select_best": False, "max_steps": 4, "save_every_steps": 2, "eval_every_steps": 2}


class Seen:
    """What a stage's models were made of before its first step and after its last."""

    def __init__(self):
        self.adapted, self.trained, self.frozen = [], {}, []

    def look(self, model):
        layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
        self.adapted.append({type(layer.get_base_layer()) for layer in layers})
        named = dict(model.named_parameters())
        self.trained |= {name: value.dtype for name, value in named.items() if value.requires_grad}
        self.frozen.append({name: bits(value) for name, value in named.items() if not value.requires_grad})


def bits(parameter):
    """A digest of a weight, its scales included."""
    parts = (parameter.data, *scales_of(parameter))
    return hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in parts)).hexdigest()


def watched(patch, seen):
    """Look at the models of SFT, reward model and PPO as they are prepared and as they are published."""
    prepare_trainer, save_weights = (
        CheckpointingTrainer._prepare_for_training,
        CheckpointingTrainer.save_weights,
    )
    prepare_ppo, save_ppo = rlhf.stages.ppo_models.prepare, rlhf.stages.ppo._save
    patch.setattr(
        CheckpointingTrainer,
        "_prepare_for_training",
        lambda self, *a, **k: seen().look(self.model) or prepare_trainer(self, *a, **k),
    )
    patch.setattr(
        CheckpointingTrainer,
        "save_weights",
        lambda self, folder: seen().look(self.model) or save_weights(self, folder),
    )
    patch.setattr(
        rlhf.stages.ppo_models, "prepare", lambda a, model, o: seen().look(model) or prepare_ppo(a, model, o)
    )
    patch.setattr(rlhf.stages.ppo, "_save", lambda a, model, *r: seen().look(model) or save_ppo(a, model, *r))


def make_base(folder):
    spec = ScratchModel(vocab_size=300, hidden_size=64, num_layers=2, num_heads=2, max_positions=64)
    scratch_causal_lm(spec, eos_token_id=1, pad_token_id=0, seed=1).save_pretrained(folder)
    train_tokenizer(["The cat is good. The dog is bad."] * 3, 300).save_pretrained(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The recipe, its three artefacts, and what each stage's models were made of."""
    folder = tmp_path_factory.mktemp("qlora")
    make_base(folder / "base")
    lora = {"r": 4, "alpha": 8, "dropout": 0.1, "quantize": "nf4"}
    ppo = {"num_steps": 2, "learning_rate": 0.01, "eval_every_steps": 2, "save_every_steps": 1}
    model = {"scratch": None, "path": str(folder / "base"), "lora": lora}
    recipe = tiny(folder, {"model": model, "sft": LENGTHS, "reward": LENGTHS, "ppo": ppo})
    before, made, seen = weights_digest(folder / "base"), {}, {}
    with pytest.MonkeyPatch.context() as patch:
        watched(patch, lambda: list(seen.values())[-1])
        for stage in STAGES:
            seen[stage] = Seen()
            made[stage] = run_stage_here(recipe, stage, made)
    assert weights_digest(folder / "base") == before
    return recipe, made, seen


@pytest.mark.parametrize("stage", STAGES)
def test_every_adapted_layer_is_in_4_bits_and_only_float32_trains(run, stage):
    seen = run[2][stage]
    assert seen.adapted == [{Linear4bit}, {Linear4bit}]
    assert set(seen.trained.values()) == {torch.float32}
    assert any("lora_A" in name for name in seen.trained)
    assert any("score" in name for name in seen.trained) == (stage != "sft")
    assert seen.frozen[0] == seen.frozen[1]
    assert len(seen.frozen[0]) > 14


def test_artefacts_name_the_base_and_how_it_was_held(run):
    recipe, made, _ = run
    for artefact in made.values():
        base = artefact.manifest.base
        assert (base.path, base.quantization) == (recipe.model.path, "nf4")
        assert base.digest == weights_digest(artefact.path.parents[3] / "base")
        assert not (artefact.path / "model.safetensors").exists()
    held = load_file(made["reward"].path / "adapter_model.safetensors")
    assert {value.dtype for value in held.values()} == {torch.float32}
    assert any("score" in name for name in held)


def test_every_stage_moved_its_adapter(run):
    made = run[1]
    weights = {stage: load_file(made[stage].path / "adapter_model.safetensors") for stage in STAGES}
    lora = [name for name in weights["sft"] if "lora_B" in name]
    assert max(float(weights["sft"][name].abs().max()) for name in lora) > 0.005
    for stage in ("reward", "ppo"):
        far = max(float((weights[stage][name] - weights["sft"][name]).abs().max()) for name in lora)
        assert 0.002 < far < 0.1, stage


@torch.no_grad()
def scores_of(model, probe):
    model.config.pad_token_id = 0
    return [float(model.eval()(input_ids=torch.tensor([ids])).logits) for ids in probe.token_ids]


def test_plain_transformers_scores_as_published_on_the_base_in_4_bits_and_nearly_so_on_the_whole_one(run):
    reward = run[1]["reward"]
    probe = reward.manifest.probe
    load = AutoModelForSequenceClassification.from_pretrained
    quantized = load(reward.path, num_labels=1, dtype=torch.float32, quantization_config=NF4)
    for module in quantized.modules():
        if isinstance(module, Linear4bit):  # as `prepare` says
            module.support_avx512bf16_for_cpu = False
    assert scores_of(quantized, probe) == pytest.approx(probe.scores, abs=1e-4)
    whole = scores_of(load(reward.path, num_labels=1, dtype=torch.float32), probe)
    # Random weights have no redundancy to hide 4 bits in: up to 0.41 where scores are of order 1, and no mere rounding.
    assert whole == pytest.approx(probe.scores, abs=0.6)
    assert whole != pytest.approx(probe.scores, abs=1e-3)
    for stage in ("sft", "ppo"):
        AutoModelForCausalLM.from_pretrained(run[1][stage].path)


def test_ppo_loads_the_reward_model_as_it_was_measured(run):
    recipe, made, _ = run
    context = context_of(recipe, "ppo", made)
    source = context.source(context.inputs.reward_model)
    exact = made["reward"].manifest.probe.model_copy(update={"tolerance": 1e-4})
    check_probe(load_reward_model(source), exact, "tiny-reward@1")
    assert published_source(made["reward"]) == source


def test_a_recipe_without_4_bits_loads_another_ones_reward_model_in_them(run):
    recipe, made, _ = run
    plain = recipe.model_copy(update={"model": recipe.model.model_copy(update={"lora": None})})
    context = context_of(plain, "ppo", made)
    assert context.source(context.inputs.reward_model).quantization == Quantization("nf4")
    outside = ModelInput(path=recipe.model.path)
    assert context.source(outside).quantization is None


@pytest.mark.parametrize("stage", STAGES)
def test_stopped_and_resumed_equals_uninterrupted(run, tmp_path, monkeypatch, stage):
    """PPO goes on with a shared backbone: one copy of the codes says what four of them say."""
    recipe, made, _ = run
    shutil.copytree(recipe.workspace, tmp_path / "workspace")
    here = recipe.model_copy(update={"workspace": str(tmp_path / "workspace")})
    folder = context_of(here, stage, made).folder
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "workspace" / "registry" / recipe.artefact_name(stage))
    with monkeypatch.context() as patch:
        stop_at(patch, 1 if stage == "ppo" else 3)
        assert run_stage_here(here, stage, made) is None
    newest = context_of(here, stage, made).checkpoints.newest()
    assert newest.step == (1 if stage == "ppo" else 3)
    held = load_file(next(newest.path.glob("*model.safetensors")))
    assert all("lora_" in name or "score" in name for name in held)
    here = here.model_copy(update={"ppo": here.ppo.model_copy(update={"backbone": "shared"})})
    resumed = run_stage_here(here, stage, made)
    assert_same_weights(made[stage], resumed)
    assert metrics_of(here, stage, made, drop=RUNTIMES) == metrics_of(recipe, stage, made, drop=RUNTIMES)


def test_a_reward_model_on_the_whole_base_does_not_share_one_in_4_bits(run):
    recipe, made, _ = run
    context = context_of(recipe, "ppo", made)
    shared = recipe.model_copy(update={"ppo": recipe.ppo.model_copy(update={"backbone": "shared"})})
    backbone = Backbone(context_of(shared, "ppo", made))
    source = context.source(context.inputs.reward_model)
    backbone.require(source, "reward model")
    whole = type(source)(source.path)
    with pytest.raises(
        Exception, match=r"is an adapter on .*base \(digest .*the policy lies on .*base in nf4"
    ):
        backbone.require(whole, "reward model")


def test_an_adapter_is_not_put_on_its_base_in_another_form(run):
    recipe, made, _ = run
    plain = recipe.model.model_copy(update={"lora": recipe.model.lora.model_copy(update={"quantize": None})})
    context = context_of(recipe.model_copy(update={"model": plain}), "reward", made)
    with pytest.raises(UsageError, match=r"quantize: null, and tiny-sft@1 is an adapter .* in nf4"):
        context.source(context.inputs.policy)
