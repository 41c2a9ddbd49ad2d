"""How much memory a stage's process took."""

import resource
import sys

import torch

_UNIT = 1 if sys.platform == "darwin" else 2**10
"""Bytes in one of `ru_maxrss`."""


def peak_memory() -> str:
    """The most so far: of the GPU by PyTorch's allocator, or resident on a CPU; 1 GiB is 2^30 bytes."""
    if torch.cuda.is_available():
        allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return f"{allocated / 2**30:.2f} GiB ({reserved / 2**30:.2f} reserved)"
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
    return f"{resident / 2**30:.2f} GiB resident"
