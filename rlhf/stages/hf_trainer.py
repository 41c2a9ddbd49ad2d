"""What the SFT and reward runners add to TRL's trainers: atomic checkpoints, selection, metrics, a clean stop."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.training_args import TrainingArguments

from rlhf.checkpoint import Checkpoints
from rlhf.metrics import MetricsLog
from rlhf.ppo.spikes import GradientNorms
from rlhf.recipe.training import TrainingSection
from rlhf.stages.agreement import any_rank, first_rank
from rlhf.stages.context import StageContext
from rlhf.stages.saving import save
from rlhf.stages.sharded import let_cpus_shard
from rlhf.stages.signals import stop_requested
from rlhf.stages.spikes import SpikeError, keep_norms, passed_over, restore_norms, stop_or_roll_back
from rlhf.stages.step_rows import can_save_before, rows_of_steps


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


class CheckpointingTrainer(Trainer):
    """A Trainer whose checkpoints appear whole or not at all, as `step-N`; mixed in before TRL's class."""

    checkpoints: Checkpoints
    keep_checkpoints: int
    best_metric: str
    greater_is_better: bool
    latest_eval: dict[str, float] | None = None
    stopped = False
    gradient_norms: GradientNorms
    passed_over: frozenset[int]
    _writing: Path | None = None

    def create_accelerator_and_postprocess(self) -> None:
        """Trainer's, on CPUs too."""
        let_cpus_shard()
        super().create_accelerator_and_postprocess()

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Trainer's; nothing in a step that a rollback took out: without gradients, AdamW leaves the weights alone."""
        if self.state.global_step + 1 in self.passed_over:
            return torch.zeros((), device=self.args.device)
        return super().training_step(model, inputs, num_items_in_batch)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Trainer's, which it asks before the optimizer's step: a spike ends training here, on all ranks."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        step = self.state.global_step + 1
        if step not in self.passed_over:
            spike = self.gradient_norms.spike({"all": float(cast(torch.Tensor, norm))})
            if spike is not None:
                raise SpikeError(spike, step)
        return norm

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Train nothing where the checkpoint is the last one: Trainer looks for the end only after a further step."""
        if self.state.global_step >= self.state.max_steps or self._out_of_patience():
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _out_of_patience(self) -> bool:
        return any(
            isinstance(callback, EarlyStoppingCallback)
            and callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.callback_handler.callbacks
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Let Trainer write into a folder beside the checkpoints, and rename that when every rank is done."""
        step = self.state.global_step

        def write(folder: Path) -> None:
            self._write_checkpoint(folder, model, trial)

        save(
            self.accelerator,
            self.checkpoints,
            step,
            write,
            keep_last=self.keep_checkpoints,
            keep_steps=self._best_steps,
            metrics=self._eval_of(step),
        )

    def _write_checkpoint(self, folder: Path, model: Any, trial: Any) -> None:
        self._writing = folder
        # Trainer would record the best checkpoint's folder, which is renamed, and miss it when it resumes: ours finds it.
        best_step, self.state.best_global_step = self.state.best_global_step, None
        # Trainer's own, not TRL's, which would write a model card into the stage's folder first.
        Trainer._save_checkpoint(self, model, trial)
        self.state.best_global_step = best_step
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            nested = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            for path in nested.iterdir():
                path.rename(folder / path.name)
            nested.rmdir()
            keep_norms(folder, self.gradient_norms)

    def _best_steps(self) -> list[int]:
        best = self.checkpoints.best(self.best_metric, greater_is_better=self.greater_is_better)
        return [best.step] if best else []

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._writing or self.checkpoints.folder)

    def _eval_of(self, step: int) -> dict[str, float] | None:
        latest = self.latest_eval
        return latest if latest is not None and latest["step"] == step else None

    def load_best(self) -> int | None:
        """Load the checkpoint with the best held-out metric; its step, or None where none was evaluated."""
        best = self.checkpoints.best(self.best_metric, greater_is_better=self.greater_is_better)
        if best is not None and best.step != self.state.global_step:
            best = first_rank(self.accelerator, partial(self.checkpoints.prove, best.step))
            self._load_from_checkpoint(str(best.path))
        return best.step if best else None

    def save_before_spike(self) -> None:
        """Save the steps before a spike where they are not saved yet."""
        step = self.state.global_step
        saved = {each.step for each in self.checkpoints.complete()}
        if (
            step
            and can_save_before(self.accelerator)
            and first_rank(self.accelerator, lambda: step not in saved)
        ):
            self._save_checkpoint(self.model_wrapped, None)

    def save_weights(self, folder: Path) -> None:
        """Write the model for publishing: safetensors, config and tokenizer, nothing pickled."""
        self.save_model(str(folder))
        if self.accelerator.is_main_process:
            for name in ("training_args.bin", "README.md"):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / "runs", ignore_errors=True)


