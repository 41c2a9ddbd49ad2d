"""The PPO loop: collect, reward, advantage, update, log, save."""

import time
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf.errors import CheckpointError
from rlhf.ppo.actor_critic import ActorCritic
from rlhf.ppo.advantages import gae, masked_moments, token_rewards, whiten
from rlhf.ppo.episodes import Rollout
from rlhf.ppo.kl import AdaptiveKLController, FixedKLController
from rlhf.ppo.measures import evaluation_metrics, explained_variance, kl_per_response, rollout_metrics
from rlhf.ppo.noise import EVALUATION_STREAM, ROLLOUT_STREAM
from rlhf.ppo.prompts import Prompt, PromptStream
from rlhf.ppo.rewards import ScoreShaping
from rlhf.ppo.rollout import Collector
from rlhf.ppo.update import Updater
from rlhf.recipe.ppo import PPOSection


class StepSink(Protocol):
    """What becomes of a finished step: metrics, rollout records, checkpoints. Called on every rank."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Write the step's metrics."""
        ...

    def record(self, step: int, rollout: Rollout, computed: dict[str, Tensor], kl_coef: float) -> None:
        """Write the step's rollouts; `computed` has shaped [B], rewards, advantages and returns [B, T]."""
        ...

    def save_if_due(self, step: int) -> bool:
        """Save a checkpoint where one is due; True: stop here, a signal asked for it."""
        ...


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
        eval_prompts: held-out prompts; empty: no evaluation.
    """

    def __init__(
        self,
        section: PPOSection,
        *,
        accelerator: Accelerator,
        model: torch.nn.Module,
        collector: Collector,
        updater: Updater,
        prompts: PromptStream,
        shaping: ScoreShaping,
        sink: StepSink,
        eval_prompts: list[Prompt],
    ) -> None:
        self.section = section
        self.accelerator = accelerator
        self.model = model
        self.collector = collector
        self.updater = updater
        self.prompts = prompts
        self.shaping = shaping
        self.sink = sink
        self.eval_prompts = eval_prompts
        self.step = 0
        self.kl = _kl_controller(section)

    def train(self) -> bool:
        """Run the remaining steps.

        Returns:
            True when all steps are done, False when a signal stopped it after saving.
        """
        section = self.section
        if self.step == 0:
            self.evaluate()
        while self.step < section.num_steps:
            started = time.perf_counter()
            rollout = self._collect()
            sampled = time.perf_counter()
            shaped = self.shaping(rollout.scores, rollout.ended)
            kl_coef = self.kl.value
            rewards = token_rewards(
                shaped,
                rollout.logprobs,
                rollout.ref_logprobs,
                rollout.response_mask,
                kl_coef=kl_coef,
                kl_estimator=section.kl.estimator,
            )
            advantages, returns = gae(
                rewards, rollout.values, rollout.response_mask, gamma=section.gamma, lam=section.lam
            )
            stats = self.updater.update(rollout, self._whitened(advantages, rollout), returns, self.step)
            self.kl.update(float(kl_per_response(rollout).mean()), rollout.num_episodes)
            self.step += 1
            computed = {"shaped": shaped, "rewards": rewards, "advantages": advantages, "returns": returns}
            self.sink.record(self.step, rollout, computed, kl_coef)
            stats |= rollout_metrics(rollout, shaped, rewards)
            stats["objective/kl_coef"] = kl_coef
            stats["val/explained_variance"] = explained_variance(
                returns, rollout.values, rollout.response_mask
            )
            self.sink.log(self.step, stats | self._timing(started, sampled))
            if self.step % section.eval_every_steps == 0 or self.step == section.num_steps:
                self.evaluate()
            if self.sink.save_if_due(self.step) and self.step < section.num_steps:
                return False
        return True

    def evaluate(self) -> dict[str, float]:
        """Sample held-out prompts from a stream of its own, so that training does not depend on how often this runs."""
        if not self.eval_prompts:
            return {}
        samples = self.section.eval_samples_per_prompt
        batch = [(prompt, sample) for prompt in self.eval_prompts for sample in range(samples)]
        rollout = self.collector.collect(
            self._actor_critic(),
            batch,
            0,
            stream=EVALUATION_STREAM,
            temperature=self.section.sampling.temperature,
        )
        metrics = evaluation_metrics(rollout)
        self.sink.log(self.step, metrics)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Step and KL coefficient: all that is not in the model, the optimizer or a function of the step."""
        return {
            "step": self.step,
            "kl": self.kl.state_dict(),
            "num_processes": self.accelerator.num_processes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            CheckpointError: a missing piece, or another number of processes, whose state it cannot hold.
        """
        missing = {"step", "kl"} - set(state)
        if missing:
            raise CheckpointError(f"the checkpoint's trainer state lacks {sorted(missing)}")
        written_by, here = state.get("num_processes"), self.accelerator.num_processes
        if written_by != here:
            raise CheckpointError(
                f"the checkpoint was written by {written_by} processes, these are {here}",
                f"Go on with launch.num_processes: {written_by}, or start anew with --fresh.",
            )
        self.step = int(state["step"])
        self.kl.load_state_dict(state["kl"])

    def _collect(self) -> Rollout:
        return self.collector.collect(
            self._actor_critic(),
            self.prompts.step(self.step),
            self.step,
            stream=ROLLOUT_STREAM,
            temperature=self.section.sampling.temperature,
        )

    def _actor_critic(self) -> ActorCritic:
        return cast(ActorCritic, self.accelerator.unwrap_model(self.model))

    def _whitened(self, advantages: Tensor, rollout: Rollout) -> Tensor:
        """Whitened over the global batch: every rank holds all of it."""
        mask = rollout.response_mask
        if not self.section.whiten_advantages:
            return advantages
        return whiten(advantages, mask, moments=masked_moments(advantages, mask))

    def _timing(self, started: float, sampled: float) -> dict[str, float]:
        now = time.perf_counter()
        return {
            "episode": float(self.step * self.section.global_batch_size),
            "eps": self.section.global_batch_size / (now - started),
            "time/rollout_seconds": sampled - started,
            "time/update_seconds": now - sampled,
        }


def _kl_controller(section: PPOSection) -> AdaptiveKLController | FixedKLController:
    if section.kl.target is None:
        return FixedKLController(section.kl.coef)
    return AdaptiveKLController(section.kl.coef, section.kl.target, section.kl.horizon)
