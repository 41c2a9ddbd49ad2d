"""What PPO asks of a sharded actor-critic beyond what it asks of a whole one: FSDP2 (Zhao et al. 2023, "PyTorch FSDP")
and DeepSpeed ZeRO (Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models").

Weights are float32 on every process, whole or in parts; lower precision is autocast's, as without sharding.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, disable_fsdp_ram_efficient_loading
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from rlhf.errors import RecipeError
from rlhf.ppo import zero
from rlhf.ppo.exchange import share_weights
from rlhf.recipe.ppo import PPOSection
from rlhf.recipe.sharding_combinations import find_sharding


class PPOAccelerator(Accelerator):
    """As Accelerator, but under DeepSpeed too, `autocast` is what lowers the precision."""

    def autocast(self, autocast_handler: Any = None) -> Any:
        """See `Accelerator.autocast`."""
        if _is_zero(self) and zero.uses_autocast(self):
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return super().autocast(autocast_handler)


def precision(accelerator: Accelerator) -> str:
    """Of forward passes: `bf16` or `no`; under DeepSpeed Accelerate's own answer is another."""
    if _is_zero(accelerator):
        return "bf16" if zero.uses_autocast(accelerator) else "no"
    return accelerator.mixed_precision


def prepare_accelerator(accelerator: Accelerator, section: PPOSection) -> None:
    """Settings that PPO needs of Accelerate's plugin; before models are loaded, since it decides how they are.

    Raises:
        RecipeError: what PPO cannot do under the strategy, also where an Accelerate configuration chose it.
    """
    _refuse(accelerator, section)
    if _is_zero(accelerator):
        zero.configure(accelerator, section)
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

    Where they are whole on every process they stay unwrapped: `Exchange` sums gradients.

    Args:
        accelerator: Accelerate's handle on the processes.
        model: the actor-critic, whole.
        optimizer: AdamW over its trained parameters.
    """
    if not passes_talk(accelerator):
        whole = accelerator.prepare_model(model, evaluation_mode=True)  # else it would be wrapped in DDP
        if accelerator.num_processes > 1:
            share_weights(whole)
        return whole, cast(torch.optim.Optimizer, accelerator.prepare_optimizer(optimizer))
    if accelerator.is_fsdp2:
        plugin = cast(Any, accelerator.state).fsdp_plugin
        plugin.transformer_cls_names_to_wrap = plugin.transformer_cls_names_to_wrap or _layer_classes(model)
    prepared, prepared_optimizer = cast(Any, accelerator.prepare(model, optimizer))
    if accelerator.is_fsdp2:
        _fill_moments(optimizer)
    return prepared, prepared_optimizer


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether a process holds only a part of the actor-critic's weights outside `whole_weights`."""
    return accelerator.is_fsdp2 or (_is_zero(accelerator) and zero.stage(accelerator) == 3)


def passes_talk(accelerator: Accelerator) -> bool:
    """Whether a forward or backward pass may exchange something, so that all processes must make the same ones."""
    return accelerator.is_fsdp2 or _is_zero(accelerator)


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
        with zero.gathered(model) if is_sharded(accelerator) else nullcontext():
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


def announce(accelerator: Accelerator, model: nn.Module, *, last: bool) -> None:
    """Say before a pass whether the optimizer's step comes next: DeepSpeed exchanges gradients in that pass alone.

    FSDP2 exchanges them at each: a process would else hold the gradients of the whole model.

    Args:
        accelerator: Accelerate's handle on the processes.
        model: the prepared actor-critic.
        last: whether it does.
    """
    if _is_zero(accelerator):
        cast(Any, model).set_gradient_accumulation_boundary(last)


def backward(accelerator: Accelerator, model: nn.Module, loss: Tensor) -> None:
    """A micro-batch's backward pass and nothing more: DeepSpeed by way of Accelerate would take the optimizer's step too.

    Args:
        accelerator: Accelerate's handle on the processes.
        model: the prepared actor-critic.
        loss: this process's part of a sum over all; ZeRO and FSDP2 average gradients, and get it multiplied.
    """
    if _is_zero(accelerator):
        cast(Any, model).backward(loss * accelerator.num_processes)
    else:
        accelerator.backward(loss * accelerator.num_processes if accelerator.is_fsdp2 else loss)


def gradient_norm(accelerator: Accelerator, model: nn.Module, parameters: list[nn.Parameter]) -> Tensor:
    """The norm of gradients over all ranks, the same on all of them; 0 without a gradient.

    DeepSpeed knows that of all gradients alone, and gives it whatever the parameters.

    Returns:
        0-dim float32 on the process's device, also where gradients lie elsewhere (`launch.cpu_offload`).
    """
    if _is_zero(accelerator):
        norm = torch.tensor(zero.gradient_norm(model))
    else:
        norm = torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return norm.to(accelerator.device, torch.float32)


def clip(accelerator: Accelerator, parameters: list[nn.Parameter], norm: float, max_norm: float) -> None:
    """Scale gradients of this norm down to `max_norm`; DeepSpeed does so in its step."""
    if _is_zero(accelerator) or norm <= max_norm:
        return
    gradients = [each.grad for each in parameters if each.grad is not None]
    for dtype in {each.dtype for each in gradients}:  # of one dtype all in one kernel
        same = [each for each in gradients if each.dtype == dtype]
        torch._foreach_mul_(same, max_norm / (norm + 1e-6))  # pyright: ignore[reportPrivateImportUsage]


def step(accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The optimizer's step; no gradient is left after it."""
    if _is_zero(accelerator):
        cast(Any, model).step()
        return
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def drop_gradients(accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Forget what has accumulated, without a step."""
    target = cast(Any, model).optimizer if _is_zero(accelerator) else optimizer
    target.zero_grad(set_to_none=True)


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's weights as `state_dict` names them, on the CPU; within `whole_weights`, where `state_dict` has parts."""
    copied: dict[Tensor, Tensor] = {}  # a tied weight is one tensor under two names
    state: dict[str, Tensor] = {}
    for prefix, part in module.named_modules():
        skipped = part._non_persistent_buffers_set
        tensors = [*part._parameters.items(), *((n, b) for n, b in part._buffers.items() if n not in skipped)]
        for name, tensor in tensors:
            if tensor is not None:
                if tensor not in copied:
                    copied[tensor] = tensor.detach().to("cpu", copy=True)
                state[f"{prefix}.{name}" if prefix else name] = copied[tensor]
    return state


def _is_zero(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def _refuse(accelerator: Accelerator, section: PPOSection) -> None:
    strategy = "ddp"
    if _is_zero(accelerator):
        strategy = f"zero{zero.stage(accelerator)}"
    elif accelerator.distributed_type == DistributedType.FSDP:
        strategy = "fsdp2" if accelerator.is_fsdp2 else "fsdp1"
    if strategy in ("zero0", "fsdp1"):
        raise RecipeError(
            f"PPO does not run under {strategy}", "Set launch.strategy to fsdp2, zero2 or zero3."
        )
    tree = {"launch": {"strategy": strategy}, "ppo": section.model_dump(mode="json")}
    faults = [f"  {'.'.join(map(str, place))}: {message}" for place, message in find_sharding(tree)]
    if faults:
        raise RecipeError("\n".join(["PPO cannot run so:", *faults]))


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
                "step": torch.zeros(
                    (), dtype=torch.float32, device=parameter.device if group["fused"] else "cpu"
                ),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