class StageCallback(TrainerCallback):
    """Metrics file, a checkpoint at each new best, and a stop after saving when a signal asked for it."""

    def __init__(self, context: StageContext, trainer: CheckpointingTrainer) -> None:
        self.context = context
        self.trainer = trainer
        self.log: MetricsLog | None = None
        self.first_step = 0
        self.last_logged = 0

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the metrics file at the step that the run goes on from."""
        self.first_step = self.last_logged = state.global_step
        self.log = MetricsLog(
            self.context.folder / "metrics.jsonl",
            total_steps=state.max_steps,
            resume_step=state.global_step,
            enabled=state.is_world_process_zero,
        )

    def on_log(
        self, args: TrainingArguments, state: Any, control: Any, logs: Any = None, **kwargs: Any
    ) -> None:
        """Write numbers; text is Trainer's own chatter."""
        numbers = {
            name: float(value) for name, value in (logs or {}).items() if isinstance(value, (int, float))
        }
        if "loss" in numbers:
            window = range(self.last_logged + 1, state.global_step + 1)
            self.last_logged = state.global_step
            if self.trainer.passed_over.intersection(window):
                del numbers["loss"], numbers["grad_norm"]  # means over steps that were not made
        nothing_trained = "train_runtime" in numbers and state.global_step == self.first_step
        if self.log is not None and numbers and not nothing_trained:
            self.log.write(state.global_step, numbers)

    def on_evaluate(
        self, args: TrainingArguments, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> Any:
        """Remember the metrics for the checkpoint's marker, and save where they are the best so far."""
        trainer = self.trainer
        trainer.latest_eval = {name: float(value) for name, value in metrics.items()} | {
            "step": state.global_step
        }
        value = trainer.latest_eval.get(trainer.best_metric)
        best = trainer.checkpoints.best(trainer.best_metric, greater_is_better=trainer.greater_is_better)
        if value is not None and args.metric_for_best_model is not None:
            better = best is None or (
                value > best.metrics[trainer.best_metric]
                if trainer.greater_is_better
                else value < best.metrics[trainer.best_metric]
            )
            control.should_save = control.should_save or better
        return control

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> Any:
        """Save and stop when a signal came."""
        # All ranks decide together: one that stopped alone would wait in the save for the others, who train on.
        if any_rank(self.trainer.accelerator, stop_requested()):
            self.trainer.stopped = True
            control.should_save = True
            control.should_training_stop = True
        return control


def attach(
    trainer: CheckpointingTrainer,
    context: StageContext,
    section: TrainingSection,
    *,
    best_metric: str,
    greater_is_better: bool,
) -> None:
    """Give a constructed trainer its checkpoints and callbacks."""
    trainer.checkpoints = context.checkpoints
    trainer.keep_checkpoints = section.keep_checkpoints
    trainer.best_metric = best_metric
    trainer.greater_is_better = greater_is_better
    trainer.gradient_norms = GradientNorms(section.spike_factor)
    trainer.passed_over = passed_over(context.folder)
    trainer.add_callback(StageCallback(context, trainer))
    if section.patience is not None:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=section.patience))


def train(trainer: CheckpointingTrainer, context: StageContext, section: TrainingSection) -> bool:
    """Train from the newest complete checkpoint, or from the start; load the best weights at the end.

    Returns:
        False when a signal stopped it after saving.

    Raises:
        SpikeError: a spike, where the recipe has no rollback for it.
        Rollback: where it has.
    """
    newest = first_rank(trainer.accelerator, trainer.checkpoints.recover)
    restore_norms(newest, trainer.gradient_norms)
    try:
        trainer.train(resume_from_checkpoint=str(newest.path) if newest else None)
    except SpikeError as error:
        if section.on_spike == "stop":
            trainer.save_before_spike()
        rows = partial(rows_of_steps, trainer)
        stop_or_roll_back(context, section, trainer.accelerator, error.told(rows), step=error.step, rows=rows)
    if trainer.stopped and trainer.state.global_step < trainer.state.max_steps:
        return False
    if section.select_best and trainer.args.metric_for_best_model is not None:
        trainer.load_best()
    return True
