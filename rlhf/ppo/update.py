"""One step's optimisation: several epochs of minibatches over a rollout (Schulman et al. 2017, algorithm 1)."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from rlhf.ppo.actor_critic import ROLES, Extent, Role, extent_of
from rlhf.ppo.episodes import Rollout
from rlhf.ppo.exchange import start_exchange
from rlhf.ppo.micro_batches import MicroBatches, lengths_of, padded_tokens, require_divisible
from rlhf.ppo.nonfinite import NonFiniteError, UpdateError
from rlhf.ppo.objective import objective
from rlhf.ppo.prompts import permutation
from rlhf.ppo.ptx import PTX
from rlhf.ppo.ratio import check_ratio
from rlhf.ppo.schedule import hold_frozen_groups, set_learning_rates
from rlhf.ppo.sharding import announce, backward, clip, drop_gradients, passes_talk, precision, step
from rlhf.ppo.spikes import GradientNorms
from rlhf.ppo.update_metrics import update_metrics
from rlhf.recipe.ppo import PPOSection


class _Passed(list[tuple[list[int], dict[str, Tensor]]]):
    """Micro-batches, each with its statistics."""


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
    concatenated minibatch's: the sum over ranks of local sum / global tokens.

    Args:
        section: the recipe's `ppo`.
        accelerator: Accelerate's handle on the processes.
        model: the prepared actor-critic.
        optimizer: prepared; each parameter group has a `role`, policy or critic.
        seed: the stage's.
        micro_batches: of all passes, so that what was found to fit is known to all; the section's where None.
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
        micro_batches: MicroBatches | None = None,
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
        self.micro_batches = micro_batches or MicroBatches(section)
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
                check_ratio(section, precision(self.accelerator), stats["abs_log_ratio"], step)
            stopped = section.target_kl is not None and stats["approxkl"] > section.target_kl
            if stopped:
                drop_gradients(self.accelerator, self.model, self.optimizer)
                break
            norms.append(self._optimizer_step(shared, rows, number))
        return update_metrics(seen, norms, rates, stopped=stopped)

    def _minibatches(self, num_rows: int, step: int) -> Iterator[list[int]]:
        size = num_rows // self.section.num_minibatches
        for epoch in range(self.section.num_epochs):
            order = permutation(num_rows, self.seed, step, epoch).tolist()
            for start in range(0, num_rows, size):
                yield order[start : start + size]

    def _accumulate(self, shared: _Step, rows: list[int], number: int) -> dict[str, float]:
        """Gradients and global statistics of a minibatch; a loss that is not finite ends here, on all ranks."""
        accelerator = self.accelerator
        num_tokens = int(shared.rollout.response_mask[torch.tensor(rows)].sum())
        share = rows[accelerator.process_index :: accelerator.num_processes]
        sums: dict[str, Tensor] = {}
        ptx = self.ptx if shared.trains_policy else None
        passed = None
        while passed is None:
            if ptx is not None:
                sums["ptx_loss"] = ptx.backward(self.model, shared.number, number)
            passed = self._passes(shared, share, num_tokens)
        parts = [part for _, part in passed]
        peak = torch.stack([part.pop("ratio_max") for part in parts]).max()
        for part in parts:
            for name, value in part.items():
                sums[name] = sums.get(name, torch.zeros((), device=accelerator.device)) + value
        names = sorted(sums)  # in one order on all ranks
        mine = torch.stack([*(sums[name] for name in names), peak])
        ranks = cast(Tensor, accelerator.gather(mine[None]))
        numbers = torch.cat([ranks[:, :-1].sum(dim=0), ranks[:, -1:].amax(dim=0)]).tolist()
        result = dict(zip([*names, "ratio_max"], numbers, strict=True))
        self._check_losses(shared, rows, number, result, passed)
        return result

    def _passes(self, shared: _Step, rows: list[int], num_tokens: int) -> _Passed | None:
        """Each micro-batch of this rank with its statistics; None: memory ran out, and nothing is left of the passes.

        Where a pass talks to nobody one role passes after the other: only its activations are held then.
        """
        accelerator, lengths = self.accelerator, lengths_of(shared.rollout)
        passed = _Passed((part, {}) for part in self.micro_batches.split(rows, lengths))
        together = passes_talk(accelerator)
        parts: list[tuple[Role, ...]] = [ROLES] if together else [(role,) for role in ROLES]
        exchanges: list[Callable[[], None]] = []
        ran_out = False
        for roles in parts:
            failed = self._pass_each(shared, passed, lengths, num_tokens, roles)
            ran_out = not together and self._ran_out(failed, lengths)
            if ran_out:
                break
            if not together and accelerator.num_processes > 1:
                exchanges.append(start_exchange(self._parameters_of(roles)))
        for finish in exchanges:  # also where what they sum is dropped next
            finish()
        if not ran_out:
            return passed
        drop_gradients(accelerator, self.model, self.optimizer)
        torch.cuda.empty_cache()
        return None

    def _pass_each(
        self,
        shared: _Step,
        passed: _Passed,
        lengths: list[tuple[int, int]],
        num_tokens: int,
        roles: tuple[Role, ...],
    ) -> list[int]:
        """Forward and backward of some roles; the micro-batch that did not fit, if any."""
        accelerator, rollout = self.accelerator, shared.rollout
        targets = {"advantages": shared.advantages, "returns": shared.returns}
        for place, (micro, stats) in enumerate(passed):
            announce(accelerator, self.model, last=place == len(passed) - 1)
            try:
                batch = rollout.micro_batch(micro, accelerator.device, **targets)
                extent = extent_of([lengths[row] for row in micro])
                loss, part = self._loss(shared, batch, extent, num_tokens, roles)
                backward(accelerator, self.model, loss)
            except torch.OutOfMemoryError:
                if passes_talk(accelerator):  # the others wait in that pass
                    raise
                return micro
            stats |= part | {"loss": stats.get("loss", 0.0) + part["loss"]}
        return []

    def _ran_out(self, failed: list[int], lengths: list[tuple[int, int]]) -> bool:
        """Whether memory ran out on any rank; micro-batches are cut finer then."""
        if failed:
            require_divisible(failed, lengths)
        tokens = padded_tokens(failed, lengths) if failed else None
        return self.micro_batches.shrink(tokens, self.accelerator)

    def _parameters_of(self, roles: Sequence[str]) -> list[nn.Parameter]:
        groups = (group for group in self.optimizer.param_groups if group["role"] in roles)
        return [parameter for group in groups for parameter in group["params"]]

    def _loss(
        self,
        shared: _Step,
        batch: dict[str, Tensor],
        extent: Extent,
        num_tokens: int,
        roles: tuple[Role, ...],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        inputs = [batch[name] for name in ("input_ids", "attention_mask", "response_mask")]
        with self.accelerator.autocast():
            outputs = self.model(*inputs, support=batch.get("support"), extent=extent, roles=roles)
        return objective(
            self.section,
            outputs,
            batch,
            num_tokens=num_tokens,
            kl_coef=shared.kl_coef,
            trains_policy=shared.trains_policy,
        )

    def _optimizer_step(self, shared: _Step, rows: list[int], number: int) -> dict[str, float]:
        norms = self._clip()
        spike = self.gradient_norms.spike(norms)
        if spike is not None:
            sft_rows = self._sft_rows(shared, number)
            raise UpdateError(spike, step=shared.number, rows=sorted(rows), sft_rows=sft_rows)
        hold_frozen_groups(self.optimizer)
        step(self.accelerator, self.model, self.optimizer)
        return norms

    def _clip(self) -> dict[str, float]:
        """Clip by role, or together under the policy's name; the norms before it."""
        parameters = {"policy": self.trainable}
        if self.section.clip_gradients == "per_role":
            parameters = {role: self._parameters_of([role]) for role in ROLES}
        return {
            name: clip(self.accelerator, self.model, members, self.section.max_grad_norm)
            for name, members in parameters.items()
        }

    def _check_losses(
        self, shared: _Step, minibatch: list[int], number: int, reduced: dict[str, float], mine: _Passed
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
