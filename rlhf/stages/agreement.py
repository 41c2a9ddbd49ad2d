"""Decisions that every rank must take alike, since each leads to a collective."""

from collections.abc import Callable
from typing import TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

_T = TypeVar("_T")


def any_rank(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is set on any rank; the same answer on all of them."""
    if accelerator.num_processes == 1:
        return flag
    mine = torch.tensor(float(flag), device=accelerator.device)
    return bool(cast(torch.Tensor, accelerator.reduce(mine, reduction="sum")) > 0)


def first_rank(accelerator: Accelerator, find: Callable[[], _T]) -> _T:
    """What rank 0 found, on all ranks; `find` runs on rank 0 alone, and may take long or change files."""
    found: list[_T | None] = [find() if accelerator.is_main_process else None]
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    return cast(_T, found[0])
