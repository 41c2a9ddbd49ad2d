"""One step's optimisation: several epochs of minibatches over a rollout (Schulman et al. 2017, algorithm 1)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from rlhf.models.transfer import OnItsWay
from rlhf.ppo.episodes import Rollout
from rlhf.ppo.micro_batches import MicroBatches
from rlhf.ppo.nonfinite import NonFiniteError, UpdateError
from rlhf.ppo.passes import Passed, Passes, StepInputs
from rlhf.ppo.prompts import permutation
from rlhf.ppo.ptx import PTX
from rlhf.ppo.ratio import check_ratio
from rlhf.ppo.schedule import set_learning_rates
from rlhf.ppo.sharding import drop_gradients, precision
from rlhf.ppo.stepping import Stepper
from rlhf.ppo.update_metrics import update_metrics
from rlhf.recipe.ppo import PPOSection

_CHECKED = ("loss", "approxkl", "ptx_loss")


class _Account(NamedTuple):
    """Statistics of the minibatches read, and gradient norms of those taken."""

    seen: list[dict[str, float]]
    norms: list[dict[str, float]]


@dataclass
class _Minibatch:
    """One whose gradients are there, as soon as the device has done what it was given.

    Attributes:
        rows: of the rollout, over all ranks.
        number: of the step, from 0.
        passed: this rank's micro-batches.
        numbers: 0-dim statistics of the whole minibatch, on the device.
        norms: 0-dim, of its gradients before clipping.
        shown: `numbers`, then `norms`, on their way to the host.
        is_good: 0-dim bool: whether the device takes it; None: the host decides.
        verdict: the same, on its way to the host.
    """

    rows: list[int]
    number: int
    passed: Passed
    numbers: dict[str, Tensor]
    norms: dict[str, Tensor]
    shown: OnItsWay
    is_good: Tensor | None = None
    verdict: OnItsWay | None = None

    @property
    def losses(self) -> dict[str, Tensor]:
        """What must be finite."""
        return {name: self.numbers[name] for name in _CHECKED if name in self.numbers}


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
        self.passes = Passes(
            section,
            accelerator=accelerator,
            model=model,
            optimizer=optimizer,
            micro_batches=self.micro_batches,
        )
        self.stepper = Stepper(section, accelerator=accelerator, model=model, optimizer=optimizer)

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
        shared = StepInputs(rollout, advantages, returns, step, kl_coef or 0.0, trains_policy)
        rates = set_learning_rates(self.optimizer, section, step)
        self.model.train()  # gradient checkpointing works in training mode alone
        account = _Account([], [])
        on_device = self.stepper.decides_on_device
        stopped, unread = False, None
        for number, rows in enumerate(self._minibatches(rollout.num_episodes, step)):
            minibatch = self._accumulate(shared, rows, number)
            # The device has these passes to make while the host reads the numbers of those before.
            stopped = unread is not None and self._stops(shared, unread, account)
            unread = None
            if on_device and not stopped:
                minibatch.is_good = self.stepper.is_good(minibatch.losses, minibatch.norms)
                minibatch.verdict = OnItsWay(minibatch.is_good)
            if on_device and number > 0:  # the first one's ratio is checked
                unread = minibatch
            else:
                stopped = self._stops(shared, minibatch, account)
            if stopped:
                unread = None
                drop_gradients(self.accelerator, self.model, self.optimizer)
                break
            if minibatch.is_good is None:
                self.stepper.step(account.norms[-1])
            else:
                self.stepper.step_if(minibatch.is_good, minibatch.norms)
        if unread is not None:
            stopped = self._stops(shared, unread, account)
        return update_metrics(account.seen, account.norms, rates, stopped=stopped)

    def _minibatches(self, num_rows: int, step: int) -> Iterator[list[int]]:
        size = num_rows // self.section.num_minibatches
        for epoch in range(self.section.num_epochs):
            order = permutation(num_rows, self.seed, step, epoch).tolist()
            for start in range(0, num_rows, size):
                yield order[start : start + size]

    def _accumulate(self, shared: StepInputs, rows: list[int], number: int) -> _Minibatch:
        """Gradients and statistics of a minibatch."""
        accelerator = self.accelerator
        num_tokens = int(shared.rollout.response_mask[torch.tensor(rows)].sum())
        share = rows[accelerator.process_index :: accelerator.num_processes]
        sums: dict[str, Tensor] = {}
        ptx = self.ptx if shared.trains_policy else None
        passed = None
        while passed is None:
            if ptx is not None:
                sums["ptx_loss"] = ptx.backward(self.model, shared.number, number)
            passed = self.passes.of(shared, share, num_tokens)
        parts = [part for _, part in passed]
        peak = torch.stack([part.pop("ratio_max") for part in parts]).max()
        for part in parts:
            for name, value in part.items():
                sums[name] = sums.get(name, torch.zeros((), device=accelerator.device)) + value
        names = sorted(sums)  # in one order on all ranks
        mine = torch.stack([*(sums[name] for name in names), peak])
        ranks = cast(Tensor, accelerator.gather(mine[None]))
        reduced = torch.cat([ranks[:, :-1].sum(dim=0), ranks[:, -1:].amax(dim=0)])
        numbers = dict(zip([*names, "ratio_max"], reduced, strict=True))
        norms = self.stepper.norms()
        shown = OnItsWay(torch.stack([*numbers.values(), *norms.values()]))
        return _Minibatch(rows, number, passed, numbers, norms, shown)

    def _stops(self, shared: StepInputs, minibatch: _Minibatch, account: _Account) -> bool:
        """Read a minibatch's numbers and take account of it; whether `target_kl` leaves it out.

        Raises:
            UpdateError: one that must not be taken.
            TrainingError: the first one's ratio.
        """
        shown = iter(minibatch.shown.arrived().tolist())
        stats = {name: next(shown) for name in minibatch.numbers}
        norms = {name: next(shown) for name in minibatch.norms}
        self._check_losses(shared, minibatch, stats)
        if minibatch.number == 0:
            check_ratio(self.section, precision(self.accelerator), stats["abs_log_ratio"], shared.number)
        account.seen.append(stats)
        stops = self.section.target_kl is not None and stats["approxkl"] > self.section.target_kl
        if not stops:
            self._require_usual(shared, minibatch, norms)
            account.norms.append(norms)
        if minibatch.verdict is not None and bool(minibatch.verdict.arrived()) == stops:
            raise RuntimeError(f"host and device differ on minibatch {minibatch.number}: {stats | norms}")
        return stops

    def _require_usual(self, shared: StepInputs, minibatch: _Minibatch, norms: dict[str, float]) -> None:
        spike = self.stepper.gradient_norms.spike(norms)
        if spike is not None:
            sft_rows = self._sft_rows(shared, minibatch.number)
            raise UpdateError(spike, step=shared.number, rows=sorted(minibatch.rows), sft_rows=sft_rows)

    def _check_losses(self, shared: StepInputs, minibatch: _Minibatch, stats: dict[str, float]) -> None:
        """Statistics are the same on all ranks, so that all of them gather the rows at fault and raise, or none does."""
        checked = {name: stats[name] for name in minibatch.losses}
        if all(map(math.isfinite, checked.values())):
            return
        at_fault = [
            rows
            for rows, part in minibatch.passed
            if not bool(torch.isfinite(part["loss"]) & torch.isfinite(part["approxkl"]))
        ]
        rows = sorted(gather_object([row for rows in at_fault for row in rows]))
        if not rows and math.isfinite(checked.get("ptx_loss", 0.0)):
            rows = sorted(minibatch.rows)  # each part is finite, their sum is not
        raise NonFiniteError(
            ", ".join(f"{name} {value}" for name, value in checked.items()),
            step=shared.number,
            rows=rows,
            sft_rows=self._sft_rows(shared, minibatch.number),
        )

    def _sft_rows(self, shared: StepInputs, number: int) -> list[int]:
        if self.ptx is None or not shared.trains_policy:
            return []
        return sorted(self.ptx.chosen(shared.number, number))
