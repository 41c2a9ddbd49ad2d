"""One step's optimisation: several epochs of minibatches over a rollout (Schulman et al. 2017, algorithm 1)."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf.errors import TrainingError
from rlhf.ppo.episodes import Rollout
from rlhf.ppo.losses import policy_loss, value_loss
from rlhf.ppo.prompts import permutation
from rlhf.recipe.ppo import PPOSection

MAX_RATIO_DEVIATION = {"no": 1e-4, "bf16": 0.02}


class Updater:
    """Updates policy and critic together.

    A minibatch is drawn from the whole step's rows, and a rank takes its share of each, so the gradient is the
    concatenated minibatch's: local sum x world size / global tokens (DDP averages over ranks).
    """

    def __init__(
        self,
        section: PPOSection,
        *,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        seed: int,
    ) -> None:
        self.section = section
        self.accelerator = accelerator
        self.model = model
        self.optimizer = optimizer
        self.seed = seed
        self.trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def update(self, rollout: Rollout, advantages: Tensor, returns: Tensor, step: int) -> dict[str, float]:
        """Run the step's epochs.

        Args:
            rollout: all ranks' rows.
            advantages: [B, T] float32, whitened.
            returns: [B, T] float32.
            step: counts from 0; decides learning rate and minibatches.

        Returns:
            Means over the step's updates, under TRL's names.

        Raises:
            TrainingError: a non-finite loss or gradient (before it reaches the weights), or a ratio that is not 1
                on the first minibatch.
        """
        totals: dict[str, float] = defaultdict(float)
        section = self.section
        self._set_learning_rate(step)
        self.model.train()  # gradient checkpointing works in training mode alone
        num_updates = 0
        for epoch in range(section.num_epochs):
            for rows in self._minibatches(rollout.num_episodes, step, epoch):
                stats = self._minibatch(rollout, advantages, returns, rows, step)
                if num_updates == 0:
                    self._check_ratio(stats["abs_log_ratio"], step)
                    totals["first_abs_log_ratio"] = stats["abs_log_ratio"]
                for name, value in stats.items():
                    totals[name] += value
                num_updates += 1
        return self._metrics(totals, num_updates)

    def _minibatches(self, num_rows: int, step: int, epoch: int) -> Iterator[list[int]]:
        order = permutation(num_rows, self.seed, step, epoch).tolist()
        size = num_rows // self.section.num_minibatches
        for start in range(0, num_rows, size):
            yield order[start : start + size]

    def _minibatch(
        self, rollout: Rollout, advantages: Tensor, returns: Tensor, rows: list[int], step: int
    ) -> dict[str, float]:
        accelerator, section = self.accelerator, self.section
        num_tokens = int(rollout.response_mask[torch.tensor(rows)].sum())
        mine = rows[accelerator.process_index :: accelerator.num_processes]
        micro_batches = [
            mine[start : start + section.per_device_batch_size]
            for start in range(0, len(mine), section.per_device_batch_size)
        ]
        sums: dict[str, Tensor] = {}
        for number, micro in enumerate(micro_batches):
            last = number == len(micro_batches) - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                loss, stats = self._loss(rollout, advantages, returns, micro, num_tokens, step)
                accelerator.backward(loss * accelerator.num_processes)
            for name, value in stats.items():
                sums[name] = sums.get(name, torch.zeros((), device=accelerator.device)) + value.detach()
        reduced = cast(Tensor, accelerator.reduce(torch.stack(list(sums.values())), reduction="sum"))
        result = dict(zip(sums, reduced.tolist(), strict=True))
        result["grad_norm"] = self._optimizer_step(result, step)
        return result

    def _loss(
        self,
        rollout: Rollout,
        advantages: Tensor,
        returns: Tensor,
        rows: list[int],
        num_tokens: int,
        step: int,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        section, device = self.section, self.accelerator.device
        batch = rollout.micro_batch(rows, device)
        mask = batch["response_mask"]
        cut = slice(None, mask.shape[1])
        with self.accelerator.autocast():
            logprobs, entropy, values = self.model(batch["input_ids"], batch["attention_mask"], mask)
        pg_loss, pg_stats = policy_loss(
            logprobs,
            batch["logprobs"],
            advantages[rows][:, cut].to(device),
            mask,
            cliprange=section.cliprange,
            num_tokens=num_tokens,
        )
        vf_loss, vf_stats = value_loss(
            values,
            batch["values"],
            returns[rows][:, cut].to(device),
            mask,
            cliprange_value=section.cliprange_value,
            num_tokens=num_tokens,
        )
        loss = section.vf_coef * vf_loss + (0.0 if step < section.critic_warmup_steps else 1.0) * pg_loss
        return loss, {
            "loss": loss,
            "policy_loss": pg_loss,
            "value_loss": vf_loss,
            "approxkl": pg_stats["approxkl"],
            "clipfrac": pg_stats["clipfrac"],
            "ratio": pg_stats["ratio"],
            "value_clipfrac": vf_stats["clipfrac"],
            "entropy": entropy.detach().masked_fill(~mask, 0.0).sum() / num_tokens,
            "abs_log_ratio": pg_stats["abs_log_ratio"],
        }

    def _optimizer_step(self, stats: dict[str, float], step: int) -> float:
        norm = self.accelerator.clip_grad_norm_(self.trainable, self.section.max_grad_norm)
        grad_norm = float(norm) if norm is not None else 0.0
        finite = all(torch.isfinite(torch.tensor(value)) for value in (stats["loss"], grad_norm))
        if not finite:
            raise TrainingError(
                f"step {step + 1}: loss {stats['loss']}, gradient norm {grad_norm}: not finite, the weights were not touched",
                "Lower ppo.learning_rate and run again: PPO then starts anew from the same SFT and reward models.",
            )
        self._hold_frozen_groups()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return grad_norm

    def _set_learning_rate(self, step: int) -> None:
        """Linear warm-up, then linear decay to the floor; the policy's is 0 while only the critic trains."""
        section = self.section
        warmup = section.warmup_fraction * section.num_steps
        rising = min(1.0, (step + 1) / warmup) if warmup else 1.0
        falling = 1.0 - (1.0 - section.lr_floor_fraction) * step / section.num_steps
        for group in self.optimizer.param_groups:
            frozen = group["role"] == "policy" and step < section.critic_warmup_steps
            group["lr"] = 0.0 if frozen else section.learning_rate * rising * falling

    def _hold_frozen_groups(self) -> None:
        """Give AdamW no gradient where the rate is 0: zeros would run its step count while its moments stay empty."""
        for group in self.optimizer.param_groups:
            if group["lr"] == 0.0:
                for parameter in group["params"]:
                    parameter.grad = None

    def _check_ratio(self, abs_log_ratio: float, step: int) -> None:
        limit = self.section.max_ratio_deviation or MAX_RATIO_DEVIATION.get(
            self.accelerator.mixed_precision, 0.02
        )
        if abs_log_ratio > limit:
            raise TrainingError(
                f"step {step + 1}: mean |log ratio| on the first minibatch is {abs_log_ratio:.3g}, above {limit:.3g}: "
                "policy and rollout disagree about the same tokens before any update",
                "Likely causes: dropout left on, padding or positions, another sampling temperature, lower precision in one "
                "of the two passes. Raise ppo.max_ratio_deviation only if you know which.",
            )

    def _metrics(self, totals: dict[str, float], num_updates: int) -> dict[str, float]:
        mean = {name: value / num_updates for name, value in totals.items()}
        return {
            "loss/policy_avg": mean["policy_loss"],
            "loss/value_avg": mean["value_loss"],
            "policy/approxkl_avg": mean["approxkl"],
            "policy/clipfrac_avg": mean["clipfrac"],
            "policy/entropy_avg": mean["entropy"],
            "policy/grad_norm": mean["grad_norm"],
            "val/clipfrac_avg": mean["value_clipfrac"],
            "val/ratio": mean["ratio"],
            "val/first_log_ratio_abs": totals["first_abs_log_ratio"],
            "lr": max(group["lr"] for group in self.optimizer.param_groups),
        }
