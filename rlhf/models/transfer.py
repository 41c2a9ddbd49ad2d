"""Copies to a device that nobody waits for."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, which goes on meanwhile: a copy from pageable memory would wait for it."""
    if device.type != "cuda":
        return tensor.to(device)
    whole = tensor.contiguous()  # a view would go through pageable memory
    return whole.pin_memory().to(device, non_blocking=True)
