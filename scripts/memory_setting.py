"""What the benchmarks of PPO run it on: a random base, SFT and reward model made of it in a registry, a recipe.

They are random too, adapters or whole weights, since neither memory nor speed asks what a model has learnt; so the
reward model has no probe.
"""

import json
import os
import random
import shutil
import string
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from memory_shapes import LORA_RANK, BackboneKind, Shape
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Qwen2Config,
)

from rlhf.models.adapters import SCORE_HEAD
from rlhf.models.tokenizer import load_tokenizer, train_tokenizer
from rlhf.recipe import Recipe, Stage, load_recipe
from rlhf.registry import Artefact, Registry
from rlhf.stages.context import StageContext
from rlhf.stages.inputs import ModelInput, registry_folder, run_folder, stage_inputs
from rlhf.stages.publish import publish

NAME = "memory"
SEED = 0
_PAD, _EOS = 0, 1
_NO_MERGES = 261
"""A vocabulary of the 256 bytes and the special tokens alone: a prompt of n letters has n tokens."""


@dataclass(frozen=True)
class Setting:
    """How much PPO is asked to do in one step.

    Attributes:
        backbone: the recipe's `ppo.backbone`.
        steps: PPO steps.
        global_batch_size: responses in one step.
        batch_size: responses in one forward and backward pass.
        rollout_batch_size: responses in one generation or scoring pass.
        prompt_tokens, response_tokens: of every row.
        num_prompts: different prompts.
        num_minibatches, num_epochs: of a step's updates; None: minibatches of one micro-batch.
        lora: train adapters, of rank `LORA_RANK` on all linear layers, or all weights.
        gradient_checkpointing: recompute activations.
        short_every: every so many prompts, one of half the length; 0: none.
        overrides: of the recipe, `a.b=c` each.
    """

    backbone: BackboneKind
    steps: int = 2
    global_batch_size: int = 16
    batch_size: int = 4
    rollout_batch_size: int = 16
    prompt_tokens: int = 128
    response_tokens: int = 128
    num_prompts: int = 64
    num_minibatches: int | None = None
    num_epochs: int = 1
    lora: bool = True
    gradient_checkpointing: bool = True
    short_every: int = 0
    overrides: tuple[str, ...] = ()


def prepare_context(folder: Path, shape: Shape, setting: Setting) -> StageContext:
    """PPO's context on models in `folder`, which are made where they are not there yet; PPO itself begins anew.

    Of processes that a launcher has started the first goes ahead, and the others find what it made.

    Args:
        folder: of this shape alone; needs room for the weights in bfloat16.
        shape: of the base.
        setting: of the recipe.
    """
    is_launched, is_first = "RANK" in os.environ, os.environ.get("RANK", "0") == "0"
    if is_launched and not is_first:
        _wait()
    _write_base(folder / "base", shape)
    _write_prompts(folder / "prompts.jsonl", setting)
    recipe = make_recipe(folder, setting)
    base = ModelInput(path=str(folder / "base"))
    sft = _published(recipe, "sft", base, shape)
    reward = _published(recipe, "reward", _given(sft), shape)
    shutil.rmtree(run_folder(recipe) / "ppo", ignore_errors=True)
    if is_launched:
        if is_first:  # joins the others only now: publishing is by itself
            _wait()
        _wait()
    return _context(recipe, "ppo", _given(sft), _given(reward))


def _wait() -> None:
    PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()


def recipe_context(file: Path, overrides: list[str], folder: Path) -> StageContext:
    """PPO's context on the newest SFT and reward models of a recipe's workspace; PPO itself runs in `folder`."""
    recipe = load_recipe(file, overrides)
    registry = Registry(registry_folder(recipe))
    sft, reward = (_given(registry.resolve(recipe.artefact_name(stage))) for stage in ("sft", "reward"))
    context = StageContext(
        recipe, stage_inputs(recipe, "ppo", policy=sft, reward_model=reward, data={}), folder
    )
    context.folder.mkdir(parents=True, exist_ok=True)
    return context


