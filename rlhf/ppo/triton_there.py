"""Whether the project's Triton kernels can take a tensor; elsewhere PyTorch's own operators do the same."""

from importlib.util import find_spec

import torch
from torch import Tensor

_HAS_TRITON = find_spec("triton") is not None


def takes_kernels(tensor: Tensor) -> bool:
    """On an NVIDIA GPU, where Triton is installed, as it is with PyTorch for CUDA on Linux."""
    return tensor.is_cuda and _HAS_TRITON and torch.version.hip is None
