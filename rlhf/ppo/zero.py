"""DeepSpeed ZeRO (Rajbhandari et al. 2020): its engine's own ways of accumulating, measuring, stepping and gathering."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from accelerate import Accelerator
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from rlhf.recipe.ppo import PPOSection


def configure(accelerator: Accelerator, section: PPOSection) -> None:
    """Let PPO decide batch sizes, clipping and precision, and load models whole; before any model is loaded."""
    plugin = cast(Any, accelerator.state).deepspeed_plugin
    config = plugin.deepspeed_config
    config["train_micro_batch_size_per_gpu"] = section.per_device_batch_size
    config["gradient_accumulation_steps"] = 1  # the boundary is set by hand
    config["gradient_clipping"] = section.max_grad_norm
    if config.get("bf16", {}).get("enabled"):
        # DeepSpeed's bf16 rounds the weights that sample and are published; autocast leaves them float32.
        config["bf16"] = {"enabled": False}
        config["torch_autocast"] = {
            "enabled": True,
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],  # exchanged in float32
        }
    plugin.zero3_init_flag = False
    unset_hf_deepspeed_config()


def uses_autocast(accelerator: Accelerator) -> bool:
    """Whether forward passes run in bfloat16."""
    config = cast(Any, accelerator.state).deepspeed_plugin.deepspeed_config
    return bool(config.get("torch_autocast", {}).get("enabled"))


def stage(accelerator: Accelerator) -> int:
    """1 shares out the optimizer, 2 gradients too, 3 weights too."""
    return int(cast(Any, accelerator.state).deepspeed_plugin.zero_stage)


def gradient_norm(engine: Any) -> float:
    """The norm of all gradients over all ranks before clipping, the same on all of them; NaN where one is not finite."""
    optimizer = engine.optimizer
    third = engine.zero_optimization_stage() == 3
    norms = [
        float(norm) for norm in (optimizer._get_norm_groups() if third else [optimizer.scaled_global_norm()])
    ]
    if any(norm < 0 for norm in norms):  # DeepSpeed's word for NaN and infinity
        return math.nan
    return math.hypot(*norms)


@contextmanager
def gathered(engine: Any) -> Iterator[None]:
    """ZeRO-3's weights whole on every rank; its hooks, which would part each layer again after its use, are off."""
    import deepspeed  # slow to import, and seldom wanted

    offload = engine.optimizer.parameter_offload
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        for parameter in engine.module.parameters():
            parameter.ds_active_sub_modules.clear()
        offload._remove_module_hooks()
        offload.forward_hooks, offload.backward_hooks = [], []
        try:
            yield
        finally:
            offload.setup_zero_stage3_hooks()