def make_recipe(folder: Path, setting: Setting) -> Recipe:
    """The setting as a recipe, with whatever its overrides change."""
    rows = {"train": str(folder / "prompts.jsonl")}
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    training = {"learning_rate": 1e-5, "global_batch_size": processes, "per_device_batch_size": 1}
    ppo = {
        "backbone": setting.backbone,
        "gradient_checkpointing": setting.gradient_checkpointing,
        "num_steps": setting.steps,
        "global_batch_size": setting.global_batch_size,
        "per_device_batch_size": setting.batch_size,
        "per_device_rollout_batch_size": setting.rollout_batch_size,
        "num_minibatches": setting.num_minibatches or setting.global_batch_size // setting.batch_size,
        "num_epochs": setting.num_epochs,
        "learning_rate": 1e-5,
        "max_prompt_length": setting.prompt_tokens,
        "sampling": {"max_new_tokens": setting.response_tokens},
        "save_every_steps": setting.steps,
    }
    recipe = {
        "name": NAME,
        "workspace": str(folder / "workspace"),
        "seed": SEED,
        "model": {"path": str(folder / "base"), "lora": {"r": LORA_RANK} if setting.lora else None},
        "launch": {"num_processes": processes},
        "data": {"sft": rows, "preference": rows, "prompts": rows},
        "sft": training,
        "reward": training,
        "ppo": ppo,
    }
    file = folder / "recipe.yaml"  # JSON is YAML
    file.write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
    return load_recipe(file, setting.overrides)


def _write_base(folder: Path, shape: Shape) -> None:
    """In bfloat16, which halves the file; it is trained in float32 as any base. There whole or not at all."""
    if folder.is_dir():
        return
    writing = folder.with_name("base.writing")
    shutil.rmtree(writing, ignore_errors=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(SEED)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(_config(shape), dtype=torch.bfloat16)
    model.save_pretrained(writing, max_shard_size="4GB")
    train_tokenizer([], _NO_MERGES).save_pretrained(writing)
    writing.rename(folder)
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _config(shape: Shape) -> Qwen2Config:
    return Qwen2Config(**shape.config(), eos_token_id=_EOS, pad_token_id=_PAD, bos_token_id=None)


def _write_prompts(path: Path, setting: Setting) -> None:
    draw = random.Random(SEED)
    long, short = setting.prompt_tokens, max(1, setting.prompt_tokens // 2)
    lengths = [
        short if setting.short_every and place % setting.short_every == 0 else long
        for place in range(setting.num_prompts)
    ]
    texts = ["".join(draw.choices(string.ascii_lowercase, k=length)) for length in lengths]
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts), encoding="utf-8")


def _published(recipe: Recipe, stage: Stage, policy: ModelInput, shape: Shape) -> Artefact:
    context = _context(recipe, stage, policy, None)
    name = recipe.artefact_name(stage)
    found = context.registry.find(name, context.inputs.digest)
    if found is None:
        tokenizer = load_tokenizer(str(recipe.model.path))
        save = _save_whole if recipe.model.lora is None else _save_adapter
        publish(context, tokenizer, partial(save, stage, str(recipe.model.path), shape))
        found = context.registry.find(name, context.inputs.digest)
    assert found is not None
    return found


def _context(
    recipe: Recipe, stage: Stage, policy: ModelInput, reward_model: ModelInput | None
) -> StageContext:
    # Its data decide nothing here: they are made from the seed.
    inputs = stage_inputs(recipe, stage, policy=policy, reward_model=reward_model, data={})
    context = StageContext(recipe, inputs, run_folder(recipe))
    context.folder.mkdir(parents=True, exist_ok=True)
    return context


def _given(artefact: Artefact) -> ModelInput:
    return ModelInput(reference=artefact.reference, digest=artefact.digest)


def _save_whole(stage: Stage, base: str, shape: Shape, folder: Path) -> None:
    """The base itself as the SFT model; under the reward model other random weights."""
    if stage == "sft":
        for part in [*Path(base).glob("*.safetensors*"), *Path(base).glob("*config.json")]:
            shutil.copy2(part, folder)
        return
    config = _config(shape)
    config.num_labels = 1
    torch.manual_seed(SEED)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="4GB")


def _save_adapter(stage: Stage, base: str, shape: Shape, folder: Path) -> None:
    """A random adapter as PEFT saves one; the model around it takes no memory."""
    is_reward = stage == "reward"
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS if is_reward else TaskType.CAUSAL_LM,
        r=LORA_RANK,
        target_modules="all-linear",
        modules_to_save=[SCORE_HEAD] if is_reward else None,
    )
    outside = _config(shape)
    outside.num_labels = 1
    auto_class: Any = AutoModelForSequenceClassification if is_reward else AutoModelForCausalLM
    with torch.device("meta"):
        model = cast(PeftModel, get_peft_model(auto_class.from_config(outside, dtype=torch.float32), config))
    shapes = cast(dict[str, torch.Tensor], get_peft_model_state_dict(model, save_embedding_layers=False))
    draw = torch.Generator().manual_seed(SEED)
    weights = {name: 0.01 * torch.randn(meta.shape, generator=draw) for name, meta in shapes.items()}
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.base_model_name_or_path, config.inference_mode = base, True
    config.target_modules = cast(LoraConfig, model.peft_config["default"]).target_modules
    config.save_pretrained(str(folder))
