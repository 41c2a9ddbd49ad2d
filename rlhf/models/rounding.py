"""Weights in bfloat16, where a recipe asks for it."""

import torch
from torch import nn

from rlhf.models.load import score_head_of


def round_weights(model: nn.Module) -> None:
    """Round a model's weights to bfloat16 in place: all of a whole model, those of the frozen base under an adapter.

    A reward model's or critic's head stays float32, as an adapter does. Buffers, such as the frequencies of rotary
    positions, are not weights. What other models share is rounded for them too, to the same numbers.
    """
    trained_beside_base = any("lora_" in name for name, _ in model.named_parameters())
    head = {id(parameter) for parameter in _head_parameters(model)}
    for parameter in model.parameters():
        kept = id(parameter) in head or (trained_beside_base and parameter.requires_grad)
        if parameter.dtype == torch.float32 and not kept:
            parameter.data = parameter.data.to(torch.bfloat16)


def _head_parameters(model: nn.Module) -> list[nn.Parameter]:
    try:
        return list(score_head_of(model).parameters())
    except AttributeError:  # a language model has none
        return []
