"""Decisions that every rank must take alike, since each leads to a collective."""

from typing import cast

import torch
from accelerate import Accelerator


def any_rank(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is set on any rank; the same answer on all of them."""
    if accelerator.num_processes == 1:
        return flag
    mine = torch.tensor(float(flag), device=accelerator.device)
    return bool(cast(torch.Tensor, accelerator.reduce(mine, reduction="sum")) > 0)
