"""What PPO asks of a sharded actor-critic beyond what it asks of a whole one: FSDP2 (Zhao et al. 2023, "PyTorch FSDP")
and DeepSpeed ZeRO (Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models").

Weights are float32 on every process, whole or in parts; lower precision is autocast's, as without sharding.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import disable_fsdp_ram_efficient_loading
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule


def prepare_accelerator(accelerator: Accelerator) -> None:
    """Settings that PPO needs of Accelerate's plugin; before models are loaded, since it decides how they are."""
    if accelerator.is_fsdp2:
        plugin = cast(Any, accelerator.state).fsdp_plugin
        # Every process loads whole models: the frozen ones stay whole.
        disable_fsdp_ram_efficient_loading()
        plugin.cpu_ram_efficient_loading = False
        # FSDP's own policy would round the log-probabilities that the forward pass returns.
        plugin.mixed_precision_policy = None


def prepare(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Accelerate's `prepare`, with every transformer layer a unit of its own where the weights are sharded.

    Args:
        accelerator: Accelerate's handle on the processes.
        model: the actor-critic, whole.
        optimizer: AdamW over its trained parameters.
    """
    if accelerator.is_fsdp2:
        plugin = cast(Any, accelerator.state).fsdp_plugin
        plugin.transformer_cls_names_to_wrap = plugin.transformer_cls_names_to_wrap or _layer_classes(model)
    prepared, prepared_optimizer = cast(Any, accelerator.prepare(model, optimizer))
    if accelerator.is_fsdp2:
        _fill_moments(optimizer)
    return prepared, prepared_optimizer


def is_sharded(model: nn.Module) -> bool:
    """Whether a process holds only a part of the prepared actor-critic's weights outside `whole_weights`."""
    return isinstance(model, FSDPModule)


@contextmanager
def whole_weights(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """Within it every process holds all weights, and a forward pass talks to nobody: each may stop when it likes.

    Generating token by token would otherwise gather every layer for every token, and hang where one process ends its
    responses before another. What changes in the weights within it is lost.

    Args:
        accelerator: Accelerate's handle on the processes; all enter and leave together.
        model: the prepared actor-critic.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    # Else the first module that runs would become FSDP's root, and that is a layer.
    cast(Any, model)._get_fsdp_state()._lazy_init()
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    model.set_reshard_after_forward(False)
    for unit in units:
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
        model.set_reshard_after_forward(cast(Any, accelerator.state).fsdp_plugin.reshard_after_forward)
        model.set_reshard_after_forward(False, recurse=False)  # the root's are asked for again at once


def exchanging(accelerator: Accelerator, model: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    """Around a micro-batch's forward and backward pass: whether gradients are exchanged now or with a later one.

    FSDP2 exchanges them at each: a process would else hold the gradients of the whole model.

    Args:
        accelerator: Accelerate's handle on the processes.
        model: the prepared actor-critic.
        last: whether the optimizer's step comes next.
    """
    if last or isinstance(model, FSDPModule):
        return nullcontext()
    return accelerator.no_sync(model)


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's weights as `state_dict` names them, on the CPU; within `whole_weights`, where `state_dict` has parts."""
    copied: dict[Tensor, Tensor] = {}  # a tied weight is one tensor under two names
    state: dict[str, Tensor] = {}
    for prefix, part in module.named_modules():
        skipped = part._non_persistent_buffers_set
        tensors = [*part._parameters.items(), *((n, b) for n, b in part._buffers.items() if n not in skipped)]
        for name, tensor in tensors:
            if tensor is not None:
                copied.setdefault(tensor, tensor.detach().cpu())
                state[f"{prefix}.{name}" if prefix else name] = copied[tensor]
    return state


def _layer_classes(model: nn.Module) -> list[str]:
    """Names of the classes of transformer layers, by what transformers says must stay together."""
    named = (getattr(module, "_no_split_modules", None) or () for module in model.modules())
    wanted = {name for names in named for name in names}
    return sorted(wanted & {type(module).__name__ for module in model.modules()})


def _fill_moments(optimizer: torch.optim.Optimizer) -> None:
    """AdamW's state before its first step, for all parameters: a checkpoint must not lack a group that has yet to move."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
