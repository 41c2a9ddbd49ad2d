"""Gradients summed over processes that hold whole weights each, and what these processes have to agree on.

PyTorch's DistributedDataParallel exchanges within the last backward pass. A process that runs out of memory in that
pass could not make it anew, since the others wait in it. So here nobody exchanges within a pass: the policy's gradients
are summed while the critic passes, the critic's once it is done.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn


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
    group = cast(dist.ProcessGroup, dist.group.WORLD)
    works: list[dist.Work] = []
    for dtype in {each.dtype: None for each in gradients}:
        options = dist.AllreduceCoalescedOptions()
        options.asyncOp = True
        # One call for all of a dtype, large and small.
        works.append(group.allreduce_coalesced([each for each in gradients if each.dtype == dtype], options))

    def finish() -> None:
        for work in works:
            work.wait()

    return finish


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
