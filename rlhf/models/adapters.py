"""LoRA adapters on a loaded base: new ones, and saved ones of which no weight may be missing in silence."""

from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    TaskType,
    get_peft_model,
    load_peft_weights,
    set_peft_model_state_dict,
)
from torch import nn
from transformers import PreTrainedModel

from rlhf.errors import ModelError
from rlhf.recipe.model import LoRA

SCORE_HEAD = "score"


def lora_config(lora: LoRA, task: TaskType) -> LoraConfig:
    """The recipe's adapter as PEFT describes it; a classifier's head is trained and saved whole beside it."""
    return LoraConfig(
        task_type=task,
        r=lora.r,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]  # PEFT annotates int, computes in float
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        modules_to_save=[SCORE_HEAD] if task == TaskType.SEQ_CLS else None,
    )


def with_new_adapter(
    base: PreTrainedModel, config: PeftConfig, seed: int, *, path: str, revision: str | None
) -> nn.Module:
    """A base under a new adapter, which names it by path and hub commit."""
    torch.manual_seed(seed)
    base.name_or_path = path
    model = get_peft_model(base, config)
    model.peft_config["default"].revision = revision
    return model


def with_saved_adapter(base: PreTrainedModel, folder: str, *, trainable: bool) -> nn.Module:
    """A base under the adapter that a folder holds.

    Raises:
        ModelError: weights of the adapter are missing or of another model.
    """
    config = PeftConfig.from_pretrained(folder)
    config.inference_mode = not trainable
    model = get_peft_model(base, config)
    model.peft_config["default"].revision = config.revision
    fill_adapter(model, load_peft_weights(folder, device="cpu"), folder)
    return model


def fill_adapter(model: nn.Module, weights: dict[str, Any], folder: str) -> None:
    """Set an adapter's weights; PEFT reports the base's keys as missing too, but the adapter's own are an error.

    Raises:
        ModelError: weights of the adapter are missing or of another model.
    """
    try:
        result = set_peft_model_state_dict(model, weights)
        missing = [key for key in result.missing_keys if "lora_" in key or "modules_to_save" in key]
        wrong = [*missing, *result.unexpected_keys]
    except KeyError as error:  # a module that is saved whole, such as the head
        wrong = [str(error.args[0])]
    except RuntimeError as error:  # another shape
        wrong = [" ".join(str(error).split())[:200]]
    if wrong:
        raise ModelError(
            f"adapter {folder}: weights missing or not of this model: {', '.join(wrong[:5])}",
            "The adapter was made for another base or was saved incompletely.",
        )
