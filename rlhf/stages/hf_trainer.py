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
from rlhf.models.quantized import kept_in_float32
from rlhf.ppo.spikes import GradientNorms
from rlhf.recipe.launch import LaunchSection
from rlhf.recipe.training import TrainingSection
from rlhf.stages.agreement import any_rank, first_rank
from rlhf.stages.context import StageContext
from rlhf.stages.saving import save
from rlhf.stages.sharded import (
    let_cpus_shard,
    load_weights,
    release_at_once,
    require_layout,
    require_loadable,
)
from rlhf.stages.signals import stop_requested
from rlhf.stages.spikes import SpikeError, keep_norms, passed_over, restore_norms, stop_or_roll_back
from rlhf.stages.step_rows import can_save_before, rows_of_steps
from rlhf.stages.trainer_metrics import TrainerMetrics


class CheckpointingTrainer(Trainer):
    """A Trainer whose checkpoints appear whole or not at all, as `step-N`; mixed in before TRL's class."""

    checkpoints: Checkpoints
    keep_checkpoints: int
    best_metric: str
    greater_is_better: bool
    latest_eval: dict[str, float] | None = None
    stopped = False
    metrics: TrainerMetrics
    resumed_from: Path | None = None
    _writing: Path | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Trainer's; one process, and nothing passed over, until `attach` says otherwise."""
        with kept_in_float32(kwargs["model"]):
            super().__init__(*args, **kwargs)
        self.launch = LaunchSection()
        self.gradient_norms = GradientNorms(None)
        self.passed_over: frozenset[int] = frozenset()

    def create_accelerator_and_postprocess(self) -> None:
        """Trainer's, on CPUs too."""
        let_cpus_shard()
        super().create_accelerator_and_postprocess()

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's; then the model must lie on the processes as the recipe says."""
        prepared = super()._prepare_for_training(*args, **kwargs)
        model = cast(torch.nn.Module, self.model_wrapped)
        print(f"runs as: {require_layout(self.accelerator, model, self.launch)}", flush=True)
        return prepared

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
        self.metrics.save(folder)
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
            load_weights(self, best.path)
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
            self.metrics.take_back_step()
            self._save_checkpoint(self.model_wrapped, None)

    def save_weights(self, folder: Path) -> None:
        """Write the model for publishing: safetensors, config and tokenizer, nothing pickled."""
        self.save_model(str(folder))
        if self.accelerator.is_main_process:
            for name in ("training_args.bin", "README.md"):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / "runs", ignore_errors=True)


class StageCallback(TrainerCallback):
    """A checkpoint at each new best, and a stop after saving when a signal asked for it."""

    def __init__(self, trainer: CheckpointingTrainer) -> None:
        self.trainer = trainer

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
    release_at_once(trainer.accelerator)
    trainer.launch = context.recipe.launch
    trainer.checkpoints = context.checkpoints
    trainer.keep_checkpoints = section.keep_checkpoints
    trainer.best_metric = best_metric
    trainer.greater_is_better = greater_is_better
    trainer.gradient_norms = GradientNorms(section.spike_factor)
    trainer.passed_over = passed_over(context.folder)
    trainer.metrics = TrainerMetrics(context.folder / "metrics.jsonl", trainer)
    trainer.add_callback(trainer.metrics)
    trainer.add_callback(StageCallback(trainer))
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
    if newest is not None:
        require_loadable(trainer.accelerator, newest.path)
    restore_norms(newest, trainer.gradient_norms)
    trainer.resumed_from = newest.path if newest else None
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
