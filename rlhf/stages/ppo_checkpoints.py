"""What becomes of a PPO step: metrics, rollout records in Parquet, checkpoints; and resuming from the newest one."""

from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.errors import CheckpointError
from rlhf.metrics import MetricsLog
from rlhf.ppo.episodes import Rollout
from rlhf.ppo.trainer import PPOTrainer
from rlhf.recipe.ppo import PPOSection
from rlhf.stages.agreement import any_rank
from rlhf.stages.context import StageContext
from rlhf.stages.inputs import METRICS_FILE, flatten
from rlhf.stages.rollout_records import write_rollout
from rlhf.stages.signals import stop_requested


class PPOSink:
    """See `rlhf.ppo.trainer.StepSink`."""

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
        self.last_evaluation: dict[str, float] = {}
        self.metrics: MetricsLog | None = None
        self._trainer: PPOTrainer | None = None

    def resume(self, trainer: PPOTrainer) -> None:
        """Go on from the newest complete checkpoint, if there is one; every rank must find the same.

        Raises:
            CheckpointError: it was written by another number of processes, or lacks a piece.
        """
        self._trainer = trainer
        accelerator = self.accelerator
        accelerator.register_for_checkpointing(trainer)
        newest = self.checkpoints.newest()
        if newest is not None:
            accelerator.load_state(str(newest.path))
            if trainer.step != newest.step:
                raise CheckpointError(f"{newest.path} holds step {trainer.step}, not {newest.step}")
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

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Write to metrics.jsonl and the trackers."""
        if any(name.startswith("eval/") for name in metrics):
            self.last_evaluation = dict(metrics)
        assert self.metrics is not None
        self.metrics.write(step, metrics)
        if self.context.recipe.trackers:
            self.accelerator.log(metrics, step=step)

    def record(self, step: int, rollout: Rollout, computed: dict[str, Tensor], kl_coef: float) -> None:
        """Write this rank's share of the step's rollouts."""
        accelerator = self.accelerator
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

    def save_if_due(self, step: int) -> bool:
        """Save every so many steps, at the end, and when any rank was asked to stop."""
        accelerator = self.accelerator
        stop = any_rank(accelerator, stop_requested())
        if not (stop or step % self.section.save_every_steps == 0 or step == self.section.num_steps):
            return stop
        writing = self.checkpoints.folder / f".writing-step-{step}"
        if accelerator.is_main_process:
            writing = self.checkpoints.begin(step)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(writing))
        # save_state has no barrier at its end: without this one, the marker could come before another rank's file.
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            self.checkpoints.commit(step)
            self.checkpoints.prune(self.section.keep_checkpoints)
        accelerator.wait_for_everyone()
        return stop
