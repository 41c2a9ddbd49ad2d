"""Frozen models that wait in the CPU's memory and are on the accelerator only while they are asked."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from rlhf.models.quantized import is_quantized


@contextmanager
def on_device(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Within it the model's weights lie on `device`; on leaving they are where they were. Nothing moves if they are there.

    What changes within is lost: the copies on the device are dropped, not copied back.
    """
    waiting = list(_tensors(model))
    try:
        there: dict[torch.Tensor, torch.Tensor] = {}
        for module, name, tensor in waiting:
            if tensor not in there:  # a tied weight is copied once
                there[tensor] = _moved(tensor, device)
            if there[tensor] is not tensor:
                setattr(module, name, there[tensor])
        yield
    finally:
        for module, name, tensor in waiting:
            if getattr(module, name) is not tensor:
                setattr(module, name, tensor)


def _tensors(model: nn.Module) -> Iterator[tuple[nn.Module, str, torch.Tensor]]:
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            yield module, name, parameter
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            yield module, name, buffer


def _moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if is_quantized(tensor):
        # bitsandbytes moves the scales of 4-bit codes in place: those that wait would go along.
        return tensor if tensor.device == device else copy.deepcopy(tensor).to(device)
    moved = tensor.to(device)
    if moved is tensor or not isinstance(tensor, nn.Parameter):
        return moved
    return nn.Parameter(moved.detach(), requires_grad=False)
