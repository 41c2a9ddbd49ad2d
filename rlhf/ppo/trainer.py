"""The PPO loop: collect, reward, advantage, update, log, evaluate, save."""

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf.errors import CheckpointError
from rlhf.ppo.actor_critic import ActorCritic
from rlhf.ppo.advantages import gae, masked_moments, token_rewards, whiten
from rlhf.ppo.ema import PolicyEMA
from rlhf.ppo.episodes import Rollout
from rlhf.ppo.evaluation import Evaluator
from rlhf.ppo.kl import AdaptiveKLController, FixedKLController, KLController
from rlhf.ppo.measures import explained_variance, kl_per_response, rollout_metrics
from rlhf.ppo.noise import ROLLOUT_STREAM
from rlhf.ppo.nonfinite import UpdateError
from rlhf.ppo.prompts import PromptStream
from rlhf.ppo.replay import ReplayCollector
from rlhf.ppo.rewards import ScoreShaping
from rlhf.ppo.rollout import Collector
from rlhf.ppo.selection import Selection
from rlhf.ppo.sharding import whole_weights
from rlhf.ppo.sink import StepSink
from rlhf.ppo.sources.measures import source_metrics
from rlhf.ppo.update import Updater
from rlhf.ppo.watch import Watch
from rlhf.recipe.ppo import PPOSection

_STATE = ("step", "kl", "shaping", "watch", "selection", "evaluator", "ema", "micro_batches")


