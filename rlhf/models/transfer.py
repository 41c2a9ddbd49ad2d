"""Copies to a device that nobody waits for."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, which goes on meanwhile: a copy from pageable memory would wait for it."""
    if device.type != "cuda":
        return tensor.to(device)
    return (
        tensor.contiguous().pin_memory().to(device, non_blocking=True)
    )  # a view would go through pageable memory
