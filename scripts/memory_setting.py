"""What scripts/bench_memory.py runs PPO on: a random base, SFT and reward adapters on it in a registry, a recipe.

Adapters are random too, since memory does not ask what a model has learnt; so the reward model has no probe.
"""

import json
import random
import shutil
import string
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
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
from rlhf.recipe import Recipe, Stage
from rlhf.registry import Artefact
from rlhf.stages.context import StageContext
from rlhf.stages.inputs import ModelInput, run_folder, stage_inputs
from rlhf.stages.publish import publish

NAME = "memory"
NUM_PROMPTS = 64
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
    """

    backbone: BackboneKind
    steps: int = 2
    global_batch_size: int = 16
    batch_size: int = 4
    rollout_batch_size: int = 16
    prompt_tokens: int = 128
    response_tokens: int = 128


def prepare_context(folder: Path, shape: Shape, setting: Setting) -> StageContext:
    """PPO's context on models in `folder`, which are made where they are not there yet; PPO itself begins anew.

    Args:
        folder: of this shape alone; needs room for the weights in bfloat16.
        shape: of the base.
        setting: of the recipe.
    """
    _write_base(folder / "base", shape)
    _write_prompts(folder / "prompts.jsonl", setting.prompt_tokens)
    recipe = make_recipe(folder, setting)
    base = ModelInput(path=str(folder / "base"))
    sft = _published(recipe, "sft", base, shape)
    reward = _published(recipe, "reward", _given(sft), shape)
    shutil.rmtree(run_folder(recipe) / "ppo", ignore_errors=True)
    return _context(recipe, "ppo", _given(sft), _given(reward))


def make_recipe(folder: Path, setting: Setting) -> Recipe:
    """LoRA of rank `LORA_RANK` on all linear layers, gradient checkpointing, one epoch of updates by one micro-batch each."""
    rows = {"train": str(folder / "prompts.jsonl")}
    training = {"learning_rate": 1e-5, "global_batch_size": 1, "per_device_batch_size": 1}
    ppo = {
        "backbone": setting.backbone,
        "gradient_checkpointing": True,
        "num_steps": setting.steps,
        "global_batch_size": setting.global_batch_size,
        "per_device_batch_size": setting.batch_size,
        "per_device_rollout_batch_size": setting.rollout_batch_size,
        "num_minibatches": setting.global_batch_size // setting.batch_size,
        "num_epochs": 1,
        "learning_rate": 1e-5,
        "max_prompt_length": setting.prompt_tokens,
        "sampling": {"max_new_tokens": setting.response_tokens},
        "save_every_steps": setting.steps,
    }
    return Recipe.model_validate(
        {
            "name": NAME,
            "workspace": str(folder / "workspace"),
            "seed": SEED,
            "model": {"path": str(folder / "base"), "lora": {"r": LORA_RANK}},
            "data": {"sft": rows, "preference": rows, "prompts": rows},
            "sft": training,
            "reward": training,
            "ppo": ppo,
        }
    )


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


def _write_prompts(path: Path, num_tokens: int) -> None:
    draw = random.Random(SEED)
    texts = ["".join(draw.choices(string.ascii_lowercase, k=num_tokens)) for _ in range(NUM_PROMPTS)]
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts), encoding="utf-8")


def _published(recipe: Recipe, stage: Stage, policy: ModelInput, shape: Shape) -> Artefact:
    context = _context(recipe, stage, policy, None)
    name = recipe.artefact_name(stage)
    found = context.registry.find(name, context.inputs.digest)
    if found is None:
        tokenizer = load_tokenizer(str(recipe.model.path))
        publish(context, tokenizer, {}, partial(_save_adapter, stage, str(recipe.model.path), shape))
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