class PPOTrainer:
    """Trains the policy against the reward model.

    Args:
        section: the recipe's `ppo`.
        accelerator: Accelerate's handle on the processes.
        model: the prepared actor-critic.
        collector: samples and scores.
        updater: optimises.
        prompts: training prompts by step.
        shaping: score shaping.
        sink: metrics, records, checkpoints.
        watch: watchdogs; None: none.
        evaluator: evaluates on held-out prompts; None: no evaluation.
        ema: the policy's moving average, which is then what is evaluated and published.

    Attributes:
        passed_over: steps, counted from 1, that a rollback took out.
    """

    def __init__(
        self,
        section: PPOSection,
        *,
        accelerator: Accelerator,
        model: torch.nn.Module,
        collector: Collector | ReplayCollector,
        updater: Updater,
        prompts: PromptStream,
        shaping: ScoreShaping,
        sink: StepSink,
        watch: Watch | None = None,
        evaluator: Evaluator | None = None,
        ema: PolicyEMA | None = None,
    ) -> None:
        self.section = section
        self.accelerator = accelerator
        self.model = model
        self.collector = collector
        self.updater = updater
        self.prompts = prompts
        self.shaping = shaping
        self.sink = sink
        self.watch = watch
        self.evaluator = evaluator
        self.ema = ema
        self.step = 0
        self.passed_over: frozenset[int] = frozenset()
        self.kl = _kl_controller(section)
        self.selection = Selection(section.evaluation)

    def train(self) -> bool:
        """Run the remaining steps, then go back to the best one where the recipe selects it.

        Returns:
            True when training is done, by its steps or by an early stop; False when a signal stopped it after saving.
        """
        section = self.section
        if self.step == 0 and self.evaluate() and self._save(is_best=True):
            return False
        while not self.is_done:
            if self._passes_over():
                continue
            started = time.perf_counter()
            rollout = self._collect()
            sampled = time.perf_counter()
            shaped = self.shaping(rollout.scores, rollout.ended, rollout.response_mask.sum(dim=1))
            kl_coef = self.kl.value
            rewards = self._rewards(shaped, rollout, kl_coef)
            advantages, returns = gae(
                rewards,
                rollout.values,
                rollout.response_mask,
                gamma=section.gamma,
                lam=section.lam,
                bootstrap_values=rollout.bootstrap_values if section.bootstrap_truncated else None,
            )
            stats = self._update(rollout, self._whitened(advantages, rollout), returns, kl_coef)
            self.kl.update(float(kl_per_response(rollout).mean()), rollout.num_episodes)
            self.step += 1
            computed = {"shaped": shaped, "rewards": rewards, "advantages": advantages, "returns": returns}
            self.sink.record(self.step, rollout, computed, kl_coef)
            stats |= rollout_metrics(rollout, shaped, rewards) | source_metrics(rollout)
            stats["objective/kl_coef"] = kl_coef
            stats["val/explained_variance"] = explained_variance(
                returns, rollout.values, rollout.response_mask
            )
            self._log(stats | self._timing(started, sampled))
            is_best = self._evaluation_is_due and self.evaluate()
            if self._save(is_best=is_best) and not self.is_done:
                return False
        self._restore_best()
        return True

    @property
    def is_done(self) -> bool:
        """Whether all steps are done, or an evaluation said stop."""
        return self.step >= self.section.num_steps or self.selection.stop_reason is not None

    def evaluate(self) -> bool:
        """Evaluate what would be published now; whether it is the best so far."""
        if self.evaluator is None:
            return False
        with self.published_weights(), whole_weights(self.accelerator, self.model):
            evaluation = self.evaluator.evaluate(self._actor_critic())
        self.sink.log(self.step, evaluation.metrics)
        self.sink.table(self.step, evaluation)
        return self.selection.observe(self.step, evaluation.metrics)

    def published_weights(self) -> AbstractContextManager[None]:
        """Within it the model has the weights to be published: the policy's moving average, where there is one."""
        return nullcontext() if self.ema is None else self.ema.applied()

    def published_metrics(self) -> dict[str, float]:
        """Held-out metrics of the weights to be published, and the SFT model's beside them; empty without evaluation."""
        published = self.selection.published
        if published is None or self.evaluator is None or self.evaluator.baseline is None:
            return {}
        return published.metrics | self.evaluator.baseline.metrics

    def state_dict(self) -> dict[str, Any]:
        """All that is not in the model, the optimizer or a function of the step."""
        return {
            "step": self.step,
            "kl": self.kl.state_dict(),
            "shaping": self.shaping.state_dict(),
            "watch": None if self.watch is None else self.watch.state_dict(),
            "selection": self.selection.state_dict(),
            "evaluator": None if self.evaluator is None else self.evaluator.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "gradient_norms": self.updater.stepper.gradient_norms.state_dict(),
            "micro_batches": self.updater.micro_batches.state_dict(),
            "ptx": None if self.updater.ptx is None else self.updater.ptx.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            CheckpointError: a missing piece.
        """
        parts = {"watch": self.watch, "evaluator": self.evaluator, "ema": self.ema}
        missing = {name for name in _STATE if name not in state}
        missing |= {name for name, part in parts.items() if part is not None and state.get(name) is None}
        if missing:
            raise CheckpointError(f"the checkpoint's trainer state lacks {sorted(missing)}")
        self.step = int(state["step"])
        self.kl.load_state_dict(state["kl"])
        self.shaping.load_state_dict(state["shaping"])
        self.selection.load_state_dict(state["selection"])
        self.updater.stepper.gradient_norms.load_state_dict(state.get("gradient_norms", {}))
        self.updater.micro_batches.load_state_dict(state["micro_batches"])
        if self.updater.ptx is not None and state.get("ptx") is not None:
            self.updater.ptx.load_state_dict(state["ptx"])
        for name, part in parts.items():
            if part is not None:
                part.load_state_dict(state[name])

    def _passes_over(self) -> bool:
        """Whether the next step is one that a rollback took out: it counts as done, and changes nothing."""
        if self.step + 1 not in self.passed_over:
            return False
        self.step += 1
        if self.step == self.section.num_steps:
            self._save(is_best=self.evaluate())
        return True

    @property
    def _evaluation_is_due(self) -> bool:
        return self.step % self.section.eval_every_steps == 0 or self.step == self.section.num_steps

    def _collect(self) -> Rollout:
        with whole_weights(self.accelerator, self.model):
            return self.collector.collect(
                self._actor_critic(), self.prompts.step(self.step), self.step, stream=ROLLOUT_STREAM
            )

    def _actor_critic(self) -> ActorCritic:
        return cast(ActorCritic, self.accelerator.unwrap_model(self.model))

    def _rewards(self, shaped: Tensor, rollout: Rollout, kl_coef: float) -> Tensor:
        """Scores less the KL penalty, which is left to the update where the recipe puts it into the loss."""
        kl = self.section.kl
        in_loss = kl.place == "loss"
        return token_rewards(
            shaped,
            rollout.logprobs,
            rollout.ref_logprobs,
            rollout.response_mask,
            kl_coef=0.0 if in_loss else kl_coef,
            kl_estimator="k1" if in_loss else kl.estimator,
        )

    def _whitened(self, advantages: Tensor, rollout: Rollout) -> Tensor:
        """Whitened over the global batch: every rank holds all of it."""
        mask = rollout.response_mask
        if not self.section.whiten_advantages:
            return advantages
        return whiten(advantages, mask, moments=masked_moments(advantages, mask))

    def _update(
        self, rollout: Rollout, advantages: Tensor, returns: Tensor, kl_coef: float
    ) -> dict[str, float]:
        try:
            stats = self.updater.update(rollout, advantages, returns, self.step, kl_coef=kl_coef)
        except UpdateError as error:
            self.sink.record_offending(self.step + 1, rollout, error.rows)
            raise
        if self.ema is not None:
            self.ema.update()
        return stats

    def _log(self, stats: dict[str, float]) -> None:
        """Log the step even where a watchdog then stops the run: its numbers say why."""
        try:
            if self.watch is not None:
                stats |= self.watch.check(self.step, stats)
        finally:
            self.sink.log(self.step, stats)

    def _save(self, *, is_best: bool) -> bool:
        best = self.selection.best
        keep = () if best is None else (best.step,)
        return self.sink.save_if_due(self.step, due=is_best or self.is_done, keep_steps=keep)

    def _restore_best(self) -> None:
        best, reason = self.selection.best, self.selection.stop_reason
        if reason is not None:
            self.accelerator.print(f"stopped early at step {self.step}: {reason}", flush=True)
        if best is not None and best.step != self.step:
            name = self.section.evaluation.select_best
            self.accelerator.print(f"publishing step {best.step}, which has the highest {name}", flush=True)
            self.sink.restore(best.step)

    def _timing(self, started: float, sampled: float) -> dict[str, float]:
        now = time.perf_counter()
        return {
            "episode": float(self.step * self.section.global_batch_size),
            "eps": self.section.global_batch_size / (now - started),
            "time/rollout_seconds": sampled - started,
            **self.collector.seconds,
            "time/update_seconds": now - sampled,
        }


def _kl_controller(section: PPOSection) -> KLController:
    if section.kl.target is None:
        return FixedKLController(section.kl.coef)
    return AdaptiveKLController(section.kl.coef, section.kl.target, section.kl.horizon)
