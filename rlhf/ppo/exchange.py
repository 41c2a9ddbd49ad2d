"""Gradients summed over processes that hold whole weights each, and what these processes have to agree on.

PyTorch's DistributedDataParallel exchanges within the last backward pass. A process that runs out of memory in that
pass could not make it anew, since the others wait in it. So here nobody exchanges within a pass: the policy's gradients
are summed while the critic passes, the critic's once it is done.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

_LARGE = 2**18
"""Values of a gradient that is worth a call of its own; smaller ones are copied together."""


def start_exchange(parameters: Sequence[nn.Parameter]) -> Callable[[], None]:
    """Begin to sum gradients over all processes, in place, while the device goes on with other work.

    Args:
        parameters: the same on every process, in the same order. One without a gradient counts as zeros: it may have
            one elsewhere.

    Returns:
        What ends it: the gradients are the sums for all that is started on the device afterwards.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
    alone = [each for each in gradients if _goes_alone(each)]
    small = [each for each in gradients if not _goes_alone(each)]
    groups = [
        [each for each in small if each.dtype == dtype] for dtype in {each.dtype: None for each in small}
    ]
    joined = [torch.cat([each.flatten() for each in group]) for group in groups]
    works = [cast(Any, dist.all_reduce(each, async_op=True)) for each in (*alone, *joined)]

    def finish() -> None:
        for work in works:
            work.wait()
        for group, whole in zip(groups, joined, strict=True):
            parts = whole.split([each.numel() for each in group])
            for each, part in zip(group, parts, strict=True):
                each.copy_(part.view_as(each))

    return finish


def _goes_alone(gradient: Tensor) -> bool:
    return gradient.numel() >= _LARGE and gradient.is_contiguous()


def share_weights(module: nn.Module) -> None:
    """Give every process the first one's trained weights; all see here that they hear each other, hosts too."""
    least_of_all(0)
    for parameter in module.parameters():
        if parameter.requires_grad:
            weight = parameter.data.contiguous()
            dist.broadcast(weight, src=0)
            parameter.data.copy_(weight)


def least_of_all(number: int) -> int:
    """The least of all processes' numbers; they wait for one another, and none for its device."""
    shared = torch.tensor(number)
    dist.all_reduce(shared, op=dist.ReduceOp.MIN, group=_host_group())
    return int(shared)


@cache
def _host_group() -> dist.ProcessGroup:
    if dist.get_backend() == "gloo":
        return cast(dist.ProcessGroup, dist.group.WORLD)
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
