"""The optimizer's step on what a minibatch left: gradients clipped, and no step where a number says so.

The numbers are the device's. A host that reads them before it asks for the step waits for the passes, and then the device
for the host. So where it can, the device itself decides, and the host reads the numbers while the next passes run.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf.models.transfer import to_device
from rlhf.ppo.actor_critic import ROLES
from rlhf.ppo.schedule import hold_frozen_groups, parameters_of
from rlhf.ppo.sharding import clip, gradient_norm, passes_talk, step
from rlhf.ppo.spikes import GradientNorms
from rlhf.recipe.ppo import PPOSection


class Stepper:
    """Measures, clips and steps.

    Args:
        section: the recipe's `ppo`.
        accelerator: Accelerate's handle on the processes.
        model: the prepared actor-critic.
        optimizer: prepared; each parameter group has a `role`, policy or critic.

    Attributes:
        gradient_norms: of the updates made; part of a checkpoint.
        decides_on_device: whether `step_if` can be called: a fused optimizer, whole weights and one norm.
    """

    def __init__(
        self,
        section: PPOSection,
        *,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.section = section
        self.accelerator = accelerator
        self.model = model
        self.optimizer = optimizer
        self.gradient_norms = GradientNorms(section.spike_factor)
        self._clipped_together = {"policy": [each for each in model.parameters() if each.requires_grad]}
        if section.clip_gradients == "per_role":
            self._clipped_together = {role: parameters_of(optimizer, role) for role in ROLES}
        is_fused = all(group.get("fused") for group in optimizer.param_groups)
        self.decides_on_device = (
            is_fused and section.clip_gradients == "joint" and not passes_talk(accelerator)
        )

    def norms(self) -> dict[str, Tensor]:
        """Of the gradients over all ranks, before clipping: by role, or of all under the policy's name; 0-dim float32."""
        return {
            name: gradient_norm(self.accelerator, self.model, members)
            for name, members in self._clipped_together.items()
        }

    def step(self, norms: Mapping[str, float]) -> None:
        """Clip by these norms, which are good, and step; no gradient is left."""
        for name, members in self._clipped_together.items():
            clip(self.accelerator, members, norms[name], self.section.max_grad_norm)
        hold_frozen_groups(self.optimizer)
        step(self.accelerator, self.model, self.optimizer)

    def is_good(self, losses: Mapping[str, Tensor], norms: Mapping[str, Tensor]) -> Tensor:
        """Whether a step may be made, as a number of the device: 0-dim bool.

        Args:
            losses: what must be finite, and `approxkl` at most `target_kl`; 0-dim, on the device.
            norms: as `norms` gave them; finite, and no spike.
        """
        most = {name: math.inf for name in losses}
        if self.section.target_kl is not None:
            most["approxkl"] = self.section.target_kl
        limits = [*most.values(), *map(self.gradient_norms.limit, norms)]
        found = torch.stack([*losses.values(), *norms.values()]).double()
        bounds = to_device(torch.tensor(limits, dtype=torch.float64), found.device)
        return (torch.isfinite(found) & (found <= bounds)).all()

    def step_if(self, is_good: Tensor, norms: Mapping[str, Tensor]) -> None:
        """As `step`, or nothing at all, as the device decides; the host need not know.

        A fused AdamW divides gradients by one number and leaves out its step by another, as torch.amp.GradScaler asks.

        Args:
            is_good: 0-dim bool, on the device.
            norms: as `norms` gave them.
        """
        (norm,) = norms.values()
        hold_frozen_groups(self.optimizer)
        inner = cast(Any, getattr(self.optimizer, "optimizer", self.optimizer))  # within Accelerate's wrapper
        inner.grad_scale = ((norm.double() + 1e-6) / self.section.max_grad_norm).clamp(min=1.0).float()
        inner.found_inf = 1.0 - is_good.float()
        try:
            step(self.accelerator, self.model, self.optimizer)
        finally:
            del inner.grad_scale, inner.found_inf
