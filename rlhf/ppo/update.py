"""One step's optimisation: several epochs of minibatches over a rollout (Schulman et al. 2017, algorithm 1)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean, pvariance
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from rlhf.errors import TrainingError
from rlhf.ppo.episodes import Rollout
from rlhf.ppo.nonfinite import NonFiniteError, UpdateError
from rlhf.ppo.objective import objective
from rlhf.ppo.prompts import permutation
from rlhf.ppo.ptx import PTX
from rlhf.ppo.schedule import set_learning_rates
from rlhf.ppo.sharding import backward, clip, drop_gradients, exchanging, precision, step
from rlhf.ppo.spikes import GradientNorms
from rlhf.recipe.ppo import PPOSection

MAX_RATIO_DEVIATION = {"no": 1e-5, "bf16": 0.02}


@dataclass(frozen=True)
class _Step:
    """What all updates of a step share."""

    rollout: Rollout
    advantages: Tensor
    returns: Tensor
    number: int
    kl_coef: float
    trains_policy: bool


class Updater:
    """Updates policy and critic together.

    A minibatch is drawn from the whole step's rows, and a rank takes its share of each, so the gradient is the
    concatenated minibatch's: local sum x world size / global tokens (DDP averages over ranks).

    Args:
        section: the recipe's `ppo`.
        accelerator: Accelerate's handle on the processes.
        model: the prepared actor-critic.
        optimizer: prepared; each parameter group has a `role`, policy or critic.
        seed: the stage's.
        ptx: the SFT rows, where `ptx_coef` is set.

    Raises:
        ValueError: `ptx_coef` without `ptx`.
    """

    def __init__(
        self,
        section: PPOSection,
        *,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        seed: int,
        ptx: PTX | None = None,
    ) -> None:
        if section.ptx_coef and ptx is None:
            raise ValueError(f"ptx_coef={section.ptx_coef} needs the SFT rows: pass ptx")
        self.section = section
        self.accelerator = accelerator
        self.model = model
        self.optimizer = optimizer
        self.seed = seed
        self.ptx = ptx if section.ptx_coef else None
        self.gradient_norms = GradientNorms(section.spike_factor)
        self.trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def update(
        self,
        rollout: Rollout,
        advantages: Tensor,
        returns: Tensor,
        step: int,
        *,
        kl_coef: float | None = None,
    ) -> dict[str, float]:
        """Run the step's epochs, up to `target_kl`.

        Args:
            rollout: all ranks' rows.
            advantages: [B, T] float32, whitened.
            returns: [B, T] float32.
            step: counts from 0; decides learning rate, minibatches and SFT rows.
            kl_coef: the KL coefficient of now, for `kl.place: loss`, which needs it; else unread.

        Returns:
            Means over the step's minibatches, under TRL's names. A minibatch that `target_kl` dropped counts, but
            for gradient norms, which are those of the updates made.

        Raises:
            UpdateError: a loss or gradient that is not finite, or a spike, before it reaches the weights.
            TrainingError: a ratio that is not 1 on the first minibatch, before any update.
            ValueError: no kl_coef for `kl.place: loss`.
        """
        section = self.section
        if section.kl.place == "loss" and kl_coef is None:
            raise ValueError("kl.place: loss needs kl_coef")
        trains_policy = step >= section.critic_warmup_steps
        shared = _Step(rollout, advantages, returns, step, kl_coef or 0.0, trains_policy)
        rates = set_learning_rates(self.optimizer, section, step)
        self.model.train()  # gradient checkpointing works in training mode alone
        seen: list[dict[str, float]] = []
        norms: list[dict[str, float]] = []
        stopped = False
        for number, rows in enumerate(self._minibatches(rollout.num_episodes, step)):
            stats = self._accumulate(shared, rows, number)
            seen.append(stats)
            if number == 0:
                self._check_ratio(stats["abs_log_ratio"], step)
            stopped = section.target_kl is not None and stats["approxkl"] > section.target_kl
            if stopped:
                drop_gradients(self.accelerator, self.model, self.optimizer)
                break
            norms.append(self._optimizer_step(shared, rows, number))
        return _metrics(seen, norms, rates, stopped=stopped)

    def _minibatches(self, num_rows: int, step: int) -> Iterator[list[int]]:
        size = num_rows // self.section.num_minibatches
        for epoch in range(self.section.num_epochs):
            order = permutation(num_rows, self.seed, step, epoch).tolist()
            for start in range(0, num_rows, size):
                yield order[start : start + size]

    def _accumulate(self, shared: _Step, rows: list[int], number: int) -> dict[str, float]:
        """Gradients and global statistics of a minibatch; a loss that is not finite ends here, on all ranks."""
        accelerator, size = self.accelerator, self.section.per_device_batch_size
        lengths = shared.rollout.response_mask.sum(dim=1).tolist()
        num_tokens = sum(lengths[row] for row in rows)
        # Rows of like length share a micro-batch, so that little padding is computed.
        mine = sorted(
            rows[accelerator.process_index :: accelerator.num_processes], key=lambda row: (lengths[row], row)
        )
        micro_batches = [mine[start : start + size] for start in range(0, len(mine), size)]
        sums: dict[str, Tensor] = {}
        ptx = self.ptx if shared.trains_policy else None
        if ptx is not None:
            sums["ptx_loss"] = ptx.backward(self.model, shared.number, number)
        parts: list[dict[str, Tensor]] = []
        for place, micro in enumerate(micro_batches):
            last = place == len(micro_batches) - 1
            with exchanging(accelerator, self.model, last=last):
                loss, stats = self._loss(shared, micro, num_tokens)
                backward(accelerator, self.model, loss * accelerator.num_processes)
            parts.append(stats)
        peak = torch.stack([part.pop("ratio_max") for part in parts]).max()
        for part in parts:
            for name, value in part.items():
                sums[name] = sums.get(name, torch.zeros((), device=accelerator.device)) + value
        reduced = cast(Tensor, accelerator.reduce(torch.stack(list(sums.values())), reduction="sum"))
        result = dict(zip(sums, reduced.tolist(), strict=True))
        self._check_losses(shared, rows, number, result, list(zip(micro_batches, parts, strict=True)))
        result["ratio_max"] = float(cast(Tensor, accelerator.gather(peak)).max())
        return result

    def _loss(self, shared: _Step, rows: list[int], num_tokens: int) -> tuple[Tensor, dict[str, Tensor]]:
        device = self.accelerator.device
        batch = shared.rollout.micro_batch(rows, device)
        mask = batch["response_mask"]
        cut = slice(None, mask.shape[1])
        support = {"support": batch["support"]} if "support" in batch else {}
        with self.accelerator.autocast():
            outputs = self.model(batch["input_ids"], batch["attention_mask"], mask, **support)
        return objective(
            self.section,
            outputs,
            batch,
            shared.advantages[rows][:, cut].to(device),
            shared.returns[rows][:, cut].to(device),
            num_tokens=num_tokens,
            kl_coef=shared.kl_coef,
            trains_policy=shared.trains_policy,
        )

    def _optimizer_step(self, shared: _Step, rows: list[int], number: int) -> dict[str, float]:
        norms = self._clip()
        spike = self.gradient_norms.spike(norms)
        if spike is not None:
            raise UpdateError(
                spike,
                step=shared.number,
                rows=sorted(rows),
                sft_rows=self._sft_rows(shared, number),
            )
        self._hold_frozen_groups()
        step(self.accelerator, self.model, self.optimizer)
        return norms

    def _clip(self) -> dict[str, float]:
        """Clip by role, or together under the policy's name; the norms before it."""
        parameters = {"policy": self.trainable}
        if self.section.clip_gradients == "per_role":
            parameters = {
                role: [
                    p
                    for group in self.optimizer.param_groups
                    if group["role"] == role
                    for p in group["params"]
                ]
                for role in ("policy", "critic")
            }
        return {
            name: clip(self.accelerator, self.model, members, self.section.max_grad_norm)
            for name, members in parameters.items()
        }

    def _hold_frozen_groups(self) -> None:
        """Give AdamW no gradient where the rate is 0: zeros would run its step count while its moments stay empty."""
        for group in self.optimizer.param_groups:
            if group["lr"] == 0.0:
                for parameter in group["params"]:
                    parameter.grad = None

    def _check_losses(
        self,
        shared: _Step,
        minibatch: list[int],
        number: int,
        reduced: dict[str, float],
        mine: list[tuple[list[int], dict[str, Tensor]]],
    ) -> None:
        """`reduced` is the same on all ranks, so that all of them gather the rows at fault and raise, or none does."""
        checked = {name: reduced[name] for name in ("loss", "approxkl", "ptx_loss") if name in reduced}
        if all(map(math.isfinite, checked.values())):
            return
        at_fault = [
            rows
            for rows, stats in mine
            if not bool(torch.isfinite(stats["loss"]) & torch.isfinite(stats["approxkl"]))
        ]
        rows = sorted(gather_object([row for rows in at_fault for row in rows]))
        if not rows and math.isfinite(checked.get("ptx_loss", 0.0)):
            rows = sorted(minibatch)  # each part is finite, their sum is not
        raise NonFiniteError(
            ", ".join(f"{name} {value}" for name, value in checked.items()),
            step=shared.number,
            rows=rows,
            sft_rows=self._sft_rows(shared, number),
        )

    def _sft_rows(self, shared: _Step, number: int) -> list[int]:
        if self.ptx is None or not shared.trains_policy:
            return []
        return sorted(self.ptx.chosen(shared.number, number))

    def _check_ratio(self, abs_log_ratio: float, step: int) -> None:
        limit = self.section.max_ratio_deviation or MAX_RATIO_DEVIATION.get(precision(self.accelerator), 0.02)
        if abs_log_ratio > limit:
            raise TrainingError(
                f"step {step + 1}: mean |log ratio| on the first minibatch is {abs_log_ratio:.3g}, above {limit:.3g}: "
                "policy and rollout disagree about the same tokens before any update",
                "Likely causes: dropout left on, padding or positions, another sampling temperature, lower precision in one "
                "of the two passes. Raise ppo.max_ratio_deviation only if you know which.",
            )


