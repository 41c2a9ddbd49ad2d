"""What becomes of a PPO step: metrics, rollout records in Parquet, tables of samples, checkpoints; and resuming from the newest one."""

import gc
from collections.abc import Collection
from functools import partial

from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.errors import CheckpointError
from rlhf.metrics import MetricsLog
from rlhf.ppo.actor_critic import ActorCritic
from rlhf.ppo.episodes import Rollout
from rlhf.ppo.evaluation import Evaluation
from rlhf.ppo.nonfinite import UpdateError
from rlhf.ppo.trainer import PPOTrainer
from rlhf.recipe.ppo import PPOSection
from rlhf.stages.agreement import any_rank, first_rank
from rlhf.stages.context import StageContext
from rlhf.stages.inputs import METRICS_FILE, flatten
from rlhf.stages.offending import write_offending
from rlhf.stages.ppo_samples import TABLES_FOLDER, write_table
from rlhf.stages.rollout_records import ROLLOUTS_FOLDER, write_rollout
from rlhf.stages.saving import save
from rlhf.stages.sharded import require_layout, require_loadable
from rlhf.stages.signals import stop_requested
from rlhf.stages.spikes import passed_over, stop_or_roll_back


class PPOSink:
    """See `rlhf.ppo.sink.StepSink`."""

    def __init__(
        self,
        context: StageContext,
        section: PPOSection,
        accelerator: Accelerator,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.context = context
        self.section = section
        self.accelerator = accelerator
        self.tokenizer = tokenizer
        self.checkpoints = context.checkpoints
        self.metrics: MetricsLog | None = None
        self._has_recorded = False

    def resume(self, trainer: PPOTrainer) -> None:
        """Go on from the newest complete checkpoint, if there is one; every rank must find the same.

        Raises:
            CheckpointError: it was written under another strategy, or by processes that ZeRO cannot deal out anew; it
                lacks a piece; or the best one is gone.
            StageError: these processes are not those that the recipe asks for.
        """
        accelerator = self.accelerator
        launch, replica = self.context.recipe.launch, ActorCritic.__name__  # which exchanges gradients itself
        layout = require_layout(accelerator, trainer.model, launch, replica=replica)
        print(f"runs as: {layout}", flush=True)
        accelerator.register_for_checkpointing(trainer)
        newest = first_rank(accelerator, self.checkpoints.recover)
        if newest is not None:
            require_loadable(accelerator, newest.path)
            accelerator.load_state(str(newest.path))
            if trainer.step != newest.step:
                raise CheckpointError(f"{newest.path} holds step {trainer.step}, not {newest.step}")
            if trainer.selection.best is not None:
                first_rank(accelerator, partial(self.checkpoints.prove, trainer.selection.best.step))
        trainer.passed_over = passed_over(self.context.folder)
        if accelerator.is_main_process:
            self._forget_after(trainer.step)
        accelerator.wait_for_everyone()
        self.metrics = MetricsLog(
            self.context.folder / METRICS_FILE,
            total_steps=self.section.num_steps,
            resume_step=trainer.step,
            enabled=accelerator.is_main_process,
        )
        if self.context.recipe.trackers:
            accelerator.init_trackers(
                self.context.recipe.name,
                config=flatten(self.section.model_dump(mode="json", exclude_none=True)),
            )

    def train(self, trainer: PPOTrainer) -> bool:
        """Train; False when a signal stopped it after saving.

        Raises:
            UpdateError: a spike that stops the stage.
            Rollback: one that sends it back.
        """
        try:
            return trainer.train()
        except UpdateError as error:

            def rows(first: int, last: int) -> list[int]:
                steps = (trainer.prompts.step(step - 1) for step in range(first, last + 1))
                return sorted({prompt.prompt_id for step in steps for prompt, _ in step})

            stop_or_roll_back(
                self.context, self.section, self.accelerator, error, step=error.step + 1, rows=rows
            )
        finally:
            gc.unfreeze()

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Write to metrics.jsonl and the trackers."""
        assert self.metrics is not None
        self.metrics.write(step, metrics)
        if self.context.recipe.trackers:
            self.accelerator.log(metrics, step=step)

    def record(self, step: int, rollout: Rollout, computed: dict[str, Tensor], kl_coef: float) -> None:
        """Write this rank's share of the step's rollouts."""
        accelerator = self.accelerator
        if not self._has_recorded:
            # Models, imports and what a first step compiles stay: looking through them for garbage takes half a second
            # each time, in which all ranks wait for the one that does.
            gc.collect()
            gc.freeze()
            self._has_recorded = True
        write_rollout(
            self.context,
            self.tokenizer,
            rollout,
            computed,
            step=step,
            kl_coef=kl_coef,
            rank=accelerator.process_index,
            num_ranks=accelerator.num_processes,
        )

    def record_offending(self, step: int, rollout: Rollout, rows: list[int]) -> None:
        """Write the rows that an update failed on; every rank holds them, so the first one writes."""
        if rows and self.accelerator.is_main_process:
            path = write_offending(self.context.folder, rollout, rows, step, self.tokenizer)
            print(f"the offending responses are in {path}", flush=True)

    def table(self, step: int, evaluation: Evaluation) -> None:
        """Write the evaluation's table of samples."""
        num_shown = self.section.evaluation.num_shown
        if self.accelerator.is_main_process:
            write_table(self.context.folder, self.tokenizer, evaluation, step=step, num_shown=num_shown)

    def save_if_due(self, step: int, *, due: bool, keep_steps: Collection[int]) -> bool:
        """Save every so many steps, at the end, where the trainer says so, and when any rank was asked to stop."""
        accelerator, section = self.accelerator, self.section
        stop = any_rank(accelerator, stop_requested())
        if not (stop or due or step % section.save_every_steps == 0 or step == section.num_steps):
            return stop
        self._save(step, keep_steps)
        return stop

    def restore(self, step: int) -> None:
        """Load the complete checkpoint of a step; all ranks together.

        Raises:
            CheckpointError: there is none.
        """
        checkpoint = first_rank(self.accelerator, partial(self.checkpoints.prove, step))
        self.accelerator.load_state(str(checkpoint.path))

    def _forget_after(self, step: int) -> None:
        """Delete the rollouts and tables of steps that the checkpoint has not seen, as its metrics are dropped.

        They are sampled again; where that is by fewer processes, or training now ends earlier, the old ones would stay.
        """
        for folder in (ROLLOUTS_FOLDER, TABLES_FOLDER):
            for path in sorted((self.context.folder / folder).glob("step-*")):
                if int(path.name.removeprefix("step-").split("-")[0].split(".")[0]) > step:
                    path.unlink()

    def _save(self, step: int, keep_steps: Collection[int]) -> None:
        save(
            self.accelerator,
            self.checkpoints,
            step,
            lambda folder: self.accelerator.save_state(str(folder)),
            keep_last=self.section.keep_checkpoints,
            keep_steps=lambda: keep_steps,
        )
