"""Gradients summed over processes that hold whole weights each, and what these processes have to agree on.

PyTorch's DistributedDataParallel exchanges within the last backward pass, and a process that runs out of memory in it
cannot make it anew: the others wait for what it did not give. Here it gives what it has, so that nobody waits; all then
agree that memory ran out, drop the sums and pass anew.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

NUM_PARTS = 4
LEAST_BYTES = 25 * 2**20
"""Of a part; DistributedDataParallel's own bucket."""


class Exchange:
    """Sums gradients over all processes in place, part by part, while the device goes on with other work.

    Args:
        parameters: the same on every process, in the same order: those that a forward pass uses first come first.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parts = _parts(parameters)
        self._missing: list[set[Tensor]] = []
        self._next = 0
        self._works: list[dist.Work] = []
        for place, part in enumerate(self._parts):
            for parameter in part:
                parameter.register_post_accumulate_grad_hook(partial(self._ready, place))

    def begin_in_next_pass(self) -> None:
        """In the backward pass that comes, the last one, a part is exchanged as soon as its gradients are there."""
        self._missing = [set(part) for part in self._parts]

    def begin_rest(self) -> None:
        """Exchange what has not begun; without a gradient a parameter counts as zeros: it may have one elsewhere."""
        self._missing = []
        while self._next < len(self._parts):
            self._begin_next()

    def finish(self) -> None:
        """The gradients are the sums for all that is started on the device afterwards."""
        for work in self._works:
            work.wait()
        self._works, self._next = [], 0

    def _ready(self, place: int, parameter: Tensor) -> None:
        if not self._missing:
            return
        if place < self._next:
            raise RuntimeError(
                "a gradient that had been exchanged was added to: one pass went through it twice"
            )
        self._missing[place].discard(parameter)
        while (
            self._next < len(self._parts) and not self._missing[self._next]
        ):  # in one order on all processes
            self._begin_next()

    def _begin_next(self) -> None:
        part = self._parts[self._next]
        for parameter in part:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [cast(Tensor, parameter.grad) for parameter in part]
        group = cast(dist.ProcessGroup, dist.group.WORLD)
        self._next += 1
        for dtype in {each.dtype: None for each in gradients}:
            options = dist.AllreduceCoalescedOptions()
            options.asyncOp = True
            # One call for all of a dtype, large and small.
            self._works.append(
                group.allreduce_coalesced([each for each in gradients if each.dtype == dtype], options)
            )


def _parts(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parts of about the same number of bytes, in the order of a backward pass."""
    sizes = [parameter.numel() * parameter.element_size() for parameter in parameters]
    enough = max(sum(sizes) / NUM_PARTS, LEAST_BYTES)
    parts: list[list[nn.Parameter]] = [[]]
    held = 0
    for parameter, size in zip(reversed(parameters), reversed(sizes), strict=True):
        if held >= enough:
            parts.append([])
            held = 0
        parts[-1].append(parameter)
        held += size
    return parts


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