def _metrics(
    seen: list[dict[str, float]], norms: list[dict[str, float]], rates: dict[str, float], *, stopped: bool
) -> dict[str, float]:
    mean = {name: fmean(stats[name] for stats in seen) for name in seen[0]}
    metrics = {
        "loss/policy_avg": mean["policy_loss"],
        "loss/value_avg": mean["value_loss"],
        "policy/approxkl_avg": mean["approxkl"],
        "policy/clipfrac_avg": mean["clipfrac"],
        "policy/entropy_avg": mean["entropy"],
        "policy/num_updates": float(len(norms)),
        "policy/epochs_stopped_early": float(stopped),
        "val/clipfrac_avg": mean["value_clipfrac"],
        "val/ratio": mean["ratio"],
        "val/ratio_max": max(stats["ratio_max"] for stats in seen),
        "val/ratio_var": pvariance(stats["ratio"] for stats in seen),
        "val/first_log_ratio_abs": seen[0]["abs_log_ratio"],
        "lr": rates["policy"],
        "lr_critic": rates["critic"],
    }
    if "ptx_loss" in mean:
        metrics["loss/ptx_avg"] = mean["ptx_loss"]
    if "kl" in mean:
        metrics["loss/kl_avg"] = mean["kl"]
    if norms:
        metrics["policy/grad_norm"] = fmean(made["policy"] for made in norms)
        if "critic" in norms[0]:
            metrics["val/grad_norm"] = fmean(made["critic"] for made in norms)
    return metrics
