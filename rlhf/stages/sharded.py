"""What sharing out a model over processes (`launch.strategy`) asks of transformers' Trainer, and of all checkpoints.

One under DDP or FSDP2 holds whole tensors and goes on with any number of processes, one under ZeRO a part a process.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from peft.peft_model import PeftModel
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer
from transformers.integrations import deepspeed

from rlhf.errors import CheckpointError, RecipeError, StageError
from rlhf.recipe.launch import LaunchSection

_ZERO_PARTS = "*/*_optim_states.pt"
"""A process's file in a checkpoint's folder of DeepSpeed, which Trainer and Accelerate give different names."""
_ZERO12, _ZERO3, _FSDP2, _DDP = "zero1 or zero2", "zero3", "fsdp2", "ddp"


THREADS_BESIDE_A_GPU = 4
"""Of the CPU's own operations. More of them wait for each other by spinning: two runs on one machine halved each other."""


def prepare_process(launch: LaunchSection | None = None) -> None:
    """Set what must be set before a model runs or DeepSpeed is imported.

    DeepSpeed takes a GPU for granted, and is told where there is none. cuDNN's attention is switched off: from PyTorch
    2.11 it is the first choice on Hopper, gives gradients that are not finite for some lengths under a padding mask
    (pytorch/pytorch#196678), and builds a plan for each new shape, where flash and memory-efficient attention do not.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    elif launch is not None and not _wants_cores(launch):
        torch.set_num_threads(min(torch.get_num_threads(), THREADS_BESIDE_A_GPU))


def _wants_cores(launch: LaunchSection) -> bool:
    """Whether the optimizer is, or may be, the CPU's work, or somebody has said how many threads; the pipeline does not count."""
    if launch.cpu_offload or launch.accelerate_config is not None:
        return True
    return os.environ.get("OMP_NUM_THREADS", str(launch.cores_of_each)) != str(launch.cores_of_each)


def require_device_for_offload(launch: LaunchSection) -> None:
    """Raise RecipeError for `launch.cpu_offload` without a GPU: FSDP2 fails in the middle of torch then, ZeRO gains nothing."""
    if launch.cpu_offload and not torch.cuda.is_available():
        raise RecipeError(
            "launch.cpu_offload moves what lies on a GPU to the CPU's memory, and this machine has no GPU that torch can use",
            "Leave it out: --set launch.cpu_offload=false.",
        )


def let_cpus_shard() -> None:
    """Make FSDP count on CPUs too: Accelerate wraps in it what it calls GPUs, and in DDP, silently, what it calls CPUs.

    Called between the first `PartialState` and the `Accelerator`.
    """
    wanted = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if wanted and PartialState().distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def release_at_once(accelerator: Accelerator) -> None:
    """Let ZeRO-3 free a module's weights when it has run, unless a configuration of DeepSpeed's own says otherwise.

    By default DeepSpeed first looks for another use within the next billion weights, module by module: in a smaller
    model that is each module once for every other, and with an adapter's thousands it takes minutes.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        plugin = cast(Any, accelerator.state).deepspeed_plugin
        settings = plugin.deepspeed_config["zero_optimization"]
        if (
            "max_reuse_distance" not in settings
            and settings.get("stage3_max_reuse_distance", "auto") == "auto"
        ):
            settings["stage3_max_reuse_distance"] = 0


@contextmanager
def loading_whole() -> Generator[None]:
    """Within it a model that is loaded beside the trained one is whole on every rank: ZeRO-3 cuts each into parts else."""
    config = _deepspeed_config()
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            deepspeed.set_hf_deepspeed_config(config)


def require_layout(
    accelerator: Accelerator,
    model: nn.Module,
    launch: LaunchSection,
    *,
    replica: str = "DistributedDataParallel",
) -> str:
    """Make sure that the prepared model is spread over processes as the recipe says, and not silently in another way.

    Args:
        accelerator: Accelerate's handle on the processes.
        model: prepared.
        launch: the recipe's.
        replica: the class of a model that several processes hold whole.

    Returns:
        What it is, for the log.

    Raises:
        StageError: another number of processes, or another wrapper around the model.
    """
    processes = accelerator.num_processes
    wrapper = "FSDPModule" if isinstance(model, FSDPModule) else type(model).__name__
    expected = wrapper
    if launch.accelerate_config is None and (launch.world_size > 1 or launch.strategy != "ddp"):
        expected = {"ddp": replica, "fsdp2": "FSDPModule"}.get(launch.strategy, "DeepSpeedEngine")
    if (processes, wrapper) != (launch.world_size, expected):
        raise StageError(
            f"the recipe asks for {launch.world_size} process(es) and {expected}, and got {processes} and {wrapper}",
            "The launcher or Accelerate took another way than launch says: look at the variables ACCELERATE_* and FSDP_* "
            "of the environment.",
        )
    return f"{processes} process(es), {wrapper}, {accelerator.device.type}"


def require_loadable(accelerator: Accelerator, checkpoint: Path) -> None:
    """Raise CheckpointError where a checkpoint was saved under another strategy, or under ZeRO by more or fewer processes."""
    saved, here = _layout_of(checkpoint), _layout_here(accelerator)
    if saved != here:
        raise CheckpointError(
            f"{checkpoint} was saved with launch.strategy: {saved}, and cannot be read with {here}",
            f"Go on with launch.strategy: {saved}, or start the stage anew with --fresh.",
        )
    parts = len(list(checkpoint.glob(_ZERO_PARTS)))
    if parts not in (0, accelerator.num_processes):
        raise CheckpointError(
            f"{checkpoint} holds the optimizer in {parts} part(s), one a process, and {accelerator.num_processes} "
            "process(es) would go on: DeepSpeed does not deal them out anew",
            f"Go on with {parts} process(es) (launch.num_processes x num_machines), or start the stage anew with --fresh.",
        )


def load_weights(trainer: Trainer, checkpoint: Path) -> None:
    """Put a checkpoint's weights into a trained model; every rank calls it, and no training may follow."""
    if trainer.is_deepspeed_enabled:
        # The engine holds the weights, under ZeRO-3 a part on each rank: Trainer's own would fill empty tensors.
        strict = not isinstance(trainer.model, PeftModel)
        deepspeed.deepspeed_load_checkpoint(trainer.model_wrapped, str(checkpoint), load_module_strict=strict)
    else:
        trainer._load_from_checkpoint(str(checkpoint))


def _deepspeed_config() -> Any:
    reference = deepspeed._hf_deepspeed_config_weak_ref
    return None if reference is None else reference()


def _layout_of(checkpoint: Path) -> str:
    if any(checkpoint.glob("*/zero_pp_rank_*_model_states.pt")):
        return _ZERO3
    if any(checkpoint.glob(_ZERO_PARTS)):
        return _ZERO12
    return _FSDP2 if any(checkpoint.glob("pytorch_model_fsdp*")) else _DDP


def _layout_here(accelerator: Accelerator) -> str:
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        stage = cast(Any, accelerator.state).deepspeed_plugin.zero_stage
        return _ZERO3 if stage == 3 else _ZERO12
    return _FSDP2 if accelerator.distributed_type == DistributedType.FSDP else _DDP
