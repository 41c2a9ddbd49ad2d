"""Weights in bfloat16, where a recipe asks for it."""

import torch
from torch import nn

from rlhf.models.adapters import SCORE_HEAD

_KEPT = (SCORE_HEAD, "modules_to_save")


def round_weights(model: nn.Module) -> None:
    """Round a model's weights to bfloat16 in place: all of a whole model, those of the base under an adapter.

    Adapters, trained or frozen, and the head of a reward model or critic stay float32. Buffers, such as the frequencies
    of rotary positions, are not weights.
    """
    for name, parameter in model.named_parameters():
        kept = any(part in _KEPT or part.startswith("lora_") for part in name.split("."))
        if parameter.dtype == torch.float32 and not kept:
            parameter.data = parameter.data.to(torch.bfloat16)
