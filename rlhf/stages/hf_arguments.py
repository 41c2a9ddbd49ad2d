"""A recipe's section as the arguments of transformers' Trainer."""

from typing import Any

import torch

from rlhf.recipe.training import TrainingSection
from rlhf.stages.context import StageContext


def training_arguments(
    context: StageContext,
    section: TrainingSection,
    *,
    has_eval: bool,
    best_metric: str,
    greater_is_better: bool,
) -> dict[str, Any]:
    """Arguments that both trainers share, from the recipe."""
    processes = context.recipe.launch.world_size
    per_device = section.per_device_batch_size
    select = has_eval and (section.select_best or section.patience is not None)
    return {
        "output_dir": str(context.folder),
        "learning_rate": section.learning_rate,
        "num_train_epochs": section.num_epochs,
        "max_steps": section.max_steps or -1,
        "per_device_train_batch_size": per_device,
        "per_device_eval_batch_size": per_device,
        "gradient_accumulation_steps": section.global_batch_size // (per_device * processes),
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": section.lr_floor_fraction},
        "warmup_steps": section.warmup_fraction,
        "weight_decay": section.weight_decay,
        "max_grad_norm": section.max_grad_norm,
        "gradient_checkpointing": section.gradient_checkpointing,
        "bf16": context.use_bf16,
        "use_cpu": not torch.cuda.is_available(),
        "seed": context.recipe.stage_seed(context.stage),
        "eval_strategy": "steps" if has_eval else "no",
        "eval_steps": section.eval_every_steps,
        "save_strategy": "steps",
        "save_steps": section.save_every_steps,
        "metric_for_best_model": best_metric if select else None,
        "greater_is_better": greater_is_better if select else None,
        # Off by default, and then a resumed run forgets how much patience was used up.
        "restore_callback_states_from_checkpoint": True,
        "logging_steps": 10,
        "logging_nan_inf_filter": False,
        "report_to": list(context.recipe.trackers) or "none",
        "run_name": f"{context.recipe.name}-{context.stage}",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False,
        "max_length": None,
    }
