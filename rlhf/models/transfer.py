"""Copies between host and device that nobody waits for before it must."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, which goes on meanwhile: a copy from pageable memory would wait for it."""
    if device.type != "cuda":
        return tensor.to(device)
    whole = tensor.contiguous()  # a view would go through pageable memory
    return whole.pin_memory().to(device, non_blocking=True)


class OnItsWay:
    """A tensor of the device as it is now, on its way to the host.

    Args:
        tensor: of any device; on a CPU it is copied at once.
    """

    def __init__(self, tensor: Tensor) -> None:
        on_gpu = tensor.device.type == "cuda"
        self._there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_gpu)
        self._there.copy_(tensor, non_blocking=on_gpu)
        self._event = torch.cuda.current_stream(tensor.device).record_event() if on_gpu else None

    def arrived(self) -> Tensor:
        """It, on the CPU, once it is there; what the device was given later is not waited for."""
        if self._event is not None:
            self._event.synchronize()
        return self._there
