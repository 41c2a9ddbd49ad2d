"""Forward and backward passes over a minibatch's rows; where memory runs out on any rank, all are told to pass anew."""

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf.ppo.actor_critic import ROLES, Extent, Role, extent_of
from rlhf.ppo.episodes import Rollout
from rlhf.ppo.exchange import Exchange
from rlhf.ppo.micro_batches import MicroBatches, lengths_of, padded_tokens, require_divisible
from rlhf.ppo.objective import objective
from rlhf.ppo.schedule import parameters_of
from rlhf.ppo.sharding import announce, backward, drop_gradients, passes_talk
from rlhf.recipe.ppo import PPOSection


class Passed(list[tuple[list[int], dict[str, Tensor]]]):
    """Micro-batches, each with its statistics."""


@dataclass(frozen=True)
class StepInputs:
    """What all updates of a step share.

    Attributes:
        rollout: all ranks' rows.
        advantages: [B, T] float32, whitened.
        returns: [B, T] float32.
        number: of the step, from 0.
        kl_coef: the KL coefficient of now.
        trains_policy: False while only the critic trains.
    """

    rollout: Rollout
    advantages: Tensor
    returns: Tensor
    number: int
    kl_coef: float
    trains_policy: bool


class Passes:
    """Turns rows into gradients, summed over ranks.

    Args:
        section: the recipe's `ppo`.
        accelerator: Accelerate's handle on the processes.
        model: the prepared actor-critic.
        optimizer: prepared; each parameter group has a `role`, policy or critic.
        micro_batches: of all passes, so that what was found to fit is known to all.
    """

    def __init__(
        self,
        section: PPOSection,
        *,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        micro_batches: MicroBatches,
    ) -> None:
        self.section = section
        self.accelerator = accelerator
        self.model = model
        self.optimizer = optimizer
        self.micro_batches = micro_batches
        self._together = passes_talk(accelerator)
        self._exchanges: dict[tuple[Role, ...], Exchange] = {}
        if accelerator.num_processes > 1 and not self._together:
            for role in ROLES:
                self._exchanges[role,] = Exchange(parameters_of(optimizer, role))

    def of(self, shared: StepInputs, rows: list[int], num_tokens: int) -> Passed | None:
        """Each micro-batch of this rank with its statistics; None: memory ran out, and nothing is left of the passes.

        Where a pass talks to nobody one role passes after the other: only its activations are held then.
        """
        accelerator, lengths = self.accelerator, lengths_of(shared.rollout)
        passed = Passed((part, {}) for part in self.micro_batches.split(rows, lengths))
        failed: list[int] = []
        alone: list[tuple[Role, ...]] = [(role,) for role in ROLES]
        for roles in [ROLES] if self._together else alone:
            exchange = self._exchanges.get(roles)
            failed = failed or self._pass_each(shared, passed, lengths, num_tokens, roles, exchange)
            if failed:
                require_divisible(failed, lengths)
            if exchange is not None:  # also of what is dropped next: the others wait for it
                exchange.begin_rest()
        ran_out = not self._together and self._ran_out(failed, lengths)
        for exchange in self._exchanges.values():
            exchange.finish()
        if not ran_out:
            return passed
        drop_gradients(accelerator, self.model, self.optimizer)
        torch.cuda.empty_cache()
        return None

    def _pass_each(
        self,
        shared: StepInputs,
        passed: Passed,
        lengths: list[tuple[int, int]],
        num_tokens: int,
        roles: tuple[Role, ...],
        exchange: Exchange | None,
    ) -> list[int]:
        """Forward and backward of some roles; the micro-batch that did not fit, if any."""
        for place, (micro, stats) in enumerate(passed):
            last = place == len(passed) - 1
            announce(self.accelerator, self.model, last=last)
            if last and exchange is not None:
                exchange.begin_in_next_pass()
            part = self._pass(shared, micro, lengths, num_tokens, roles)
            if part is None:
                torch.cuda.empty_cache()
                return micro
            stats |= part | {"loss": stats.get("loss", 0.0) + part["loss"]}
        return []

    def _pass(
        self,
        shared: StepInputs,
        micro: list[int],
        lengths: list[tuple[int, int]],
        num_tokens: int,
        roles: tuple[Role, ...],
    ) -> dict[str, Tensor] | None:
        """Statistics of a micro-batch, whose gradients are added; None: it did not fit."""
        targets = {"advantages": shared.advantages, "returns": shared.returns}
        try:
            batch = shared.rollout.micro_batch(micro, self.accelerator.device, **targets)
            extent = extent_of([lengths[row] for row in micro])
            loss, part = self._loss(shared, batch, extent, num_tokens, roles)
            backward(self.accelerator, self.model, loss)
        except torch.OutOfMemoryError:
            if self._together:  # the others wait in that pass
                raise
            return None
        return part

    def _ran_out(self, failed: list[int], lengths: list[tuple[int, int]]) -> bool:
        """Whether memory ran out on any rank; micro-batches are cut finer then."""
        tokens = padded_tokens(failed, lengths) if failed else None
        return self.micro_batches.shrink(tokens, self.accelerator)

    def _loss(
        self,
        shared: StepInputs,
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
